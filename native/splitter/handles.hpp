// Open files: what the kernel's file handles stand for.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "warm/tier.hpp"

namespace kvfs::splitter {

// How the kernel treats the reads and writes of one open file description.
enum class OpenMode : std::uint8_t {
    kCached,       // through the page cache
    kDirect,       // every read and write comes here
    kPassthrough,  // reads go to the warm page's memory, without us
};

struct Handle {
    std::uint64_t ino = 0;
    bool in_use = false;
    bool readable = false;
    bool writable = false;  // counted so by Store::open; release has to say the same
    bool touches_atime = false;
    OpenMode mode = OpenMode::kCached;
    bool by_passthrough = false;  // the kernel has `page` as its backing file, read or not
    warm::PagePtr page;           // stays in memory as long

    // The page that this handle may have mapped shared and writable.
    [[nodiscard]] warm::PagePtr mapped_page() const { return readable && writable ? page : nullptr; }
};

// A table whose entries never move. The kernel names a handle only between our answer to OPEN and its RELEASE, and
// nobody writes to an entry in between: finding one needs no lock.
class Handles {
public:
    Handles() = default;
    ~Handles();
    Handles(const Handles&) = delete;
    Handles& operator=(const Handles&) = delete;

    // 0 when the table is full.
    std::uint64_t add(Handle handle);
    // Null for a number that stands for nothing.
    [[nodiscard]] Handle* find(std::uint64_t fh) const;
    Handle remove(std::uint64_t fh);
    [[nodiscard]] std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }

private:
    static constexpr std::size_t kChunk = 1024;
    static constexpr std::size_t kChunks = 4096;
    using Chunk = std::array<Handle, kChunk>;

    std::array<std::atomic<Chunk*>, kChunks> chunks_{};
    std::mutex mutex_;
    std::vector<std::uint32_t> free_;
    std::uint32_t end_ = 1;  // 0 is no handle
    std::atomic<std::uint64_t> count_{0};
};

}  // namespace kvfs::splitter
