// Which readers of a file come in sequence, and how far was read ahead for them.
//
// A reader that starts at the file's beginning, or goes on where it stopped, gets the next pieces brought into the
// granule cache while it works on this one. What to bring is decided when a read is done, not when it comes: the kernel
// cuts a large request into pieces and sends them side by side, and by then those have all been asked for, so that
// nothing is read ahead which is being read anyway. A read elsewhere is left alone and costs two comparisons.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace kvfs::store {

// In blocks. Guarded by the store's mutex.
class ReadStreams {
public:
    // A read of [from, to) is asked for.
    void asked(std::uint64_t from, std::uint64_t to) {
        for (Stream& stream : streams_) {
            // a piece of a request may overtake another one on its way here
            if (stream.next == 0 || from < stream.next || from > stream.next + kOvertaken * (to - from)) continue;
            stream.next = std::max(stream.next, to);
            return;
        }
        if (from != 0) return;
        streams_[oldest_] = {to, to};
        oldest_ = (oldest_ + 1) % streams_.size();
    }

    struct Range {
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        explicit operator bool() const { return from < to; }
    };
    // The same read is done: what to bring next of a file of `blocks` blocks, and then perhaps more, when asked again.
    // It counts as brought.
    Range take(std::uint64_t from, std::uint64_t to, std::uint64_t blocks) {
        for (Stream& stream : streams_) {
            if (stream.next != to) continue;
            const std::uint64_t window = std::clamp(kPieces * (to - from), kLeastWindow, kMostWindow);
            const std::uint64_t begin = std::max(stream.ahead, to);
            const std::uint64_t end = std::min({to + window, begin + kAtOnce, blocks});
            // few large requests
            if (begin >= end || (end - begin < std::min(window / 2, kAtOnce) && end != blocks)) return {};
            stream.ahead = end;
            return {begin, end};
        }
        return {};
    }

private:
    static constexpr std::uint64_t kPieces = 4;
    static constexpr std::uint64_t kLeastWindow = 128;  // 512 KiB: two granules
    static constexpr std::uint64_t kMostWindow = 512;   // 2 MiB
    static constexpr std::uint64_t kAtOnce = 256;       // 1 MiB, a plan without an allocation
    static constexpr std::uint64_t kOvertaken = 2;

    struct Stream {
        std::uint64_t next = 0;   // where the reader goes on; 0: nobody
        std::uint64_t ahead = 0;  // brought up to here
    };
    std::array<Stream, 2> streams_{};
    std::size_t oldest_ = 0;
};

}  // namespace kvfs::store
