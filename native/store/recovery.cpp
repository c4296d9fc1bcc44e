#include "store/recovery.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/plausible.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kReadAhead = std::size_t{4} << 20;

// A forward-moving window over one segment, read with few large requests.
class SegmentReader {
public:
    SegmentReader(const uring::PlainIo& io, std::uint64_t base, std::uint64_t size)
        : io_(io), base_(base), size_(size), buffer_(Buffer::heap(kReadAhead)) {}

    // At least `bytes` from `offset` on, fewer at the segment's end; empty on an I/O error.
    std::span<const std::byte> at(std::uint64_t offset, std::uint64_t bytes) {
        bytes = std::min(bytes, size_ - offset);
        if (offset >= start_ && offset + bytes <= start_ + length_) {
            return {buffer_.data() + (offset - start_), start_ + length_ - offset};
        }
        const std::uint64_t wanted = std::min(std::max<std::uint64_t>(bytes, kReadAhead), size_ - offset);
        if (wanted > buffer_.size()) buffer_ = Buffer::heap(wanted);
        length_ = 0;
        start_ = offset;
        while (length_ < wanted) {
            const ssize_t got = io_.read(buffer_.data() + length_, wanted - length_, base_ + offset + length_);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) break;
            length_ += static_cast<std::uint64_t>(got);
        }
        return {buffer_.data(), length_};
    }

private:
    const uring::PlainIo& io_;
    std::uint64_t base_;
    std::uint64_t size_;
    Buffer buffer_;
    std::uint64_t start_ = 0;
    std::uint64_t length_ = 0;
};

}  // namespace

void Recovery::problem(std::string text) {
    ++problem_count_;
    if (problems_.size() < 100) problems_.push_back(std::move(text));
}

bool Recovery::replay(std::vector<SegmentId>& visited) {
    bool ended = false;
    while (!ended) {
        if (position_.segment >= store_.sb_.segment_count) break;
        const auto id = static_cast<SegmentId>(position_.segment);
        if (std::find(visited.begin(), visited.end(), id) != visited.end()) break;  // a loop cannot be a log
        visited.push_back(id);
        SegmentReader reader(store_.io_, store_.device_offset(id, 0), store_.sb_.segment_size);
        jump_ = false;
        while (!jump_ && !ended && position_.offset + format::kBlock <= store_.sb_.segment_size) {
            const format::FramePlace place{store_.sb_.uuid, position_.generation, position_.sequence, position_.offset};
            std::uint64_t needs = 0;
            auto data = reader.at(position_.offset, format::kBlock);
            auto header = format::parse_frame(place, data, &needs);
            if (!header && needs > data.size()) {
                data = reader.at(position_.offset, needs);
                header = format::parse_frame(place, data, &needs);
            }
            if (!header) break;
            if (!format::read_records(data.subspan(sizeof(format::FrameHeader), header->payload_bytes), *this)) {
                problem("log frame " + std::to_string(position_.sequence) + ": records cannot be parsed");
            }
            ++frames_;
            ++position_.sequence;
            position_.offset += format::frame_bytes(header->payload_bytes);
            ended = (header->flags & format::kCheckpointEnd) != 0;
        }
        if (!jump_) break;
        position_.segment = jump_to_.segment;
        position_.generation = jump_to_.generation;
        position_.offset = format::kBlock;
    }
    return ended;
}

