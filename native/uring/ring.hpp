// One io_uring on one device: any thread submits, one thread reaps and runs what was waiting.
//
// Protocol: the submission side is guarded by `submit_mutex_`; the completion queue belongs to the reaper thread alone.
// A request's Op lives in the coroutine frame (or on the stack of a blocked thread) that waits for it, so nothing is
// allocated per request. Short transfers are resubmitted for the remainder; a transfer of 0 bytes is EIO, because the
// store never reads past the volume's end.
#pragma once

#include <liburing.h>

#include <atomic>
#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace kvfs::uring {

enum class OpKind : std::uint8_t { kRead, kWrite, kSync, kPunch };

class Batch;

struct Op {
    OpKind kind = OpKind::kRead;
    std::byte* data = nullptr;
    std::size_t size = 0;
    std::uint64_t offset = 0;
    int result = 0;  // 0 or -errno
    Batch* batch = nullptr;
};

struct RingCounters {
    std::atomic<std::uint64_t> reads{0}, read_bytes{0}, writes{0}, write_bytes{0}, syncs{0}, errors{0}, in_flight{0};
};

class Ring {
public:
    // `fd` stays the caller's. `registered` may be empty.
    Ring(int fd, unsigned depth, std::span<std::byte> registered);
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // Resumes the coroutine on the reaper thread, for callers that hold locks which it may want.
    void post(std::coroutine_handle<> handle);

    [[nodiscard]] bool buffers_registered() const { return registered_; }
    [[nodiscard]] const RingCounters& counters() const { return counters_; }

private:
    friend class Batch;
    void submit(std::span<Op*> ops);
    void prepare(io_uring_sqe* sqe, Op& op);
    void reap();
    void wake_reaper();
    void finish(Op& op, int result);

    int fd_;
    io_uring ring_{};
    std::span<std::byte> registered_memory_;
    bool registered_ = false;
    RingCounters counters_;
    std::mutex submit_mutex_;
    std::mutex posted_mutex_;
    std::vector<std::coroutine_handle<>> posted_;
    std::atomic<bool> stop_{false};
    std::thread reaper_;
};

// Requests that are submitted together and awaited together (by co_await, or by a blocked thread with wait()).
// Every op keeps its own result. Must not be destroyed while in flight: it lives in the frame that awaits it.
class Batch {
public:
    explicit Batch(Ring& ring) : ring_(ring) {}
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    void add(OpKind kind, std::byte* data, std::size_t size, std::uint64_t offset) {
        ops_.push_back(Op{kind, data, size, offset, 0, this});
    }
    [[nodiscard]] bool empty() const { return ops_.empty(); }
    [[nodiscard]] std::span<Op> ops() { return ops_; }
    // The first error, or 0.
    [[nodiscard]] int result() const;

    bool await_ready() const { return ops_.empty(); }
    void await_suspend(std::coroutine_handle<> waiter) {
        waiter_ = waiter;
        start();
    }
    int await_resume() const { return result(); }

    int wait();

private:
    friend class Ring;
    void start();
    void one_done();

    Ring& ring_;
    std::vector<Op> ops_;
    std::atomic<std::size_t> left_{0};
    std::coroutine_handle<> waiter_;
    std::mutex mutex_;
    std::condition_variable finished_;
    bool done_ = false;
};

}  // namespace kvfs::uring
