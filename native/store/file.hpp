// The state of a file that is open or has changes which the log does not know yet.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "store/extents.hpp"
#include "store/inodes.hpp"
#include "store/placing.hpp"
#include "store/read_ahead.hpp"
#include "store/segments.hpp"
#include "uring/async.hpp"
#include "uring/buffers.hpp"

namespace kvfs::store {

inline constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 44;  // 16 TiB

// Blocks [from, to) as a set of ranges that do not touch each other.
class Ranges {
public:
    void add(std::uint64_t from, std::uint64_t to);
    // How many blocks that took out.
    std::uint64_t remove(std::uint64_t from, std::uint64_t to);
    void clear() { ranges_.clear(); }
    [[nodiscard]] std::uint64_t count(std::uint64_t from, std::uint64_t to) const;
    [[nodiscard]] bool empty() const { return ranges_.empty(); }
    [[nodiscard]] const std::map<std::uint64_t, std::uint64_t>& all() const { return ranges_; }
    // The parts of [from, to) that are not in the set.
    [[nodiscard]] std::vector<std::pair<std::uint64_t, std::uint64_t>> missing(std::uint64_t from,
                                                                               std::uint64_t to) const;

private:
    std::map<std::uint64_t, std::uint64_t> ranges_;
};

// Written bytes that are not on their way to the device yet: [start, end) of the file, `start` on a block boundary.
struct Tail {
    uring::Buffer buffer;
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    explicit operator bool() const { return static_cast<bool>(buffer); }
};

// Somebody who waits until the device has written blocks [from, to). Lies in the waiter's frame.
struct FlightWait {
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    std::coroutine_handle<> waiter;
    FlightWait* next = nullptr;
};

// Two locks: `lock` (a coroutine lock, held across I/O) orders everything that changes the file's bytes;
// the store's mutex guards the fields themselves for the instants in which they are read or changed. The bytes of the
// tail's buffer, and whether there is a tail, change only under both.
//
// Reads take no lock: they wait for what overlaps them and then plan under the mutex.
//
// The committed version is what the log describes: the present map, less `changed`, plus `replaced`. A crash
// brings exactly that back, so the space of `replaced` stays live until the commit that lets go of it.
struct File {
    explicit File(InodeNumber number) : ino(number) {}

    const InodeNumber ino;
    uring::AsyncMutex lock;
    std::uint32_t handles = 0;
    std::uint32_t writers = 0;
    std::uint32_t client = 0;  // who opened it last, for the eviction policy
    std::uint32_t users = 0;   // coroutines that work on it (Store::InUse): neither this nor the inode may go

    Tail tail;
    File* tail_previous = nullptr;  // in the store's list of tails
    File* tail_next = nullptr;
    std::uint32_t in_flight = 0;  // writes that the device has not finished
    Flight* flights = nullptr;    // they, the newest first
    FlightWait* flight_waits = nullptr;
    std::atomic<int> error = 0;  // sticky until the file is released or rewritten
    bool is_lost = false;        // with an error: blocks are mapped that the device does not have
    ReadStreams streams;

    bool dirty = false;     // something to commit
    bool in_place = false;  // written over or preallocated: a pool file, committed by age as well
    bool settling = false;  // a commit is on its way, because too much hangs on it
    std::int64_t dirty_since_ns = 0;
    Ranges changed;                                 // blocks whose mapping is not the committed one
    ExtentMap replaced;                             // the committed mapping of those blocks
    std::uint64_t keep_blocks = ~std::uint64_t{0};  // lowest truncation since the last commit
    std::uint64_t committed_size = 0;
    std::optional<SegmentId> lease;
    // Blocks that fallocate set aside for their first write; neither mapped nor in the tail, counted in the store's
    // reserved_blocks_. They last as long as somebody has the file open (see ranges.cpp).
    Ranges promised;

    // quota.hpp: blocks that count for the file in every quota above it, and those of them that writes under way have
    // been let in with. Kept up to date while there is any quota; else nobody looks at them.
    std::uint64_t charged = 0;
    std::uint64_t admitted = 0;
};

// Files with a tail, oldest first: who gives up a buffer next. Guarded by the store's mutex.
class TailList {
public:
    [[nodiscard]] File* oldest() const { return first_; }
    void add(File& file) {
        file.tail_previous = last_;
        file.tail_next = nullptr;
        (last_ == nullptr ? first_ : last_->tail_next) = &file;
        last_ = &file;
    }
    void remove(File& file) {
        (file.tail_previous == nullptr ? first_ : file.tail_previous->tail_next) = file.tail_next;
        (file.tail_next == nullptr ? last_ : file.tail_next->tail_previous) = file.tail_previous;
    }

private:
    File* first_ = nullptr;
    File* last_ = nullptr;
};

}  // namespace kvfs::store
