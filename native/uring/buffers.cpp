#include "uring/buffers.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <new>
#include <system_error>

namespace kvfs::uring {

void Buffer::reset() {
    if (data_ == nullptr) return;
    std::byte* data = std::exchange(data_, nullptr);
    if (pool_ != nullptr) {
        pool_->give_back(data);
    } else {
        std::free(data);
    }
}

Buffer Buffer::heap(std::size_t size) {
    void* data = std::aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (data == nullptr) throw std::bad_alloc();
    return {static_cast<std::byte*>(data), size, nullptr};
}

BufferArena::BufferArena(std::size_t size) : size_(size) {
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "no memory for I/O buffers");
    base_ = static_cast<std::byte*>(base);
    // huge pages where the system has them: a registered buffer is then a few pieces for the device, not hundreds
    madvise(base, size, MADV_HUGEPAGE);
    for (std::size_t at = 0; at < size; at += 4096) base_[at] = std::byte{0};
}

BufferArena::~BufferArena() { munmap(base_, size_); }

std::span<std::byte> BufferArena::cut(std::size_t size) {
    if (size > size_ - used_) throw std::bad_alloc();
    std::span<std::byte> out(base_ + used_, size);
    used_ += size;
    return out;
}

BufferPool::BufferPool(BufferArena& arena, std::size_t count, std::size_t size,
                       std::function<void(std::coroutine_handle<>)> resume)
    : size_(size), count_(count), resume_(std::move(resume)) {
    const auto memory = arena.cut(count * size);
    idle_.reserve(count);
    for (std::size_t i = count; i-- > 0;) idle_.push_back(memory.data() + i * size);
}

Buffer BufferPool::take_idle() {
    if (idle_.empty()) return {};
    std::byte* data = idle_.back();  // the one used last: it is the likeliest to lie in a cache still
    idle_.pop_back();
    return {data, size_, this};
}

Buffer BufferPool::try_acquire() {
    const std::lock_guard guard(mutex_);
    return take_idle();
}

void BufferPool::queue(Waiter& waiter) {
    (last_ == nullptr ? first_ : last_->next) = &waiter;
    last_ = &waiter;
}

void BufferPool::leave(Waiter& waiter) {
    Waiter* before = nullptr;
    for (Waiter* each = first_; each != &waiter; each = each->next) before = each;
    (before == nullptr ? first_ : before->next) = waiter.next;
    if (last_ == &waiter) last_ = before;
}

bool BufferPool::Acquire::await_suspend(std::coroutine_handle<> waiter) {
    const std::lock_guard guard(pool_.mutex_);
    place_.result = pool_.take_idle();
    if (place_.result) return false;
    place_.coroutine = waiter;
    pool_.queue(place_);
    return true;
}

Buffer BufferPool::acquire_blocking() {
    std::unique_lock guard(mutex_);
    Buffer idle = take_idle();
    if (idle) return idle;
    std::condition_variable turn;
    Waiter waiter;
    waiter.thread = &turn;
    queue(waiter);
    constexpr std::chrono::seconds kPatience{1};
    if (turn.wait_for(guard, kPatience, [&] { return static_cast<bool>(waiter.result); })) {
        return std::move(waiter.result);
    }
    leave(waiter);
    return Buffer::heap(size_);
}

void BufferPool::give_back(std::byte* data) {
    std::coroutine_handle<> next;
    {
        const std::lock_guard guard(mutex_);
        Waiter* const waiter = first_;
        if (waiter == nullptr) {
            idle_.push_back(data);
            return;
        }
        first_ = waiter->next;
        if (first_ == nullptr) last_ = nullptr;
        waiter->result = Buffer(data, size_, this);
        next = waiter->coroutine;
        // under the mutex: the thread may not leave, and take its condition variable along, before it has been told
        if (waiter->thread != nullptr) waiter->thread->notify_one();
    }
    if (next) resume_(next);
}

std::size_t BufferPool::idle() const {
    const std::lock_guard guard(mutex_);
    return idle_.size();
}

}  // namespace kvfs::uring
