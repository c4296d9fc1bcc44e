// One file's content in memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "uring/async.hpp"
#include "warm/memory.hpp"

namespace kvfs::warm {

class Tier;

// The connection to the kernel under which pages are registered as backing files (FUSE_DEV_IOC_BACKING_OPEN).
// Shared by the pages, because some outlive the tier.
class Passthrough {
public:
    // `fuse_fd`: /dev/fuse or a clone, the caller's; it must stay open until detach().
    explicit Passthrough(int fuse_fd) : fd_(fuse_fd) {}
    // The id, positive, or a negative errno. Refusals that cannot change are remembered and cost nothing after.
    int add(int file);
    void remove(int id);
    void detach();
    [[nodiscard]] bool works() const { return refused_.load(std::memory_order_relaxed) == 0; }

private:
    std::mutex mutex_;  // an id must not be given back through a descriptor that has become something else
    int fd_;
    std::atomic<int> refused_{0};
};

// What pages cost, whoever holds them. Shared by the pages, for the same reason.
struct Resident {
    std::atomic<std::uint64_t> bytes{0}, pages{0};
};

// A whole file, verified. The content never changes but through Tier, and only while a client has it open by
// passthrough. Whoever holds a PagePtr has the memory, even after the page was evicted.
class Page {
public:
    Page(std::uint64_t ino, std::uint64_t size, MemoryFile file, std::shared_ptr<Resident> resident);
    ~Page();
    Page(const Page&) = delete;
    Page& operator=(const Page&) = delete;

    [[nodiscard]] std::uint64_t ino() const { return ino_; }
    [[nodiscard]] std::uint64_t size() const { return size_; }
    // size() bytes; what follows up to the next 4 KiB boundary is zero and may be read too.
    [[nodiscard]] std::span<const std::byte> bytes() const { return file_.memory().first(size_); }
    // Positive when clients may be given the page by FOPEN_PASSTHROUGH; valid as long as the page is held.
    [[nodiscard]] int backing_id() const { return backing_id_.load(std::memory_order_acquire); }
    // For whoever shares the memory with another process, or pins it.
    [[nodiscard]] int fd() const { return file_.fd(); }

private:
    friend class Tier;
    // All of these: 0 or -errno. put() changes bytes within the length, resize() the length.
    int put(std::uint64_t offset, std::span<const std::byte> data);
    int resize(std::uint64_t size);
    std::uint64_t length();

    // mapped.cpp: bytes that clients change by a shared mapping, which nobody tells us.
    struct Change {
        std::uint64_t offset;
        std::vector<std::byte> data;
    };
    bool track();
    bool is_tracked();
    int collect(std::vector<Change>& out);
    void keep_dirty(const Change& change);
    bool is_open_elsewhere();
    int hash_blocks(std::uint64_t from, std::uint64_t to, std::vector<std::uint64_t>& out);

    const std::uint64_t ino_;
    const std::uint64_t size_;
    MemoryFile file_;
    std::shared_ptr<Resident> resident_;
    std::shared_ptr<Passthrough> passthrough_;
    std::atomic<int> backing_id_{0};
    std::atomic<bool> touched_{false};  // since eviction last looked at it

    // guarded by the shard's lock:
    std::uint32_t users_ = 0;    // handles of clients that are passthrough
    std::uint64_t uses_ = 0;     // that ever were
    bool is_leaving_ = false;    // goes with its last user: it was refreshed, or somebody wants it gone
    bool is_resized_ = false;    // size() is not the file's any more: not for find() or open()
    bool is_lingering_ = false;  // has no user, but maybe a mapping that outlives its descriptor

    uring::AsyncMutex refreshing_;
    std::mutex mutex_;      // guards what follows
    std::uint64_t length_;  // of the file as its users see it
    bool is_tracked_ = false;
    std::vector<std::uint64_t> clean_;  // hash of each block as the store has it, when tracked
};

using PagePtr = std::shared_ptr<Page>;

}  // namespace kvfs::warm