void Recovery::run() {
    const format::Superblock& sb = store_.sb_;
    store_.inodes_.claim(kRoot, S_IFDIR | 0755);
    if (sb.checkpoint_segment != format::kNoSegment) {
        position_ = {sb.checkpoint_segment, sb.checkpoint_generation, format::kBlock, 1};
        if (!replay(store_.checkpoint_segments_)) {
            throw OpenError(EUCLEAN, "the checkpoint in segment " + std::to_string(sb.checkpoint_segment) +
                                         " is damaged: expected its last frame after frame " +
                                         std::to_string(position_.sequence - 1) + ", found none; run kvfsctl fsck");
        }
    }
    position_ = {sb.log_segment, sb.log_generation, sb.log_offset, sb.log_sequence};
    replay(store_.log_segments_);
    store_.log_position_ = position_;
    for (const auto* list : {&store_.checkpoint_segments_, &store_.log_segments_}) {
        for (const SegmentId id : *list) {
            store_.segments_.restore(id, store_.segments_.at(id).generation, SegmentState::kMetadata);
        }
    }
    attach_names();
    drop_damaged();
    drop_unreachable();
    drop_nameless();
    count_live();
    store_.segments_.rebuild_after_recovery();
    store_.inodes_.rebuild_free_list();
    store_.load_settings();
    if (problem_count_ > 0) {
        store_.say(40, "recovery left out " + std::to_string(problem_count_) +
                           " damaged entries; first: " + problems_.front());
    }
}

void Recovery::inode(const format::InodeBody& body, std::span<const format::ExtentView> extents) {
    if (!is_plausible_inode(body, store_.sb_)) {
        return problem("inode " + std::to_string(body.ino) + ": number, type or size out of range");
    }
    Inode* inode = store_.inodes_.claim(body.ino, body.mode);
    if (inode == nullptr) return problem("inode " + std::to_string(body.ino) + ": number out of range");
    inode->mode = static_cast<std::uint16_t>(body.mode);
    store_.inodes_.set_owner(*inode, {body.uid, body.gid});
    inode->atime_ns = body.atime_ns;
    inode->mtime_ns = body.mtime_ns;
    inode->ctime_ns = body.ctime_ns;
    inode->set(kLogged);
    if (!inode->is_regular()) return;
    inode->size = body.size;
    const auto kind = static_cast<format::MapKind>(body.map_kind);
    if (kind == format::MapKind::kNone) return;
    if (kind == format::MapKind::kFull) damaged_.erase(static_cast<InodeNumber>(body.ino));
    store_.inodes_.carve(*inode, kind == format::MapKind::kFull ? 0 : body.keep_blocks, ~std::uint64_t{0});
    for (const auto& view : extents) {
        const format::ExtentBody& e = view.body;
        if (!is_plausible_extent(e, store_.sb_)) {
            problem("inode " + std::to_string(body.ino) + ": an extent lies outside the volume");
            damaged_.insert(static_cast<InodeNumber>(body.ino));  // a hole in its place would read as zeros
            continue;
        }
        if (e.segment == format::kHoleSegment) {
            store_.inodes_.carve(*inode, e.logical, e.logical + e.blocks);
            continue;
        }
        Extent extent;
        extent.segment = e.segment;
        extent.block = e.block;
        extent.blocks = e.blocks;
        extent.skip = e.skip;
        extent.run_blocks = e.run_blocks;
        extent.checksums.assign(view.checksums.begin(), view.checksums.end());
        store_.inodes_.carve(*inode, e.logical, e.logical + e.blocks);
        store_.inodes_.insert(*inode, e.logical, std::move(extent));
    }
    store_.inodes_.compact(*inode);
}

void Recovery::inode_delete(std::uint64_t ino) {
    if (ino == kRoot || store_.inodes_.find(ino) == nullptr) return;
    store_.inodes_.release(static_cast<InodeNumber>(ino));
    damaged_.erase(static_cast<InodeNumber>(ino));
}

void Recovery::name_set(std::uint64_t parent, std::string_view name, std::uint64_t ino) {
    if (!is_plausible_name(name) || !is_plausible_number(parent, store_.sb_) || !is_plausible_number(ino, store_.sb_)) {
        return problem("a name in directory " + std::to_string(parent) + " cannot be one");
    }
    const auto in = static_cast<InodeNumber>(parent);
    const NameId id = store_.names_.find(in, name);
    if (id != 0) {
        store_.names_.at(id).ino = static_cast<InodeNumber>(ino);
    } else if (store_.names_.insert(in, name, static_cast<InodeNumber>(ino)) == 0) {
        throw OpenError(ENOMEM, "not enough address space for the names of this volume");
    }
}

