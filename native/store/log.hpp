// The metadata log: transactions are appended in memory under the store's mutex, and one thread writes them out.
//
// Order, which is the whole of crash safety:
//   1. file data completes on the device before its transaction is appended (write.cpp, flush);
//   2. the committer flushes the device's cache before it writes a frame, so a frame never reaches the medium ahead of
//      the data it names;
//   3. one frame is in flight at a time, each names its predecessor's sequence: recovery takes a prefix;
//   4. a waiter (fsync) is woken after a second flush.
// A transaction is never split over frames. LSN n means "the first n transactions".
#pragma once

#include <coroutine>
#include <cstdint>
#include <string>
#include <vector>

#include "format/records.hpp"
#include "store/segments.hpp"

namespace kvfs::store {

struct LogPosition {
    std::uint64_t segment = 0;
    std::uint64_t generation = 0;
    std::uint64_t offset = 0;
    std::uint64_t sequence = 0;
};

// What has been appended and not yet written. Guarded by the store's mutex.
class LogBuffer {
public:
    format::RecordWriter& writer() { return writer_; }
    // Ends a transaction; returns its LSN.
    std::uint64_t commit();

    struct Chunk {
        std::string payload;
        std::uint32_t records = 0;
        std::uint64_t lsn = 0;  // of its last transaction
        bool last = false;
    };
    // The oldest transactions that fit into `limit` bytes (always at least one).
    Chunk take(std::size_t limit);

    // Forgets what is pending, LSNs aside.
    void discard() {
        if (!writer_.bytes().empty()) writer_.release();
        ends_.clear();
    }

    [[nodiscard]] bool empty() const { return ends_.empty(); }
    [[nodiscard]] std::size_t bytes() const { return writer_.bytes().size(); }
    [[nodiscard]] std::uint64_t appended() const { return appended_; }

private:
    struct End {
        std::size_t bytes;
        std::uint32_t records;
    };
    format::RecordWriter writer_;
    std::vector<End> ends_;  // of each transaction, counted from the front of the buffer
    std::uint64_t appended_ = 0;
};

}  // namespace kvfs::store
