// The I/O buffers of a store: one arena, faulted in and registered with the ring at start-up, cut into pools.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace kvfs::uring {

class BufferPool;

// One buffer on loan, or an unregistered one of its own when `pool` is null. Goes back when destroyed.
class Buffer {
public:
    Buffer() = default;
    Buffer(std::byte* data, std::size_t size, BufferPool* pool) : data_(data), size_(size), pool_(pool) {}
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(other.size_), pool_(other.pool_) {}
    Buffer& operator=(Buffer&& other) noexcept {
        if (this != &other) {
            reset();
            data_ = std::exchange(other.data_, nullptr);
            size_ = other.size_;
            pool_ = other.pool_;
        }
        return *this;
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { reset(); }

    void reset();
    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    explicit operator bool() const { return data_ != nullptr; }

    // Page-aligned memory from the heap, for what is rare or larger than the pools' buffers.
    static Buffer heap(std::size_t size);

private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    BufferPool* pool_ = nullptr;
};

// Anonymous memory for all pools; the ring registers it whole.
class BufferArena {
public:
    explicit BufferArena(std::size_t size);
    ~BufferArena();
    BufferArena(const BufferArena&) = delete;
    BufferArena& operator=(const BufferArena&) = delete;
    [[nodiscard]] std::span<std::byte> memory() const { return {base_, size_}; }
    std::span<std::byte> cut(std::size_t size);

private:
    std::byte* base_;
    std::size_t size_;
    std::size_t used_ = 0;
};

class BufferPool {
    // Somebody in line: a coroutine (its node lies in its frame) or a blocked thread (on its stack).
    struct Waiter {
        Waiter* next = nullptr;
        Buffer result;
        std::coroutine_handle<> coroutine;
        std::condition_variable* thread = nullptr;
    };

public:
    // `resume` continues a coroutine that waited for a buffer. It is called by whoever gives one back, which may
    // be under a lock: it must not run the coroutine itself (Ring::post).
    BufferPool(BufferArena& arena, std::size_t count, std::size_t size,
               std::function<void(std::coroutine_handle<>)> resume);

    Buffer try_acquire();

    class Acquire {
    public:
        explicit Acquire(BufferPool& pool) : pool_(pool) {}
        Acquire(const Acquire&) = delete;
        Acquire& operator=(const Acquire&) = delete;
        bool await_ready() {
            place_.result = pool_.try_acquire();
            return static_cast<bool>(place_.result);
        }
        bool await_suspend(std::coroutine_handle<> waiter);
        Buffer await_resume() { return std::move(place_.result); }

    private:
        BufferPool& pool_;
        Waiter place_;
    };
    // Waits in line when every buffer is out.
    Acquire acquire() { return Acquire(*this); }
    // The same for a thread that is no coroutine: it sleeps until its turn comes. A device that does not answer keeps
    // the buffers that it has, and the thread must not wait for that: after a second it gets one from the heap.
    Buffer acquire_blocking();

    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::size_t count() const { return count_; }
    [[nodiscard]] std::size_t idle() const;

private:
    friend class Buffer;
    Buffer take_idle();          // the mutex is held; empty when all are out
    void queue(Waiter& waiter);  // the mutex is held
    void leave(Waiter& waiter);  // the line; the mutex is held
    void give_back(std::byte* data);

    std::size_t size_;
    std::size_t count_;
    std::function<void(std::coroutine_handle<>)> resume_;
    mutable std::mutex mutex_;
    std::vector<std::byte*> idle_;
    Waiter* first_ = nullptr;  // who waits longest
    Waiter* last_ = nullptr;
};

}  // namespace kvfs::uring
