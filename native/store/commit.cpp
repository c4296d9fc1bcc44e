// What the log is told of a file's data: the map of its blocks as it is now, as it was at the last commit, and the way
// from one to the other.
#include <algorithm>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kFullMapExtents = 64;  // files with more are logged by their changes
constexpr std::size_t kExtentsPerRecord = 64;

}  // namespace

// Ranges ------------------------------------------------------------------------

void Ranges::add(std::uint64_t from, std::uint64_t to) {
    if (from >= to) return;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second >= from) --it;
    while (it != ranges_.end() && it->first <= to) {
        from = std::min(from, it->first);
        to = std::max(to, it->second);
        it = ranges_.erase(it);
    }
    ranges_.emplace(from, to);
}

std::uint64_t Ranges::remove(std::uint64_t from, std::uint64_t to) {
    std::uint64_t removed = 0;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second > from) --it;
    while (it != ranges_.end() && it->first < to) {
        const auto [start, end] = *it;
        it = ranges_.erase(it);
        if (start < from) ranges_.emplace(start, from);
        if (end > to) ranges_.emplace(to, end);
        removed += std::min(end, to) - std::max(start, from);
    }
    return removed;
}

std::uint64_t Ranges::count(std::uint64_t from, std::uint64_t to) const {
    std::uint64_t total = 0;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second > from) --it;
    for (; it != ranges_.end() && it->first < to; ++it) total += std::min(it->second, to) - std::max(it->first, from);
    return total;
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> Ranges::missing(std::uint64_t from, std::uint64_t to) const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> out;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second > from) --it;
    for (; it != ranges_.end() && it->first < to; ++it) {
        if (it->first > from) out.emplace_back(from, it->first);
        from = std::max(from, it->second);
    }
    if (from < to) out.emplace_back(from, to);
    return out;
}

// the map ------------------------------------------------------------------------

// Takes [from, to) out of the present map. What the log refers to stays live in `replaced` until the next commit.
void Store::unmap(Inode& inode, File& file, std::uint64_t from, std::uint64_t to) {
    release_promise(file, from, to);
    for (const Piece& piece : inodes_.carve(inode, from, to)) {
        const std::uint64_t end = piece.logical + piece.extent.blocks;
        std::uint64_t committed = 0;
        if (inode.has(kLogged)) {
            for (const auto& [a, b] : file.changed.missing(piece.logical, end)) {
                file.replaced.insert(a, narrow(piece.extent, a - piece.logical, b - a));
                committed += b - a;
            }
        }
        const auto uncommitted = static_cast<std::uint32_t>(piece.extent.blocks - committed);
        if (uncommitted > 0) segments_.remove_live(piece.extent.segment, uncommitted, log_.appended());
        file.changed.add(piece.logical, end);
    }
}

// Writes an inode with its extents as one record, or as several when there are many; the first one carries `kind`.
static void log_extents(LogBuffer& out, format::InodeBody body, format::MapKind kind, std::uint64_t keep_blocks,
                        const std::vector<Piece>& pieces, const Segments& segments) {
    std::size_t done = 0;
    do {
        const std::size_t n = std::min(kExtentsPerRecord, pieces.size() - done);
        std::vector<format::ExtentView> views(n);
        for (std::size_t i = 0; i < n; ++i) {
            const auto& [logical, extent] = pieces[done + i];
            if (extent.segment == format::kHoleSegment) {
                views[i].body = {logical, 0, extent.segment, 0, extent.blocks, 0, 0, 0};
                continue;
            }
            views[i].body = {logical,           segments.at(extent.segment).generation,
                             extent.segment,    extent.block,
                             extent.blocks,     extent.skip,
                             extent.run_blocks, 0};
            views[i].checksums = extent.checksums;
        }
        body.map_kind = static_cast<std::uint32_t>(done == 0 ? kind : format::MapKind::kDelta);
        body.keep_blocks = done == 0 ? keep_blocks : ~std::uint64_t{0};
        out.writer().inode(body, views);
        done += n;
        // a map too large for one frame cannot be atomic; its name, if it is new, still comes last
        if (done < pieces.size() && done % (16 * kExtentsPerRecord) == 0) out.commit();
    } while (done < pieces.size());
}

