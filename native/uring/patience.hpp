// Answers in bounded time, on a device that may never answer.
//
// WHY not cancel the request: the kernel cannot take back a direct read or write that a block device has accepted.
// Until the device, or its driver's own time-out, gives it back, the device may write into the buffer, and a write may
// still reach the medium. So the task that sent the request goes on waiting, and keeps what is its own: the buffer, the
// segment that must not be used again under a late write, the file's lock. What ends in time is the client's wait: it
// gets an error while the task waits on in the background. Rejected: a deadline for each request at the ring. Every
// layer above would have to hand its buffers over to a list of those in quarantine, and a task that had gone on could
// not tell a write that has failed from one that is still to come.
//
// Whose patience ends: who has waited for longer than the limit, while the device has kept some request for longer than
// the limit. A client whose request is merely large, or stands in line behind others that make progress, waits on.
//
// Memory that is the caller's own (Borrowed) must not be touched any more once the caller was told to go. A task
// copies out of it under its mutex. A task whose device is to write into it says so first: from then on the caller
// cannot be told to go before the device is through. (Exchanging the pages under the device was rejected: a request
// that the kernel has put off looks its addresses up later. Where it must be, the device has addresses of its own: see
// splitter/mapped_twice.hpp.)
//
// Ownership: a Waiting belongs to whoever waits and to the task together. Either the task's end or the watch decides,
// under its shard's mutex, how the wait is over, and resumes the waiter; never both.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "uring/async.hpp"
#include "uring/frames.hpp"
#include "uring/rings.hpp"

namespace kvfs::uring {

class Borrowed {
public:
    // The device is about to write into the memory. False when the caller has gone.
    bool give_to_device() {
        const std::lock_guard guard(mutex_);
        is_at_device_ = !is_gone_;
        return is_at_device_;
    }
    // Runs `copy` unless the caller has gone: false then.
    template <typename Copy>
    bool use(Copy copy) {
        const std::lock_guard guard(mutex_);
        if (!is_gone_) copy();
        return !is_gone_;
    }
    // The caller goes, and the memory with it. False when the device has it.
    bool leave() {
        const std::lock_guard guard(mutex_);
        is_gone_ = !is_at_device_;
        return is_gone_;
    }
    [[nodiscard]] bool is_gone() {
        const std::lock_guard guard(mutex_);
        return is_gone_;
    }

private:
    std::mutex mutex_;
    bool is_gone_ = false;
    bool is_at_device_ = false;
};

class Patience {
public:
    using Duration = std::chrono::nanoseconds;

    // Starts the watch. The rings outlive it.
    Patience(Rings& rings, Duration limit);
    ~Patience();
    Patience(const Patience&) = delete;
    Patience& operator=(const Patience&) = delete;

    [[nodiscard]] Duration limit() const { return limit_; }
    // The device has kept some request for so long that it may be one that never comes back.
    [[nodiscard]] bool is_device_slow() const { return is_slow_.load(std::memory_order_relaxed); }
    struct Statistics {
        std::uint64_t given_up;     // waits that ended without an answer
        std::uint64_t still_going;  // of those, the ones whose tasks wait for the device even now
        Duration oldest;            // request at the device, as of the last look
    };
    [[nodiscard]] Statistics statistics() const {
        return {given_up_.load(std::memory_order_relaxed), still_going_.load(std::memory_order_relaxed),
                Duration(oldest_.load(std::memory_order_relaxed))};
    }

    // Begins a task, `begin(borrowed)`, and waits for it. Its result, or `late`.
    template <typename T, typename Begin>
    Async<T> answer(T late, Begin begin) {
        // what a device keeps for ever must not fill memory
        if (still_going_.load(std::memory_order_relaxed) >= kMostKept) co_return late;
        Answer<T> wait(*this, begin);
        co_await wait;
        co_return wait.result(std::move(late));
    }

private:
    class Waiting : public Pooled {
    public:
        Waiting() = default;
        Waiting(const Waiting&) = delete;
        Waiting& operator=(const Waiting&) = delete;
        // Pooled memory is given back by size: each kind deletes itself.
        void let_go() {
            if (owners.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy();
        }

        Borrowed borrowed;
        std::atomic<std::uint32_t> owners{1};
        std::coroutine_handle<> waiter;
        // guarded by the shard's mutex, like all that follows
        Waiting* previous = nullptr;
        Waiting* next = nullptr;
        std::int64_t since_ns = 0;
        std::uint8_t shard = 0;
        bool is_listed = false;
        bool is_over = false;  // the task has ended
        bool is_late = false;  // the waiter was told to go before that

    protected:
        virtual ~Waiting() = default;

    private:
        virtual void destroy() = 0;
    };

    template <typename T>
    class Answer {
    public:
        template <typename Begin>
        Answer(Patience& patience, Begin& begin)
            : patience_(patience), state_(new State), task_(begin(state_->borrowed)) {}
        ~Answer() { state_->let_go(); }
        Answer(const Answer&) = delete;
        Answer& operator=(const Answer&) = delete;

        bool await_ready() const { return false; }
        void await_suspend(std::coroutine_handle<> waiter) {
            State* const state = state_;
            Patience* const patience = &patience_;
            patience->begin(*state, waiter);
            detach(std::move(task_), [state, patience](T result) {
                state->value = std::move(result);
                const auto handle = patience->end(*state) ? state->waiter : std::coroutine_handle<>();
                state->let_go();
                if (handle) Turn::next(handle);
            });
            // the waiter, and this object with it, may be gone by now
            patience->list(*state);
            state->let_go();
        }
        void await_resume() const {}

        T result(T late) { return state_->is_late ? std::move(late) : std::move(*state_->value); }

    private:
        struct State final : Waiting {
            std::optional<T> value;

        private:
            void destroy() override { delete this; }
        };

        Patience& patience_;
        State* state_;
        Async<T> task_;
    };

    struct Shard {
        std::mutex mutex;
        Waiting* first = nullptr;  // who waits longest
        Waiting* last = nullptr;
    };
    static constexpr std::size_t kShards = 8;
    static constexpr std::uint64_t kMostKept = 1024;

    void begin(Waiting& waiting, std::coroutine_handle<> waiter);
    // The task goes on elsewhere, unless it is over by now.
    void list(Waiting& waiting);
    // The task is over: true when its waiter is still there, and now this thread's to resume.
    bool end(Waiting& waiting);
    void watch();
    void give_up(std::int64_t before_ns);
    static void unlist(Shard& shard, Waiting& waiting);

    Rings& rings_;
    const Duration limit_;
    std::array<Shard, kShards> shards_;
    std::atomic<std::uint64_t> given_up_{0}, still_going_{0};
    std::atomic<std::int64_t> oldest_{0};
    std::atomic<bool> is_slow_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
    bool stop_ = false;
    std::thread watch_;
};

}  // namespace kvfs::uring
