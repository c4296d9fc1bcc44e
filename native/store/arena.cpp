#include "store/arena.hpp"

#include <sys/mman.h>

#include <new>

namespace kvfs::store {

Reserved::Reserved(std::size_t bytes) : size_(bytes) {
    // strict overcommit or a limit on address space refuses large reservations: take what can be had
    for (; size_ >= (std::size_t{64} << 20); size_ /= 2) {
        void* base = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) continue;
        base_ = static_cast<std::byte*>(base);
        madvise(base, size_, MADV_NOHUGEPAGE);  // memory per file is a promise: no 2 MiB steps
        return;
    }
    throw std::bad_alloc();
}

Reserved::~Reserved() { munmap(base_, size_); }

}  // namespace kvfs::store
