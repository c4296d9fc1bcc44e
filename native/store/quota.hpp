// Quotas of directories: how much lies below one, and how much may.
//
// What counts: blocks as st_blocks has them (mapped, or written and not placed yet, or set aside by fallocate) and
// inodes of every kind, of everything below the directory, itself left out. So `du` and a quota say the same, as for
// project quotas of ext4 and xfs. A file counts for every directory with a quota above it. One with several names
// counts by its first; link() and rename() of such a file from one set of quotas into another are refused with EXDEV,
// so the names can differ in that only where a quota was set after them. A file that was unlinked while open counts
// where it was until the last handle goes: a tenant must not get around its quota by unlinking what it writes.
//
// A rename from one set of quotas into another takes a file's count along, and fails with EDQUOT where it does not fit:
// clients write beside the final directory and rename. Of a directory that holds something it is refused with EXDEV, as
// on ext4 and xfs, because counting a tree would stop the store for as long as that takes; mv(1) then copies.
//
// Over quota. In evict mode (--on-full) cold files below the same directory are evicted, never anybody else's, and the
// request succeeds; with EDQUOT it fails where too few of them may go. In enospc mode it fails with EDQUOT at once.
//
// A quota is a limit, not a reservation: what is below it may be evicted when the store is full like anything else, and
// the sum of all quotas may be more than the store has. How much it reaches over: not at all. What a write needs is
// counted before it is let in (Store::Admission), so several writers at once cannot pass a limit together. Nothing that
// is there already is refused: files may be written over, read and removed above a limit that was lowered.
//
// How it is kept. Nothing is asked and nothing counted while no directory has a quota. Else a change of a file finds
// its quotas by walking up from its name: O(depth), under the mutex, in memory. What has been counted for a file is
// File::charged while it has state, and its mapped blocks while it has none; settle_charge() makes up the difference
// whenever somebody is done with it. The counts are not logged: recovery makes them again (count_below), as does
// setting the first quota of a directory, which holds the mutex for as long as it takes (about 0.1 us a file).
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "store/inodes.hpp"

namespace kvfs::store {

struct Quota {
    InodeNumber directory = 0;
    bool limits_bytes = false;  // each: whether the attribute is there at all
    bool limits_files = false;
    std::uint64_t most_bytes = 0;  // 0: no limit
    std::uint64_t most_files = 0;
    std::uint64_t blocks = 0;
    std::uint64_t files = 0;
    std::uint64_t refused = 0;  // requests that got EDQUOT

    [[nodiscard]] bool has_room(std::uint64_t more_blocks, std::uint64_t more_files) const;
};

// Nearest directory first. Shared, because a file that was unlinked while open still counts for a quota that is gone.
using QuotaList = std::vector<std::shared_ptr<Quota>>;

// Guarded by the store's mutex.
class Quotas {
public:
    // Nothing is to be counted: no quota, and no file that counts for one that was.
    [[nodiscard]] bool is_idle() const { return by_directory_.empty() && unlinked_.empty(); }
    [[nodiscard]] Quota* find(InodeNumber directory) const;
    [[nodiscard]] std::shared_ptr<Quota> share(InodeNumber directory) const;
    Quota& make(InodeNumber directory);
    void drop(InodeNumber directory) { by_directory_.erase(directory); }
    [[nodiscard]] const auto& all() const { return by_directory_; }

    // Inodes without a name, and what they still count for.
    std::unordered_map<InodeNumber, QuotaList>& unlinked() { return unlinked_; }

private:
    std::unordered_map<InodeNumber, std::shared_ptr<Quota>> by_directory_;
    std::unordered_map<InodeNumber, QuotaList> unlinked_;
};

}  // namespace kvfs::store
