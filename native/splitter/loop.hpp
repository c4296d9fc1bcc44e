// What takes requests from the kernel and brings answers back: clones of /dev/fuse, or rings (FUSE over io_uring).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "splitter/request.hpp"

namespace kvfs::splitter {

enum class LoopKind : std::uint8_t { kClones, kUring };

// What belongs into the log, on any thread; levels are those of Python's logging.
using Report = std::function<void(int level, std::string text)>;

class RequestSink {
public:
    virtual ~RequestSink() = default;
    // Called on a loop's thread. Must not block: what waits for a device or for Python goes on elsewhere.
    virtual void handle(RequestHandle request) = 0;
    // A loop's thread has ended and none will come in its place: 0 when the file system was unmounted or the loop
    // stopped, else the errno (negative) that ended it. Called once per loop thread.
    virtual void ended(int error) = 0;
};

struct LoopCounters {
    std::atomic<std::uint64_t> requests{0}, replies{0}, replies_refused{0}, in_hand{0};
};

class RequestLoop {
public:
    virtual ~RequestLoop() = default;
    // The INIT handshake is over. Starts the threads.
    virtual void start() = 0;
    // Takes no further request and returns when no thread of the loop runs. Requests in hand can still be answered;
    // the loop must outlive them.
    virtual void stop() = 0;
    [[nodiscard]] virtual const LoopCounters& counters() const = 0;
    [[nodiscard]] virtual unsigned threads() const = 0;
    [[nodiscard]] virtual LoopKind kind() const = 0;
};

}  // namespace kvfs::splitter
