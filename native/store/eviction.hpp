// Eviction: a full store drops cold files and goes on, instead of refusing a write (--on-full evict).
//
// What it takes. Whole regular files that are complete and that nobody has open, coldest first as the policy
// (policy/policy.hpp) has it. Never a file with state (open, or with bytes that the log does not know yet), never a
// directory, a link or what the settings protect: keep_reason() is the one place that says so.
//
// How a file goes. In one instant under the store's mutex, in memory: each of its names is removed and logged as
// unlink(2) does it, in one transaction, and its blocks count as dead from then on. There is no I/O and nothing to wait
// for, so whoever needs room evicts by itself, on its own thread, also where it may not wait (create, link, setxattr).
// The kernel may still know the inode by a number: from here on it is told ESTALE for it, which makes it look the name
// up again and find nothing; and it is told to forget the name (DropEvent) by Python, a little later. A crash before
// the frame is durable brings the file back, whole, as after any unlink.
//
// Who frees what: eviction frees blocks, never segments. Three parties share the work and none waits for another that
// waits for it:
//   - who wants room (a writer in make_room(), a creator, the evictor thread ahead of need) makes blocks dead, at once.
//     Then the write is admitted: has_space() counts blocks.
//   - the committer makes the records of that durable, and then wholly dead segments are free (Segments::collect). It
//     takes segments for the log from the reserve, and never waits for anybody.
//   - the cleaner brings together what is left in segments that are mostly dead. It waits for the committer.
// A writer that was admitted and finds no free segment waits for the cleaner (place()), holding at most its own file's
// lock, which none of the three takes. Where the cleaner finds nothing to gain, that writer evicts a segment's worth
// more, before it falls back on the reserve.
//
// Ahead of need: the evictor thread keeps between 1/64 and 1/32 of the store free of live data, a few dozen files per
// hold of the mutex, so that a writer hardly ever has to evict by itself. It does the same where physical space runs
// low, as much at each look as is missing then (physical.hpp).
//
// After a restart the policy is given every file in the order of its atime. That is exact after an orderly end; after a
// crash, atimes are those of the last checkpoint (or of the file's last record), so what was read since may rank as it
// did then. How often something was read is not kept.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "policy/policy.hpp"
#include "store/inodes.hpp"
#include "store/settings.hpp"

namespace kvfs::store {

class Store;

// Why a file was evicted, in statistics and in this order.
enum class EvictReason : std::uint8_t {
    kSpace,     // its blocks were wanted
    kNames,     // the store had no room for more names
    kCommand,   // kvfsctl evict, kvfsctl drain
    kQuota,     // its tenant wanted the room (quota.hpp)
    kExpired,   // its time to live was over (sweep.hpp)
    kOrphan,    // a temporary file of a dead writer
    kPhysical,  // what is under the store ran low (physical.hpp)
};
inline constexpr std::array<std::string_view, 7> kEvictReasons = {"space",   "names",  "command", "quota",
                                                                  "expired", "orphan", "physical"};
// Of blocks, for who counts files: empty ones go too.
inline constexpr std::uint64_t kAnyBlocks = ~std::uint64_t{0} / format::kBlock;

// What the policy asks about files. The store's mutex is held.
class EvictionHost final : public policy::Host {
public:
    explicit EvictionHost(Store& store) : store_(store) {}
    [[nodiscard]] std::uint64_t space(policy::ObjectId id) const override;
    [[nodiscard]] policy::Key key(policy::ObjectId id) const override;
    [[nodiscard]] bool may_evict(policy::ObjectId id) const override;

    // Files that changed less than this ago are spared: one that was closed and is about to be renamed to its final
    // name is nobody's cold page.
    std::int64_t spared_ns = 0;
    // Empty files give no space back; they go only when names do.
    bool takes_empty = false;

private:
    Store& store_;
};

struct EvictionStatistics {
    bool evicts = false;
    std::uint64_t low_blocks = 0;   // the evictor begins when less than this is free,
    std::uint64_t high_blocks = 0;  // and ends when this much is
    std::array<std::uint64_t, kEvictReasons.size()> files{}, blocks{};
    std::uint64_t by_writers = 0;  // files that somebody had to evict who was waiting for room
    policy::Statistics policy;
};

struct Evicted {
    std::uint64_t files = 0;
    std::uint64_t blocks = 0;
};

}  // namespace kvfs::store
