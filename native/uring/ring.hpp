// One io_uring on one device: any thread submits, one thread reaps and runs what was waiting.
//
// Protocol: the submission side and the line of prefetch are guarded by `submit_mutex_`; the completion queue belongs
// to the reaper thread alone. A request's Op lives in the coroutine frame (or on the stack of a blocked thread) that
// waits for it, so nothing is allocated per request. Short transfers are resubmitted for the remainder; a transfer of 0
// bytes is EIO, because the store never reads past the volume's end.
//
// Demand goes first: what somebody waits for is submitted at once, prefetch stands in line here until few enough of its
// kind are at the device, fewer while demand is there too. What the device has it works on in its own order.
#pragma once

#include <liburing.h>

#include <atomic>
#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "uring/ages.hpp"
#include "uring/inline_vector.hpp"
#include "uring/tap.hpp"

namespace kvfs::uring {

enum class Priority : std::uint8_t { kDemand, kPrefetch };

class Batch;

struct Op {
    OpKind kind = OpKind::kRead;
    Priority priority = Priority::kDemand;
    bool answered = false;  // by a tap: `result` is what the device would have said
    std::uint8_t tick = 0;  // of the ring's ages, when it was sent
    int result = 0;         // 0 or -errno
    std::byte* data = nullptr;
    std::size_t size = 0;
    std::uint64_t offset = 0;
    Batch* batch = nullptr;
    Op* next = nullptr;  // in the line of prefetch
};

struct RingCounters {
    std::atomic<std::uint64_t> reads{0}, read_bytes{0}, writes{0}, write_bytes{0}, syncs{0}, errors{0}, in_flight{0},
        prefetch_waiting{0}, changes_in_flight{0};
};

class Ring {
public:
    // How much of one device's rings together is under way for demand.
    using Load = std::atomic<std::uint64_t>;
    // How many requests of prefetch one ring has at the device.
    struct PrefetchLimits {
        unsigned alone, beside_demand;
    };

    // `fd` stays the caller's, `tap` (or null) and `demand` outlive this. `registered` may be empty. `number` tells the
    // reaper's thread which of a device's rings is its own.
    Ring(int fd, Tap* tap, unsigned depth, std::span<std::byte> registered, unsigned number, Load& demand,
         PrefetchLimits limits);
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;
    // Ends the reaper. What is still under way is never resumed.
    void stop();

    // Resumes the coroutine on the reaper thread, for callers that hold locks which it may want.
    void post(std::coroutine_handle<> handle);

    [[nodiscard]] bool buffers_registered() const { return !registered_.empty(); }
    [[nodiscard]] const RingCounters& counters() const { return counters_; }
    [[nodiscard]] Ages& ages() { return ages_; }

    // Numbers threads from 0 on, in the order in which they first ask; a reaper's is its ring's.
    static unsigned thread_number();

private:
    friend class Batch;
    void submit(std::span<Op> ops);
    void push(Op& op);     // the submission mutex is held, here and below
    void push_prefetch();  // as many as may go
    void enter();
    void prepare(io_uring_sqe* sqe, Op& op);
    bool ask_tap(io_uring_sqe* sqe, Op& op);
    io_uring_sqe* entry();
    void reap();
    void wake_reaper();
    void resubmit(Op& op);
    void finish(Op& op, int result);

    int fd_;
    Tap* tap_;
    std::deque<__kernel_timespec> delays_;  // of answers that are not with the kernel yet, which copies them
    io_uring ring_{};
    std::vector<std::span<std::byte>> registered_;  // one per registered buffer
    RingCounters counters_;
    Ages ages_;
    std::mutex submit_mutex_;
    Op* first_prefetch_ = nullptr;
    Op* last_prefetch_ = nullptr;
    unsigned prefetch_in_flight_ = 0;
    PrefetchLimits limits_;
    Load& demand_;
    // What a submitter wrote is visible to the reaper once it sees the completion. The kernel orders the two in fact;
    // the language does not know the kernel, and neither does a thread sanitizer.
    std::atomic<std::uint64_t> submissions_{0};
    std::mutex posted_mutex_;
    std::vector<std::coroutine_handle<>> posted_;
    std::atomic<bool> stop_{false};
    std::thread reaper_;
};

// Requests that are submitted together and awaited together (by co_await, or by a blocked thread with wait()).
// Every op keeps its own result. Must not be destroyed while in flight: it lives in the frame that awaits it.
class Batch {
public:
    explicit Batch(Ring& ring, Priority priority = Priority::kDemand) : ring_(ring), priority_(priority) {}
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    void add(OpKind kind, std::byte* data, std::size_t size, std::uint64_t offset) {
        ops_.push_back({.kind = kind, .priority = priority_, .data = data, .size = size, .offset = offset});
    }
    [[nodiscard]] bool empty() const { return ops_.empty(); }
    [[nodiscard]] std::span<Op> ops() { return {ops_.data(), ops_.size()}; }
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
    Priority priority_;
    InlineVector<Op, 6> ops_;
    std::atomic<std::size_t> left_{0};
    std::coroutine_handle<> waiter_;
    std::mutex mutex_;
    std::condition_variable finished_;
    bool done_ = false;
};

}  // namespace kvfs::uring
