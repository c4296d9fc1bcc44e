// Coroutines for I/O: Async<T> is a lazily started task that is awaited by one other, or detached with a callback.
//
// A coroutine runs on the thread that starts it until its first I/O, then on a ring's completion thread (or on the
// thread that hands over a lock or a buffer). It never holds a std::mutex across a co_await.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "uring/frames.hpp"
#include "uring/turn.hpp"

namespace kvfs::uring {

template <typename T>
class [[nodiscard]] Async {
public:
    struct promise_type : Pooled {
        std::optional<T> value;
        std::coroutine_handle<> continuation = std::noop_coroutine();

        Async get_return_object() { return Async(std::coroutine_handle<promise_type>::from_promise(*this)); }
        std::suspend_always initial_suspend() noexcept { return {}; }
        auto final_suspend() noexcept {
            struct Resume {
                bool await_ready() noexcept { return false; }
                std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> self) noexcept {
                    return self.promise().continuation;
                }
                void await_resume() noexcept {}
            };
            return Resume{};
        }
        void return_value(T result) { value = std::move(result); }
        // Only allocation failure throws in here, and there is nothing to save then.
        void unhandled_exception() { std::terminate(); }
    };

    explicit Async(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
    Async(Async&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
    Async(const Async&) = delete;
    Async& operator=(const Async&) = delete;
    Async& operator=(Async&&) = delete;
    ~Async() {
        if (handle_) handle_.destroy();
    }

    bool await_ready() const noexcept { return false; }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiter) noexcept {
        handle_.promise().continuation = waiter;
        return handle_;
    }
    [[maybe_unused]] T await_resume() { return std::move(*handle_.promise().value); }

private:
    std::coroutine_handle<promise_type> handle_;
};

// A coroutine that nobody awaits: starts at once, frees itself at its end.
struct Detached {
    struct promise_type : Pooled {
        Detached get_return_object() noexcept { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() noexcept {}
        void unhandled_exception() { std::terminate(); }
    };
};

template <typename T, typename Done>
Detached run_detached(Async<T> task, Done done) {
    T result = co_await std::move(task);
    done(std::move(result));
}

// Runs the task; `done(result)` is called on whichever thread finishes it, perhaps before this returns.
template <typename T, typename Done>
void detach(Async<T> task, Done done) {
    const Turn turn;
    run_detached(std::move(task), std::move(done));
}

// For a thread that has nothing else to do: runs the task and sleeps until it is finished. Never on a ring's thread.
template <typename T>
T block_on(Async<T> task) {
    std::mutex mutex;
    std::condition_variable finished;
    std::optional<T> result;
    detach(std::move(task), [&](T value) {
        const std::lock_guard guard(mutex);
        result = std::move(value);
        finished.notify_one();
    });
    std::unique_lock guard(mutex);
    finished.wait(guard, [&] { return result.has_value(); });
    return std::move(*result);
}

// First come, first served. The holder may change threads. unlock() runs the next holder on the calling thread, when
// the coroutine that runs there now has had its turn.
class AsyncMutex {
public:
    class Lock {
    public:
        explicit Lock(AsyncMutex& mutex) : mutex_(mutex) {}
        Lock(const Lock&) = delete;
        Lock& operator=(const Lock&) = delete;
        bool await_ready() { return mutex_.try_lock(); }
        bool await_suspend(std::coroutine_handle<> waiter) {
            const std::lock_guard guard(mutex_.mutex_);
            if (!std::exchange(mutex_.held_, true)) return false;
            waiter_ = waiter;
            (mutex_.last_ == nullptr ? mutex_.first_ : mutex_.last_->next_) = this;
            mutex_.last_ = this;
            return true;
        }
        void await_resume() {}

    private:
        friend class AsyncMutex;
        AsyncMutex& mutex_;
        std::coroutine_handle<> waiter_;
        Lock* next_ = nullptr;
    };
    Lock lock() { return Lock(*this); }
    // Unlocks at the end of a coroutine's scope: co_await mutex.lock(), then this.
    class Held {
    public:
        explicit Held(AsyncMutex& mutex) : mutex_(mutex) {}
        ~Held() { mutex_.unlock(); }
        Held(const Held&) = delete;
        Held& operator=(const Held&) = delete;

    private:
        AsyncMutex& mutex_;
    };
    bool try_lock() {
        const std::lock_guard guard(mutex_);
        return !std::exchange(held_, true);
    }
    void unlock() {
        std::coroutine_handle<> next;
        {
            const std::lock_guard guard(mutex_);
            if (first_ == nullptr) {
                held_ = false;
                return;
            }
            next = first_->waiter_;
            first_ = first_->next_;
            if (first_ == nullptr) last_ = nullptr;
        }
        Turn::next(next);
    }
    bool is_held() {
        const std::lock_guard guard(mutex_);
        return held_;
    }

private:
    std::mutex mutex_;
    bool held_ = false;
    Lock* first_ = nullptr;  // who waits longest; the nodes lie in the waiters' frames
    Lock* last_ = nullptr;
};

}  // namespace kvfs::uring
