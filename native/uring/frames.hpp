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

}  // namespace kvfs::uring
