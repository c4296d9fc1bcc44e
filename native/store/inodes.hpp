// Inodes in memory: 52 bytes each, so that a small file with a 64-character name costs at most 160 bytes in all
// (52 here, at most 80 for its name, 7 in the name index, 5 in its directory's list, 16 in the eviction policy).
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/arena.hpp"
#include "store/extents.hpp"
#include "store/packed.hpp"

namespace kvfs::store {

using InodeNumber = std::uint32_t;  // the on-disk field is 64 bits wide: namespaces will take the upper half
using NameId = std::uint32_t;

inline constexpr InodeNumber kRoot = 1;
inline constexpr std::uint32_t kLinkMax = 65000;  // as ext4

enum InodeFlags : std::uint32_t {
    kInUse = 1,
    kLogged = 2,  // the log knows this inode; unset for a new file whose data is not complete yet
    kInline = 4,  // the only extent sits in the inode
    kHasXattrs = 8,
    kHasSettings = 16,  // in Store::settings_
    kHasQuota = 32,     // in Store::quotas_
    kEvicted = 64,      // nameless since an eviction: nobody had it open, the kernel may still have its number
};

struct Directory {
    InodeNumber parent = kRoot;
    std::uint32_t subdirectories = 0;
    std::vector<NameId> children;
};

#pragma pack(push, 4)
struct Inode {
    std::int64_t modified_ns;    // its times: Inodes::times()
    std::uint32_t atime, ctime;  // TimeCode
    std::uint64_t checksum;      // of the inline extent
    union {
        std::uint64_t place;  // inline extent: segment, block << 32, blocks << 48
        ExtentMap* map;       // regular file with more than that; null when empty
        Directory* directory;
        std::string* target;  // symbolic link
        std::uint32_t next_free;
    };
    NameId name;                // one of its names; others are in Inodes::extra_names
    std::uint32_t owner_flags;  // interned (uid, gid) << 8 | InodeFlags
    Uint48 size;
    std::uint16_t references;  // that the kernel holds: Inodes::remember(), forget()
    std::uint16_t mode;
    std::uint16_t nlink;  // of non-directories

    [[nodiscard]] bool has(std::uint32_t flag) const { return (owner_flags & flag) != 0; }
    void set(std::uint32_t flag) { owner_flags |= flag; }
    void clear(std::uint32_t flag) { owner_flags &= ~flag; }
    [[nodiscard]] bool is_directory() const { return S_ISDIR(mode); }
    [[nodiscard]] bool is_regular() const { return S_ISREG(mode); }
    [[nodiscard]] bool is_symlink() const { return S_ISLNK(mode); }
    [[nodiscard]] std::uint32_t owner() const { return owner_flags >> 8; }
};
#pragma pack(pop)
static_assert(sizeof(Inode) == 52);

struct Times {
    std::int64_t atime_ns, mtime_ns, ctime_ns;
};

struct Owner {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    bool operator==(const Owner&) const = default;
};

using Xattrs = std::vector<std::pair<std::string, std::string>>;

// Guarded by the store's mutex, as is everything reached through it.
class Inodes {
public:
    Inodes();
    ~Inodes();
    Inodes(const Inodes&) = delete;
    Inodes& operator=(const Inodes&) = delete;

    // Null when there is no such inode.
    Inode* find(std::uint64_t ino);
    // 0 when the table is full.
    InodeNumber allocate(std::uint32_t mode, Owner owner);
    // The same for a number that recovery dictates; finds it when it exists. Null when out of range.
    Inode* claim(std::uint64_t ino, std::uint32_t mode);
    void release(InodeNumber ino);
    // After recovery: threads the unused numbers below the highest into the free list.
    void rebuild_free_list();
    [[nodiscard]] InodeNumber end() const { return end_; }
    [[nodiscard]] std::uint64_t count() const { return count_; }
    [[nodiscard]] std::uint64_t capacity() const { return reserved_.size() / sizeof(Inode); }

    [[nodiscard]] Owner owner(const Inode& inode) const { return owners_[inode.owner()]; }
    void set_owner(Inode& inode, Owner owner);

