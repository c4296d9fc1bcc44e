// The I/O buffers of a store: one arena, faulted in and registered with the ring at start-up, cut into pools.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <deque>
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
public:
    // `resume` continues a coroutine that waited for a buffer. It is called by whoever gives one back, which may
    // be under a lock: it must not run the coroutine itself (Ring::post).
    BufferPool(BufferArena& arena, std::size_t count, std::size_t size,
               std::function<void(std::coroutine_handle<>)> resume);

    Buffer try_acquire();

    struct Acquire {
        BufferPool& pool;
        Buffer result;
        bool await_ready() {
            result = pool.try_acquire();
            return static_cast<bool>(result);
        }
        bool await_suspend(std::coroutine_handle<> waiter);
        Buffer await_resume() { return std::move(result); }
    };
    // Waits in line when every buffer is out.
    Acquire acquire() { return Acquire{*this, {}}; }

    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::size_t count() const { return count_; }
    [[nodiscard]] std::size_t idle() const;

private:
    friend class Buffer;
    struct Waiter {
        std::coroutine_handle<> handle;
        Acquire* acquire;
    };
    void give_back(std::byte* data);

    std::size_t size_;
    std::size_t count_;
    std::function<void(std::coroutine_handle<>)> resume_;
    mutable std::mutex mutex_;
    std::vector<std::byte*> idle_;
    std::deque<Waiter> waiters_;
};

}  // namespace kvfs::uring
