// The state of a file that is open or has changes which the log does not know yet.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "store/extents.hpp"
#include "store/inodes.hpp"
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

// Two locks: `lock` (a coroutine lock, held across I/O) orders everything that changes the file's bytes;
// the store's mutex guards the fields themselves for the instants in which they are read or changed.
//
// The committed version is what the log describes: the present map, less `changed`, plus `replaced`. A crash
// brings exactly that back, so the space of `replaced` stays live until the commit that lets go of it.
struct File {
    explicit File(InodeNumber number) : ino(number) {}

    const InodeNumber ino;
    uring::AsyncMutex lock;
    std::uint32_t handles = 0;
    std::uint32_t writers = 0;

    Tail tail;
    std::uint32_t in_flight = 0;  // writes that the device has not finished
    std::vector<std::coroutine_handle<>> idle_waiters;
    int error = 0;  // sticky until the file is released or rewritten

    bool dirty = false;     // something to commit
    bool in_place = false;  // written over or preallocated: a pool file, committed by age as well
    std::int64_t dirty_since_ns = 0;
    Ranges changed;                                 // blocks whose mapping is not the committed one
    ExtentMap replaced;                             // the committed mapping of those blocks
    std::uint64_t keep_blocks = ~std::uint64_t{0};  // lowest truncation since the last commit
    std::uint64_t committed_size = 0;
    std::optional<SegmentId> lease;
    // Blocks that fallocate set aside for their first write; neither mapped nor in the tail, counted in the store's
    // reserved_blocks_. They last as long as somebody has the file open (see ranges.cpp).
    Ranges promised;
};

// Unlocks a file's lock at the end of a coroutine's scope.
class Held {
public:
    explicit Held(std::shared_ptr<File> file) : file_(std::move(file)) {}
    ~Held() { file_->lock.unlock(); }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

private:
    std::shared_ptr<File> file_;
};

}  // namespace kvfs::store
