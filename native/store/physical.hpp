// The second ledger: space that is really there under the space that the store has.
//
// A sparse file on a file system that fills up, a thin volume, a drive that compresses: all of them promise more blocks
// than they may be able to keep. Segments are the first ledger, bytes of what is underneath the second, and a write is
// admitted when both have room for it. Nothing is free there before it was trimmed.
//
// Somebody outside of the store looks at the real thing every now and then (kvfs/fs/physical.py) and tells what
// is left. Between two looks every block that is placed is charged in full, as if it did not compress; the next look
// puts that right. Where a block that was written once keeps its space (a file, a thin volume), writing it again is
// free, and the segments that are free but not trimmed count as space.
//
// In evict mode the store lets go of cold files ahead of the last mark. Each look sets a goal: what is missing to the
// first mark and a little more, less what is dead already and has yet to be given back. Below the second mark only
// segments that died as a whole count as that, so more goes: nothing is moved in order to give space back there, as
// moving takes some first. The next goal is set by the next look, which sees what the last one has brought.
//
// Metadata is not asked for: what lies below the last mark is for the log and for checkpoints, without which nothing
// could be deleted any more.
#pragma once

#include <cstdint>

namespace kvfs::store {

// Fractions of the physical space that is left, in percent. From ../shared/FABRIC.md, to start with.
inline constexpr std::uint64_t kPhysicalLow = 15;    // evict faster, trim everything that is free
inline constexpr std::uint64_t kPhysicalScarce = 8;  // and write nothing that could be read from elsewhere
inline constexpr std::uint64_t kPhysicalRefuse = 4;  // and take no data
inline constexpr std::uint64_t kPhysicalBeyond =
    1;  // evicted beyond the first mark, so that it is not met at once again

enum class PhysicalLevel : std::uint8_t { kPlenty, kLow, kScarce, kRefuse };

// Guarded by the store's mutex.
struct PhysicalLedger {
    bool is_known = false;  // else what the store has is what there is
    bool rewrites_in_place = false;
    std::uint64_t total_bytes = 0;
    std::uint64_t free_bytes = 0;  // as of the last look, less what was placed since
    std::uint64_t refusals = 0;    // admissions that failed for this and not for want of segments
    std::uint64_t readings = 0;
    std::uint64_t evict_until_blocks = 0;  // evicted for this since the store was opened: the evictor's goal
};

// A picture of it.
struct PhysicalSpace {
    PhysicalLedger ledger;
    std::uint64_t usable_bytes = 0;  // free ones, and those of free segments that can be written again
    PhysicalLevel level = PhysicalLevel::kPlenty;
    std::uint64_t to_evict_bytes = 0;  // up to the goal
};

}  // namespace kvfs::store
