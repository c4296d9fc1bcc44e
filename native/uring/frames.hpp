// Memory for coroutine frames and other short-lived pieces of a request, so that none of them costs a malloc.
//
// A frame is often made on one thread and freed on another (the ring's). Each thread keeps a few of each size; what it
// has too many of goes to a shared list, where threads that run out fetch a handful at a time. Memory is never given
// back to the system: as much stays as was once needed at the same moment.
#pragma once

#include <cstddef>

namespace kvfs::uring {

void* take_frame(std::size_t size);
void give_frame(void* frame, std::size_t size) noexcept;

// For a promise type, or any class whose objects come and go with requests.
struct Pooled {
    static void* operator new(std::size_t size) { return take_frame(size); }
    static void operator delete(void* frame, std::size_t size) noexcept { give_frame(frame, size); }
};

// The same for std::allocate_shared.
template <typename T>
struct PooledAllocator {
    using value_type = T;
    PooledAllocator() = default;
    template <typename Other>
    PooledAllocator(const PooledAllocator<Other>& /*other*/) {
    }  // NOLINT(google-explicit-constructor): as allocators do
    T* allocate(std::size_t count) { return static_cast<T*>(take_frame(count * sizeof(T))); }
    void deallocate(T* memory, std::size_t count) noexcept { give_frame(memory, count * sizeof(T)); }
    bool operator==(const PooledAllocator& /*other*/) const { return true; }
};

}  // namespace kvfs::uring
