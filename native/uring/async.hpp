// Coroutines for I/O: Async<T> is a lazily started task that is awaited by one other, or detached with a callback.
//
// A coroutine runs on the thread that starts it until its first I/O, then on the ring's completion thread (or on the
// thread that hands over a lock or a buffer). It never holds a std::mutex across a co_await.
#pragma once

#include <coroutine>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

namespace kvfs::uring {

template <typename T>
class [[nodiscard]] Async {
public:
    struct promise_type {
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
    struct promise_type {
        Detached get_return_object() noexcept { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() noexcept {}
        void unhandled_exception() { std::terminate(); }
    };
};

// Runs the task; `done(result)` is called on whichever thread finishes it, perhaps before this returns.
template <typename T, typename Done>
Detached detach(Async<T> task, Done done) {
    T result = co_await std::move(task);
    done(std::move(result));
}

// First come, first served. The holder may change threads. unlock() runs the next holder on the calling thread.
class AsyncMutex {
public:
    struct Lock {
        AsyncMutex& mutex;
        bool await_ready() { return mutex.try_lock(); }
        bool await_suspend(std::coroutine_handle<> waiter) {
            const std::lock_guard guard(mutex.mutex_);
            if (!mutex.held_) {
                mutex.held_ = true;
                return false;
            }
            mutex.waiters_.push_back(waiter);
            return true;
        }
        void await_resume() {}
    };
    Lock lock() { return Lock{*this}; }
    bool try_lock() {
        const std::lock_guard guard(mutex_);
        return !std::exchange(held_, true);
    }
    void unlock() {
        std::coroutine_handle<> next;
        {
            const std::lock_guard guard(mutex_);
            if (waiters_.empty()) {
                held_ = false;
                return;
            }
            next = waiters_.front();
            waiters_.pop_front();
        }
        next.resume();
    }
    bool is_held() {
        const std::lock_guard guard(mutex_);
        return held_;
    }

private:
    std::mutex mutex_;
    bool held_ = false;
    std::deque<std::coroutine_handle<>> waiters_;
};

}  // namespace kvfs::uring
