#include "store/recovery.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/log_scan.hpp"
#include "store/plausible.hpp"
#include "store/store.hpp"

namespace kvfs::store {
void Recovery::problem(std::string text) {
    ++problem_count_;
    if (problems_.size() < 100) problems_.push_back(std::move(text));
}

bool Recovery::replay(std::vector<SegmentId>& visited) {
    bool ended = false;
    bool resumed = true;  // perhaps in the middle of a segment that was visited
    while (!ended) {
        if (position_.segment >= store_.sb_.segment_count) break;
        const auto id = static_cast<SegmentId>(position_.segment);
        if (std::find(visited.begin(), visited.end(), id) == visited.end()) {
            visited.push_back(id);
        } else if (!resumed) {
            break;  // a loop cannot be a log
        }
        resumed = false;
        SegmentReader reader(store_.io_, store_.sb_, id);
        jump_ = false;
        while (!jump_ && !ended && position_.offset + format::kBlock <= store_.sb_.segment_size) {
            const auto frame =
                read_frame(reader, {store_.sb_.uuid, position_.generation, position_.sequence, position_.offset});
            if (!frame) break;
            if (!format::read_records(frame->payload, *this)) {
                problem("log frame " + std::to_string(position_.sequence) + ": records cannot be parsed");
            }
            ++frames_;
            ++position_.sequence;
            position_.offset += format::frame_bytes(frame->header.payload_bytes);
            ended = (frame->header.flags & format::kCheckpointEnd) != 0;
        }
        if (!jump_) break;
        position_.segment = jump_to_.segment;
        position_.generation = jump_to_.generation;
        position_.offset = format::kBlock;
    }
    return ended;
}

void Recovery::run(bool is_doubtful) {
    const format::Superblock& sb = store_.sb_;
    store_.inodes_.claim(kRoot, S_IFDIR | 0755);
    if (sb.checkpoint_segment != format::kNoSegment) read_checkpoint();
    in_log_ = true;
    const std::uint64_t before = frames_;
    position_ = {sb.log_segment, sb.log_generation, sb.log_offset, sb.log_sequence};
    replay(store_.log_segments_);
    // closed in order, by a superblock that is the newest: there is nothing after the checkpoint
    if (is_doubtful || (sb.flags & format::kClean) == 0 || frames_ != before) judge_end_of_log();
    store_.log_position_ = position_;
    for (const auto* list : {&store_.checkpoint_segments_, &store_.log_segments_, &beyond_}) {
        for (const SegmentId id : *list) {
            if (store_.segments_.at(id).state == SegmentState::kMetadata) continue;
            store_.segments_.restore(id, store_.segments_.at(id).generation, SegmentState::kMetadata);
        }
    }
    if (!damage_.empty()) salvage();
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
    if (!damage_.empty()) return;
    if (cut_frames_ > 0) {
        store_.say(20, "the log ends at frame " + std::to_string(position_.sequence) + "; " +
                           std::to_string(cut_frames_) + " frames beyond it never became durable and are left out");
    } else if (is_torn_) {
        store_.say(20, "the log ends in frame " + std::to_string(position_.sequence) +
                           ", which was not written completely (or is damaged) and is left out");
    }
}

void Recovery::inode(const format::InodeBody& body, std::span<const format::ExtentView> extents) {
    if (!is_plausible_inode(body, store_.sb_)) {
        return problem("inode " + std::to_string(body.ino) + ": number, type or size out of range");
    }
    const Inode* known = store_.inodes_.find(body.ino);
    const bool is_new = known == nullptr || (known->mode & S_IFMT) != (body.mode & S_IFMT);
    Inode* inode = store_.inodes_.claim(body.ino, body.mode);
    if (inode == nullptr) return problem("inode " + std::to_string(body.ino) + ": number out of range");
    judge_completeness(body, is_new);
    newest_ns_ = std::max(newest_ns_, body.ctime_ns);
    inode->mode = static_cast<std::uint16_t>(body.mode);
    store_.inodes_.set_owner(*inode, {body.uid, body.gid});
    store_.inodes_.set_times(*inode, {body.atime_ns, body.mtime_ns, body.ctime_ns});
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
        // the record that opened the segment may be among what is lost
        if (lossy_ && store_.segments_.at(e.segment).generation < e.generation) {
            store_.segments_.restore(e.segment, e.generation, SegmentState::kSealed);
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
    if (ino == undescribed_) undescribed_ = 0;
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
    incomplete_.erase(static_cast<InodeNumber>(ino));
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
    if (Inode* inode = store_.inodes_.find(ino)) store_.inodes_.set_exact_atime(*inode, atime_ns);
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
        // where a part of the metadata is lost they are to be expected
        if (damage_.empty()) {
            problem("a name in directory " + std::to_string(store_.names_.at(id).parent) + " refers to nothing");
        }
        store_.names_.erase(id);
    }
    if (!damage_.empty() && !dangling.empty()) {
        damage("checkpoint", "names",
               std::to_string(dangling.size()) + " names refer to what is lost and are left out");
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
    const auto expect_superblock = [](int rc) {
        if (rc != 0) throw OpenError(-rc, std::string("cannot write the superblock: ") + std::strerror(-rc));
    };
    // a crash may have come just before the copy at the end: it must not be left behind by one more each time
    expect_superblock(s.write_superblock_copy(Store::kEndCopy));
    s.sb_.epoch = s.holding_.epoch;
    s.sb_.incompat |= format::kKnownIncompat;  // before the log can hold what an older build would misread
    s.sb_.flags &= ~static_cast<std::uint32_t>(format::kClean);
    s.sb_.compat &= ~std::uint64_t{format::kOwnedByHost};
    if (s.owner_.is_watched) {
        s.sb_.compat |= format::kOwnedByHost;
        s.sb_.host_uuid = s.holding_.host;
    } else if (getrandom(s.sb_.host_uuid.data(), s.sb_.host_uuid.size(), 0) !=
               static_cast<ssize_t>(s.sb_.host_uuid.size())) {
        s.sb_.host_uuid = s.sb_.uuid;
    }
    const std::size_t owner_bytes = std::min(owner.size(), format::kOwnerMax);
    std::memset(s.sb_.owner, 0, sizeof s.sb_.owner);
    std::memcpy(s.sb_.owner, owner.data(), owner_bytes);
    s.sb_.owner_bytes = static_cast<std::uint32_t>(owner_bytes);
    // the epoch goes first: the generations made from it must never be made again
    expect_superblock(s.write_superblock());

    const auto fresh = s.segments_.take_for_metadata();
    if (!fresh) throw OpenError(ENOSPC, "no free segment for the log");
    const std::uint64_t generation = s.segments_.at(*fresh).generation;
    int rc = s.write_segment_header(*fresh, format::SegmentClass::kLog);
    if (rc != 0) throw OpenError(-rc, std::string("cannot start a log: ") + std::strerror(-rc));
    if (!damage_.empty()) return start_over(*fresh, generation);

    // a frame at the old log's end points to a segment of this mount; what a crash left behind that end is cut off
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
    // the superblock was flushed, and all frames before it with it
    format::write_frame({s.sb_.uuid, at.generation, at.sequence, at.offset, 1}, writer.bytes(), writer.count(), 0,
                        {block.data(), format::kBlock});
    const std::uint64_t offset = s.device_offset(static_cast<SegmentId>(at.segment), 0) + at.offset;
    if (s.io_.write(block.data(), format::kBlock, offset) != static_cast<ssize_t>(format::kBlock)) rc = -errno;
    if (rc == 0 && s.io_.sync() != 0) rc = -errno;
    if (rc != 0) throw OpenError(-rc, std::string("cannot start a log: ") + std::strerror(-rc));
    s.log_position_ = {*fresh, generation, format::kBlock, at.sequence + 1};
    s.log_flushed_ = at.sequence + 1;
    s.log_segments_.push_back(*fresh);

    Inode& root = *s.inodes_.find(kRoot);
    if (!root.has(kLogged)) {  // a new volume: its root belongs to whoever mounts it first
        const std::int64_t now = s.now_ns();
        s.inodes_.set_times(root, {now, now, now});
        s.inodes_.set_owner(root, {geteuid(), getegid()});
        root.set(kLogged);
        s.log_attributes(kRoot);
        s.log_.commit();
    }
}

}  // namespace kvfs::store
