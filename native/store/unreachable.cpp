// What recovery lets go of once all names are attached: files that it could not put together, and directories to which
// no path leads. kvfs writes neither; a volume that was tampered with, or damaged in a way that checksums do not show,
// may hold both.
#include <utility>

#include "store/recovery.hpp"
#include "store/store.hpp"

namespace kvfs::store {

// Out of the inode's names and out of the index; the list of the directory that it was in is the caller's.
void Recovery::drop_name(NameId id) {
    const InodeNumber ino = store_.names_.at(id).ino;
    Inode& inode = *store_.inodes_.find(ino);
    if (inode.is_directory()) {
        inode.nlink = 0;
    } else {
        --inode.nlink;
        const auto extra = store_.inodes_.extra_names.find(ino);
        if (extra != store_.inodes_.extra_names.end()) {
            auto& list = extra->second;
            if (inode.name == id) {
                inode.name = list.back();
                list.pop_back();
            } else {
                std::erase(list, id);
            }
            if (list.empty()) store_.inodes_.extra_names.erase(extra);
        }
    }
    store_.names_.erase(id);
}

// A file with a piece missing is no file: a clean miss, not zeros in place of what it held.
void Recovery::drop_damaged() {
    for (InodeNumber ino = kRoot; ino < store_.inodes_.end(); ++ino) {
        const Inode* inode = store_.inodes_.find(ino);
        if (inode == nullptr) continue;
        if (inode->is_symlink() && inode->target == nullptr) {
            damaged_.insert(ino);
            problem("inode " + std::to_string(ino) + ": a link without what it leads to");
        }
        if (!inode->is_regular()) continue;
        store_.inodes_.visit(*inode, 0, ~std::uint64_t{0}, [&](std::uint64_t, const Extent& extent) {
            if (store_.segments_.at(extent.segment).state != SegmentState::kMetadata) return;
            if (damaged_.insert(ino).second) {
                problem("inode " + std::to_string(ino) + ": an extent lies in the log's segment " +
                        std::to_string(extent.segment));
            }
        });
    }
    if (damaged_.empty()) return;
    std::vector<NameId> names;
    store_.names_.for_each([&](NameId id) {
        if (damaged_.contains(store_.names_.at(id).ino)) names.push_back(id);
    });
    for (const NameId id : names) {
        auto& children = store_.inodes_.find(store_.names_.at(id).parent)->directory->children;
        const std::uint32_t position = store_.names_.at(id).position;
        children[position] = children.back();
        store_.names_.at(children[position]).position = position;
        children.pop_back();
        drop_name(id);
    }
}

// Walks up from every directory until it meets the root, a directory whose case is known, or its own tracks.
void Recovery::drop_unreachable() {
    enum : std::uint8_t { kUnknown, kOnTheWay, kReachable, kLost };
    std::vector<std::uint8_t> state(store_.inodes_.end(), kUnknown);
    state[kRoot] = kReachable;
    std::vector<InodeNumber> way;
    std::vector<InodeNumber> lost;
    for (InodeNumber ino = kRoot; ino < store_.inodes_.end(); ++ino) {
        way.clear();
        InodeNumber at = ino;
        const Inode* inode = store_.inodes_.find(at);
        if (inode == nullptr || !inode->is_directory()) continue;
        while (state[at] == kUnknown) {
            state[at] = kOnTheWay;
            way.push_back(at);
            inode = store_.inodes_.find(at);
            if (inode->nlink == 0) break;
            at = inode->directory->parent;
        }
        const auto verdict = state[at] == kReachable ? kReachable : kLost;
        for (const InodeNumber passed : way) state[passed] = verdict;
        if (verdict == kLost) lost.insert(lost.end(), way.begin(), way.end());
    }
    for (const InodeNumber ino : lost) {
        if (store_.inodes_.find(ino)->nlink != 0) problem("directory " + std::to_string(ino) + " cannot be reached");
        const auto children = std::exchange(store_.inodes_.find(ino)->directory->children, {});
        for (const NameId id : children) drop_name(id);
        store_.inodes_.find(ino)->directory->subdirectories = 0;
    }
}

}  // namespace kvfs::store