void Recovery::name_delete(std::uint64_t parent, std::string_view name) {
    if (!is_plausible_number(parent, store_.sb_)) return;
    const NameId id = store_.names_.find(static_cast<InodeNumber>(parent), name);
    if (id != 0) store_.names_.erase(id);
}

void Recovery::xattr_set(std::uint64_t ino, std::string_view name, std::string_view value) {
    Inode* inode = store_.inodes_.find(ino);
    if (inode == nullptr) return;
    inode->set(kHasXattrs);
    store_.inodes_.xattr_bytes += name.size() + value.size() + 24;
    auto& list = store_.inodes_.xattrs[static_cast<InodeNumber>(ino)];
    for (auto& [key, old] : list) {
        if (key == name) {
            old = value;
            return;
        }
    }
    list.emplace_back(name, value);
}

void Recovery::xattr_delete(std::uint64_t ino, std::string_view name) {
    const auto it = store_.inodes_.xattrs.find(static_cast<InodeNumber>(ino));
    if (it == store_.inodes_.xattrs.end()) return;
    std::erase_if(it->second, [&](const auto& pair) { return pair.first == name; });
}

void Recovery::symlink(std::uint64_t ino, std::string_view target) {
    Inode* inode = store_.inodes_.find(ino);
    if (inode == nullptr || !inode->is_symlink()) return;
    if (!is_plausible_target(target)) {
        return problem("inode " + std::to_string(ino) + ": its link leads to no path");
    }
    delete inode->target;
    inode->target = new std::string(target);
    inode->size = target.size();
}

void Recovery::segment_open(const format::SegmentOpenBody& body) {
    if (body.segment >= store_.sb_.segment_count) return problem("a segment number lies outside the volume");
    store_.segments_.restore(static_cast<SegmentId>(body.segment), body.generation, SegmentState::kSealed);
}

void Recovery::next(std::uint64_t segment, std::uint64_t generation) {
    jump_ = true;
    jump_to_.segment = segment;
    jump_to_.generation = generation;
}

void Recovery::atime(std::uint64_t ino, std::int64_t atime_ns) {
    if (Inode* inode = store_.inodes_.find(ino)) inode->atime_ns = atime_ns;
}

void Recovery::attach_names() {
    std::vector<NameId> dangling;
    store_.names_.for_each([&](NameId id) {
        Name& name = store_.names_.at(id);
        Inode* parent = store_.inodes_.find(name.parent);
        Inode* inode = store_.inodes_.find(name.ino);
        if (parent == nullptr || !parent->is_directory() || inode == nullptr || name.ino == kRoot ||
            (inode->is_directory() ? inode->nlink != 0 : inode->nlink >= kLinkMax)) {
            dangling.push_back(id);
            return;
        }
        auto& children = parent->directory->children;
        name.position = static_cast<std::uint32_t>(children.size());
        children.push_back(id);
        if (inode->is_directory()) {
            inode->directory->parent = name.parent;
            ++parent->directory->subdirectories;
            inode->nlink = 1;
            inode->name = id;
        } else if (inode->nlink++ == 0) {
            inode->name = id;
        } else {
            store_.inodes_.extra_names[name.ino].push_back(id);
        }
    });
    for (const NameId id : dangling) {
        problem("a name in directory " + std::to_string(store_.names_.at(id).parent) + " refers to nothing");
        store_.names_.erase(id);
    }
    store_.inodes_.find(kRoot)->nlink = 1;
}

void Recovery::drop_nameless() {
    for (InodeNumber ino = kRoot + 1; ino < store_.inodes_.end(); ++ino) {
        const Inode* inode = store_.inodes_.find(ino);
        if (inode == nullptr || inode->nlink != 0) continue;
        store_.inodes_.release(ino);  // its name was to follow in a later frame (see log_extents)
    }
}