static std::vector<Piece> pieces_of(const Inodes& inodes, const Inode& inode) {
    std::vector<Piece> out;
    inodes.visit(inode, 0, ~std::uint64_t{0}, [&](std::uint64_t logical, const Extent& extent) {
        out.push_back({logical, extent});
    });
    return out;
}

// Appends what makes the log know the file's present version. The data is complete; the mutex is held.
void Store::commit(File& file) {
    Inode* inode = inodes_.find(file.ino);
    file.dirty = false;
    file.settling = false;
    if (inode == nullptr || inode->nlink == 0) return;  // deleted meanwhile: the log has forgotten it already
    inodes_.compact(*inode);
    const format::InodeBody body = body_of(file.ino, *inode);
    const bool fresh = !inode->has(kLogged);
    if (fresh || inodes_.extent_count(*inode) <= kFullMapExtents) {
        log_extents(log_, body, format::MapKind::kFull, 0, pieces_of(inodes_, *inode), segments_);
    } else {
        std::vector<Piece> pieces;
        for (const auto& range : file.changed.all()) {
            const std::uint64_t from = range.first;
            const std::uint64_t to = range.second;
            std::uint64_t next = from;
            const auto hole_to = [&](std::uint64_t end) {
                // what lies at or after keep_blocks goes without being told
                end = std::min(end, file.keep_blocks);
                for (; next < end; next += pieces.back().extent.blocks) {
                    Extent hole;
                    hole.segment = format::kHoleSegment;
                    hole.blocks = static_cast<std::uint32_t>(std::min<std::uint64_t>(end - next, 1U << 31));
                    pieces.push_back({next, std::move(hole)});
                }
            };
            inodes_.visit(*inode, from, to, [&](std::uint64_t logical, const Extent& extent) {
                const std::uint64_t a = std::max(from, logical);
                const std::uint64_t b = std::min(to, logical + extent.blocks);
                hole_to(a);
                pieces.push_back({a, narrow(extent, a - logical, b - a)});
                next = b;
            });
            hole_to(to);
        }
        log_extents(log_, body, format::MapKind::kDelta, file.keep_blocks, pieces, segments_);
    }
    if (fresh) {
        inode->set(kLogged);
        if (inode->has(kHasXattrs)) {
            for (const auto& [name, value] : inodes_.xattrs[file.ino]) log_.writer().xattr_set(file.ino, name, value);
        }
        log_name(inode->name);
        if (const auto extra = inodes_.extra_names.find(file.ino); extra != inodes_.extra_names.end()) {
            for (const NameId id : extra->second) log_name(id);
        }
    }
    release_replaced(file, log_.commit());
    file.changed.clear();
    file.keep_blocks = ~std::uint64_t{0};
    file.committed_size = inode->size;
    note_there(file.ino, file.client);
}

// What is mapped is a version that the file has had: all of it has landed, and what waits in the tail has its old
// content mapped in its place. Then it may be committed without the file's lock, which whoever waits for space holds.
bool Store::is_presentable(const File& file, const Inode& inode) const {
    if (file.in_flight != 0 || file.error != 0) return false;
    if (!file.tail) return true;
    const std::uint64_t from = file.tail.start / format::kBlock;
    const std::uint64_t to = (file.tail.end + format::kBlock - 1) / format::kBlock;
    std::uint64_t mapped = 0;
    inodes_.visit(inode, from, to, [&](std::uint64_t logical, const Extent& extent) {
        mapped += std::min(to, logical + extent.blocks) - std::max(from, logical);
    });
    return mapped == to - from && (file.tail.end < inode.size || inode.size % format::kBlock == 0);
}