    [[nodiscard]] Times times(const Inode& inode) const;
    [[nodiscard]] std::int64_t atime(const Inode& inode) const;
    // All three to the nanosecond.
    void set_times(Inode& inode, const Times& times);
    // The others stay what they are, to the nanosecond.
    void set_mtime(Inode& inode, std::int64_t mtime_ns);
    // What the store's clock says; long after mtime that may be rounded down (TimeCode).
    void set_atime(Inode& inode, std::int64_t now_ns) { set(inode, &Inode::atime, atimes_, now_ns, false); }
    void set_ctime(Inode& inode, std::int64_t now_ns) { set(inode, &Inode::ctime, ctimes_, now_ns, false); }
    // What somebody else wants it to be.
    void set_exact_atime(Inode& inode, std::int64_t atime_ns) { set(inode, &Inode::atime, atimes_, atime_ns, true); }
    // Its bytes or names change now.
    void modified(Inode& inode, std::int64_t now_ns) {
        set_mtime(inode, now_ns);
        set_ctime(inode, now_ns);
    }

    // The kernel's references.
    void remember(Inode& inode, std::uint64_t count = 1);
    void forget(Inode& inode, std::uint64_t count);
    // A count that is large is in part elsewhere, and the part that is here is not 0 then.
    static bool is_referenced(const Inode& inode) { return inode.references != 0; }

    // extents of a regular file
    [[nodiscard]] std::uint64_t mapped_blocks(const Inode& inode) const;
    [[nodiscard]] std::size_t extent_count(const Inode& inode) const;
    std::vector<Piece> carve(Inode& inode, std::uint64_t from, std::uint64_t to);
    void insert(Inode& inode, std::uint64_t logical, Extent extent);
    void compact(Inode& inode);  // back into the inode where it fits
    template <typename Visit>
    void visit(const Inode& inode, std::uint64_t from, std::uint64_t to, Visit&& visit) const {
        if (inode.has(kInline)) {
            const Extent extent = inline_extent(inode);
            if (from < extent.blocks && to > 0) visit(std::uint64_t{0}, extent);
        } else if (inode.map != nullptr) {
            inode.map->visit(from, to, visit);
        }
    }
    // See ExtentMap; nothing when all has been seen.
    template <typename Visit>
    std::optional<std::uint64_t> visit_some(const Inode& inode, std::uint64_t from, std::size_t most,
                                            Visit&& visit) const {
        if (!inode.has(kInline)) return inode.map == nullptr ? std::nullopt : inode.map->visit_some(from, most, visit);
        const Extent extent = inline_extent(inode);
        if (from < extent.blocks) visit(std::uint64_t{0}, extent);
        return std::nullopt;
    }

    std::unordered_map<InodeNumber, Xattrs> xattrs;
    std::uint64_t xattr_bytes = 0;  // ever set since the mount and still there before it, at most: an upper bound
    std::unordered_map<InodeNumber, std::vector<NameId>> extra_names;

private:
    using ExactTimes = std::unordered_map<InodeNumber, std::int64_t>;
    using Code = std::uint32_t Inode::*;
    [[nodiscard]] std::int64_t time(const Inode& inode, Code code, const ExactTimes& elsewhere) const;
    void set(Inode& inode, Code code, ExactTimes& elsewhere, std::int64_t time_ns, bool exact);
    [[nodiscard]] InodeNumber number(const Inode& inode) const { return static_cast<InodeNumber>(&inode - table_); }
    static constexpr std::uint16_t kBatch = 1 << 15;
    static Extent inline_extent(const Inode& inode);
    void drop_body(Inode& inode);
    void drop_elsewhere(InodeNumber ino, const Inode& inode);
    std::uint32_t intern(Owner owner);

    Reserved reserved_;
    Inode* table_;
    InodeNumber end_ = 1;  // one past the highest number ever used; 0 is never used
    InodeNumber free_ = 0;
    std::uint64_t count_ = 0;
    std::vector<Owner> owners_;
    std::unordered_map<std::uint64_t, std::uint32_t> owner_index_;
    ExactTimes atimes_, ctimes_;                                      // those whose code is kElsewhere
    std::unordered_map<InodeNumber, std::uint64_t> more_references_;  // in batches of kBatch
};

}  // namespace kvfs::store
