#include "store/inodes.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

namespace kvfs::store {
namespace {

constexpr std::size_t kReserve = std::size_t{64} << 30;  // of address space: a thousand million inodes

}  // namespace

Inodes::Inodes() : reserved_(kReserve), table_(reinterpret_cast<Inode*>(reserved_.base())) { intern({0, 0}); }

Inodes::~Inodes() {
    for (InodeNumber ino = 1; ino < end_; ++ino) {
        if (table_[ino].has(kInUse)) drop_body(table_[ino]);
    }
}

Inode* Inodes::find(std::uint64_t ino) {
    if (ino == 0 || ino >= end_ || !table_[ino].has(kInUse)) return nullptr;
    return &table_[ino];
}

InodeNumber Inodes::allocate(std::uint32_t mode, Owner owner) {
    InodeNumber ino = free_;
    if (ino != 0) {
        free_ = table_[ino].next_free;
    } else {
        if (end_ >= capacity()) return 0;
        ino = end_++;
    }
    Inode& inode = table_[ino];
    std::memset(static_cast<void*>(&inode), 0, sizeof inode);
    inode.mode = static_cast<std::uint16_t>(mode);
    inode.owner_flags = intern(owner) << 8 | kInUse;
    if (inode.is_directory()) inode.directory = new Directory;
    ++count_;
    return ino;
}

Inode* Inodes::claim(std::uint64_t ino, std::uint32_t mode) {
    if (ino == 0 || ino >= capacity()) return nullptr;
    if (ino >= end_) end_ = static_cast<InodeNumber>(ino + 1);  // the gap stays zero: not in use
    Inode& inode = table_[ino];
    if (inode.has(kInUse)) {
        if ((inode.mode & S_IFMT) == (mode & S_IFMT)) return &inode;
        drop_body(inode);  // the number was used again for something else
        drop_elsewhere(static_cast<InodeNumber>(ino), inode);
        --count_;
    }
    std::memset(static_cast<void*>(&inode), 0, sizeof inode);
    inode.mode = static_cast<std::uint16_t>(mode);
    inode.owner_flags = kInUse;
    if (inode.is_directory()) inode.directory = new Directory;
    ++count_;
    return &inode;
}

void Inodes::release(InodeNumber ino) {
    Inode& inode = table_[ino];
    drop_body(inode);
    xattrs.erase(ino);
    extra_names.erase(ino);
    drop_elsewhere(ino, inode);
    std::memset(static_cast<void*>(&inode), 0, sizeof inode);
    inode.next_free = free_;
    free_ = ino;
    --count_;
}

void Inodes::rebuild_free_list() {
    free_ = 0;
    for (InodeNumber ino = end_; ino-- > 1;) {
        if (table_[ino].has(kInUse)) continue;
        table_[ino].next_free = free_;
        free_ = ino;
    }
}

void Inodes::drop_body(Inode& inode) {
    if (inode.is_directory()) {
        delete inode.directory;
    } else if (inode.is_symlink()) {
        delete inode.target;
    } else if (inode.is_regular() && !inode.has(kInline)) {
        delete inode.map;
    }
    inode.place = 0;
}

std::uint32_t Inodes::intern(Owner owner) {
    const std::uint64_t key = std::uint64_t{owner.uid} << 32 | owner.gid;
    const auto [it, fresh] = owner_index_.try_emplace(key, static_cast<std::uint32_t>(owners_.size()));
    // 24 bits of owners: only a chown to 16 million different pairs gets there, and it then reads as root's
    if (fresh && owners_.size() >= (1U << 24)) {
        owner_index_.erase(it);
        return 0;
    }
    if (fresh) owners_.push_back(owner);
    return it->second;
}

void Inodes::set_owner(Inode& inode, Owner owner) {
    inode.owner_flags = (inode.owner_flags & 0xff) | intern(owner) << 8;
}

// times -----------------------------------------------------------------------------------------

std::int64_t Inodes::time(const Inode& inode, Code code, const ExactTimes& elsewhere) const {
    if (inode.*code == TimeCode::kElsewhere) return elsewhere.at(number(inode));
    return TimeCode::decode(inode.*code, inode.modified_ns);
}

std::int64_t Inodes::atime(const Inode& inode) const { return time(inode, &Inode::atime, atimes_); }

Times Inodes::times(const Inode& inode) const {
    return {atime(inode), inode.modified_ns, time(inode, &Inode::ctime, ctimes_)};
}

void Inodes::set(Inode& inode, Code code, ExactTimes& elsewhere, std::int64_t time_ns, bool exact) {
    const auto packed = TimeCode::of(time_ns, inode.modified_ns, exact);
    if (packed) {
        if (inode.*code == TimeCode::kElsewhere) elsewhere.erase(number(inode));
        inode.*code = *packed;
    } else {
        elsewhere[number(inode)] = time_ns;
        inode.*code = TimeCode::kElsewhere;
    }
}

void Inodes::set_times(Inode& inode, const Times& times) {
    inode.modified_ns = times.mtime_ns;
    set(inode, &Inode::atime, atimes_, times.atime_ns, true);
    set(inode, &Inode::ctime, ctimes_, times.ctime_ns, true);
}

void Inodes::set_mtime(Inode& inode, std::int64_t mtime_ns) {
    const Times now = times(inode);
    set_times(inode, {now.atime_ns, mtime_ns, now.ctime_ns});
}

void Inodes::drop_elsewhere(InodeNumber ino, const Inode& inode) {
    if (inode.atime == TimeCode::kElsewhere) atimes_.erase(ino);
    if (inode.ctime == TimeCode::kElsewhere) ctimes_.erase(ino);
    if (!more_references_.empty()) more_references_.erase(ino);
}

// references --------------------------------------------------------------------------------------

void Inodes::remember(Inode& inode, std::uint64_t count) {
    const std::uint64_t here = inode.references + count;
    if (here >= 2 * kBatch) {
        const std::uint64_t batches = here / kBatch - 1;  // at least one batch stays here: never 0 while there are more
        more_references_[number(inode)] += batches;
        inode.references = static_cast<std::uint16_t>(here - batches * kBatch);
    } else {
        inode.references = static_cast<std::uint16_t>(here);
    }
}

void Inodes::forget(Inode& inode, std::uint64_t count) {
    std::uint64_t here = inode.references;
    if (here >= kBatch) {  // only then there may be more
        const auto more = more_references_.find(number(inode));
        if (more != more_references_.end()) {
            here += more->second * kBatch;
            more_references_.erase(more);
        }
    }
    inode.references = 0;
    remember(inode, here - std::min(count, here));
}

Extent Inodes::inline_extent(const Inode& inode) {
    Extent extent;
    extent.segment = static_cast<std::uint32_t>(inode.place);
    extent.block = static_cast<std::uint32_t>(inode.place >> 32 & 0xffff);
    extent.blocks = static_cast<std::uint32_t>(inode.place >> 48);
    extent.run_blocks = extent.blocks;
    extent.checksums = {inode.checksum};
    return extent;
}

std::uint64_t Inodes::mapped_blocks(const Inode& inode) const {
    if (!inode.is_regular()) return 0;
    if (inode.has(kInline)) return inode.place >> 48;
    return inode.map == nullptr ? 0 : inode.map->blocks();
}

std::size_t Inodes::extent_count(const Inode& inode) const {
    if (inode.has(kInline)) return 1;
    return inode.map == nullptr ? 0 : inode.map->count();
}

std::vector<Piece> Inodes::carve(Inode& inode, std::uint64_t from, std::uint64_t to) {
    if (inode.has(kInline)) {
        Extent extent = inline_extent(inode);
        if (from >= extent.blocks || from >= to) return {};
        inode.clear(kInline);
        inode.map = nullptr;
        if (from == 0 && to >= extent.blocks) {
            std::vector<Piece> all;
            all.push_back({0, std::move(extent)});
            return all;
        }
        inode.map = new ExtentMap;
        inode.map->insert(0, std::move(extent));
    }
    if (inode.map == nullptr) return {};
    auto removed = inode.map->carve(from, to);
    if (inode.map->empty()) {
        delete inode.map;
        inode.map = nullptr;
    }
    return removed;
}

void Inodes::insert(Inode& inode, std::uint64_t logical, Extent extent) {
    if (inode.has(kInline)) {
        Extent first = inline_extent(inode);
        inode.clear(kInline);
        inode.map = new ExtentMap;
        inode.map->insert(0, std::move(first));
    }
    if (inode.map == nullptr) inode.map = new ExtentMap;
    inode.map->insert(logical, std::move(extent));
}

void Inodes::compact(Inode& inode) {
    if (!inode.is_regular() || inode.has(kInline) || inode.map == nullptr || inode.map->count() != 1) return;
    const auto& [logical, extent] = *inode.map->all().begin();
    if (logical != 0 || extent.skip != 0 || extent.blocks != extent.run_blocks ||
        extent.blocks > format::kGranuleBlocks || extent.block > 0xffff) {
        return;
    }
    const std::uint64_t place =
        std::uint64_t{extent.segment} | std::uint64_t{extent.block} << 32 | std::uint64_t{extent.blocks} << 48;
    inode.checksum = extent.checksums[0];
    delete inode.map;
    inode.place = place;
    inode.set(kInline);
}

}  // namespace kvfs::store