// Lets go of the space that versions replaced since the last commit hold. False when there is none, or when it cannot
// be done soon. The mutex is held.
bool Store::commit_replaced() {
    bool any = false;
    for (const auto& [ino, file] : files_) {
        if (!file->dirty || file->replaced.empty()) continue;
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr || inode->nlink == 0) continue;
        any = any || file->in_flight != 0;
        if (!is_presentable(*file, *inode)) continue;
        const bool has_tail = static_cast<bool>(file->tail);
        commit(*file);
        if (has_tail) mark_dirty(*file);
        any = true;
    }
    return any;
}

// The cleaner moved these committed blocks. The mutex is held; the caller ends the transaction.
void Store::log_moved(InodeNumber ino, const Inode& inode, const std::vector<Piece>& pieces) {
    if (pieces.empty()) return;
    log_extents(log_, body_of(ino, inode), format::MapKind::kDelta, ~std::uint64_t{0}, pieces, segments_);
}

// The committed version of an inode, for a checkpoint. The mutex is held.
void Store::serialise_committed(LogBuffer& out, InodeNumber ino) {
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr || !inode->has(kLogged) || inode->nlink == 0) return;
    const format::InodeBody body = body_of(ino, *inode);
    if (!inode->is_regular()) {
        out.writer().inode(body, {});
    } else {
        std::vector<Piece> pieces = pieces_of(inodes_, *inode);
        if (const auto file = find_file(ino); file && file->dirty) {
            std::vector<Piece> committed;
            for (const Piece& piece : pieces) {
                const std::uint64_t end = piece.logical + piece.extent.blocks;
                for (const auto& [a, b] : file->changed.missing(piece.logical, end)) {
                    committed.push_back({a, narrow(piece.extent, a - piece.logical, b - a)});
                }
            }
            for (const auto& [logical, extent] : file->replaced.all()) committed.push_back({logical, extent});
            pieces = std::move(committed);
        }
        log_extents(out, body, format::MapKind::kFull, 0, pieces, segments_);
    }
    if (inode->is_symlink()) out.writer().symlink(ino, *inode->target);
    if (inode->has(kHasXattrs)) {
        for (const auto& [name, value] : inodes_.xattrs[ino]) out.writer().xattr_set(ino, name, value);
    }
    if (ino != kRoot) {
        const Name& name = names_.at(inode->name);
        out.writer().name_set(name.parent, name.view(), ino);
        if (const auto extra = inodes_.extra_names.find(ino); extra != inodes_.extra_names.end()) {
            for (const NameId id : extra->second) {
                out.writer().name_set(names_.at(id).parent, names_.at(id).view(), ino);
            }
        }
    }
    out.commit();
}

// A write failed and the last handle is gone: the file is again what the log says, or gone if the log never knew it.
void Store::revert(File& file) {
    Inode* inode = inodes_.find(file.ino);
    discard_tail(file);
    if (inode == nullptr || inode->nlink == 0) return;
    if (!inode->has(kLogged)) {
        const Name& name = names_.at(inode->name);
        raise(DropEvent{name.parent, std::string(name.view())});
        while (inode->nlink > 0) lose_link(file.ino, inode->name, now_ns());
        file.dirty = false;
        return;
    }
    ++reverts_;
    for (const auto& [from, to] : file.changed.all()) {
        for (const Piece& piece : inodes_.carve(*inode, from, to)) {
            segments_.remove_live(piece.extent.segment, piece.extent.blocks, log_.appended());
        }
    }
    for (const auto& [logical, extent] : file.replaced.all()) inodes_.insert(*inode, logical, extent);
    file.replaced = ExtentMap{};
    file.changed.clear();
    file.keep_blocks = ~std::uint64_t{0};
    inode->size = file.committed_size;
    file.dirty = false;
    file.error = 0;
    file.is_lost = false;
}

}  // namespace kvfs::store