void Recovery::count_live() {
    for (InodeNumber ino = kRoot; ino < store_.inodes_.end(); ++ino) {
        const Inode* inode = store_.inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular()) continue;
        store_.inodes_.visit(*inode, 0, ~std::uint64_t{0}, [&](std::uint64_t, const Extent& extent) {
            store_.segments_.add_live(extent.segment, extent.blocks);
        });
    }
}

void Recovery::take_over(const std::string& owner) {
    Store& s = store_;
    ++s.sb_.epoch;
    s.sb_.incompat |= format::kKnownIncompat;  // before the log can hold what an older build would misread
    s.sb_.flags &= ~static_cast<std::uint32_t>(format::kClean);
    if (getrandom(s.sb_.host_uuid.data(), s.sb_.host_uuid.size(), 0) != static_cast<ssize_t>(s.sb_.host_uuid.size())) {
        s.sb_.host_uuid = s.sb_.uuid;
    }
    const std::size_t owner_bytes = std::min(owner.size(), format::kOwnerMax);
    std::memset(s.sb_.owner, 0, sizeof s.sb_.owner);
    std::memcpy(s.sb_.owner, owner.data(), owner_bytes);
    s.sb_.owner_bytes = static_cast<std::uint32_t>(owner_bytes);
    // the epoch goes first: the generations made from it must never be made again
    int rc = s.write_superblock();
    if (rc != 0) throw OpenError(-rc, std::string("cannot write the superblock: ") + std::strerror(-rc));

    // a frame at the old log's end points to a segment of this mount; what a crash left behind that end is cut off
    const auto fresh = s.segments_.take_for_metadata();
    if (!fresh) throw OpenError(ENOSPC, "no free segment for the log");
    const std::uint64_t generation = s.segments_.at(*fresh).generation;
    rc = s.write_segment_header(*fresh, format::SegmentClass::kLog);
    format::RecordWriter writer;
    writer.segment_open({*fresh, generation, static_cast<std::uint32_t>(format::SegmentClass::kLog), 0});
    writer.next(*fresh, generation);
    Buffer block = Buffer::heap(format::kBlock);
    const LogPosition at = s.log_position_;
    if (at.segment >= s.sb_.segment_count || at.offset + format::kBlock > s.sb_.segment_size ||
        s.segments_.at(static_cast<SegmentId>(at.segment)).live != 0) {
        throw OpenError(EUCLEAN, "the log goes on in segment " + std::to_string(at.segment) + " at byte " +
                                     std::to_string(at.offset) +
                                     ": expected room that is the log's own; run kvfsctl fsck");
    }
    format::write_frame({s.sb_.uuid, at.generation, at.sequence, at.offset}, writer.bytes(), writer.count(), 0,
                        {block.data(), format::kBlock});
    const std::uint64_t offset = s.device_offset(static_cast<SegmentId>(at.segment), 0) + at.offset;
    if (rc == 0 && s.io_.write(block.data(), format::kBlock, offset) != static_cast<ssize_t>(format::kBlock))
        rc = -errno;
    if (rc == 0 && s.io_.sync() != 0) rc = -errno;
    if (rc != 0) throw OpenError(-rc, std::string("cannot start a log: ") + std::strerror(-rc));
    s.log_position_ = {*fresh, generation, format::kBlock, at.sequence + 1};
    s.log_segments_.push_back(*fresh);

    Inode& root = *s.inodes_.find(kRoot);
    if (!root.has(kLogged)) {  // a new volume: its root belongs to whoever mounts it first
        root.atime_ns = root.mtime_ns = root.ctime_ns = s.now_ns();
        s.inodes_.set_owner(root, {geteuid(), getegid()});
        root.set(kLogged);
        s.log_attributes(kRoot);
        s.log_.commit();
    }
}

}  // namespace kvfs::store
