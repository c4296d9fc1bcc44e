// Counts this program's allocations, in place of the C library's own entry points (it keeps them under other names).
#include "tests/counting_malloc.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>

// A sanitizer has its own entry points: with one, nothing is counted.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KVFS_COUNTING 0
#else
#define KVFS_COUNTING 1
#endif

#if KVFS_COUNTING
// NOLINTBEGIN(bugprone-reserved-identifier): the C library's own names
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* old, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
}
// NOLINTEND(bugprone-reserved-identifier)
#endif

namespace {

std::atomic<bool> counting{false};
std::atomic<std::uint64_t> count{0};
std::atomic<std::uint64_t> largest{0};

#if KVFS_COUNTING
void note(std::size_t size) {
    if (!counting.load(std::memory_order_relaxed)) return;
    count.fetch_add(1, std::memory_order_relaxed);
    std::uint64_t seen = largest.load(std::memory_order_relaxed);
    while (size > seen && !largest.compare_exchange_weak(seen, size, std::memory_order_relaxed)) {
    }
}
#endif

}  // namespace

#if KVFS_COUNTING
extern "C" {

void* malloc(std::size_t size) {
    note(size);
    return __libc_malloc(size);
}

void* calloc(std::size_t members, std::size_t size) {
    note(members * size);
    return __libc_calloc(members, size);
}

void* realloc(void* old, std::size_t size) {
    note(size);
    return __libc_realloc(old, size);
}

void* memalign(std::size_t alignment, std::size_t size) {
    note(size);
    return __libc_memalign(alignment, size);
}

void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }

int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
    *out = memalign(alignment, size);
    return *out == nullptr ? ENOMEM : 0;
}

}  // extern "C"
#endif

namespace kvfs::drill {

void start_counting() {
    count = 0;
    largest = 0;
    counting = true;
}

Allocations stop_counting() {
    counting = false;
    return {count, largest};
}

}  // namespace kvfs::drill
