// Bringing files in, and keeping pages in use up to date: the parts of Tier that read the store.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "format/format.hpp"
#include "warm/tier.hpp"

namespace kvfs::warm {
namespace {

// Enough for the device's bandwidth in one request, small enough that several are verified side by side.
constexpr std::uint64_t kPiece = 4 << 20;

constexpr std::uint64_t kBlock = format::kBlock;

// Reads at least [offset, offset + size) of a file into memory, piece by piece, all at once. 0 or -errno: fewer than
// these bytes is -ESTALE, as the file has become shorter. `owner` keeps the memory as long as the device may write into
// it, which may be longer than this waits.
class Pieces {
public:
    Pieces(pool::Pool& store, std::uint64_t ino, std::uint64_t offset, std::span<std::byte> memory, std::uint64_t size,
           uring::Priority priority, std::shared_ptr<const void> owner)
        : store_(store),
          ino_(ino),
          offset_(offset),
          memory_(memory),
          size_(size),
          priority_(priority),
          owner_(std::move(owner)) {}
    Pieces(const Pieces&) = delete;
    Pieces& operator=(const Pieces&) = delete;

    bool await_ready() const { return memory_.empty(); }
    bool await_suspend(std::coroutine_handle<> waiter) {
        waiter_ = waiter;
        // one more than there are pieces, so that the last of them cannot resume a coroutine that is still starting
        // some
        left_.store((memory_.size() + kPiece - 1) / kPiece + 1, std::memory_order_relaxed);
        for (std::size_t at = 0; at < memory_.size(); at += kPiece) {
            const std::size_t room = std::min<std::size_t>(kPiece, memory_.size() - at);
            const auto wanted = static_cast<std::int64_t>(std::min<std::uint64_t>(room, size_ - at));
            uring::detach(store_.read_into(ino_, offset_ + at, memory_.subspan(at, room), priority_, owner_),
                          [this, wanted](std::int64_t got) { arrived(got, wanted); });
        }
        return left_.fetch_sub(1, std::memory_order_acq_rel) != 1;
    }
    int await_resume() const { return error_.load(std::memory_order_relaxed); }

private:
    void arrived(std::int64_t got, std::int64_t wanted) {
        if (got < wanted) {
            int none = 0;
            error_.compare_exchange_strong(none, got < 0 ? static_cast<int>(got) : -ESTALE, std::memory_order_relaxed);
        }
        if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) waiter_.resume();
    }

    pool::Pool& store_;
    std::uint64_t ino_, offset_;
    std::span<std::byte> memory_;
    std::uint64_t size_;
    uring::Priority priority_;
    std::shared_ptr<const void> owner_;
    std::atomic<std::size_t> left_{0};
    std::atomic<int> error_{0};
    std::coroutine_handle<> waiter_;
};

}  // namespace

struct Tier::Join {
    Shard& shard;
    Staging& staging;
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) {
        const std::lock_guard guard(shard.mutex);
        if (staging.is_done) return false;
        staging.waiters.push_back(waiter);
        return true;
    }
    void await_resume() const {}
};

uring::Async<PagePtr> Tier::stage(std::uint64_t ino, int* error, uring::Priority priority) {
    Shard& place = shard(ino);
    std::shared_ptr<Staging> staging;
    bool is_mine = false;
    {
        const std::lock_guard guard(place.mutex);
        Slot& slot = place.slots[ino];
        if (slot.page != nullptr && !slot.page->is_resized_) co_return slot.page;
        if (slot.page != nullptr) {
            // no second page under handles that read the first
            if (error != nullptr) *error = -ESTALE;
            co_return nullptr;
        }
        is_mine = slot.staging == nullptr;
        if (is_mine) slot.staging = std::make_shared<Staging>();
        staging = slot.staging;
    }
    if (!is_mine) {
        co_await Join{place, *staging};
        if (error != nullptr) *error = staging->error;
        co_return staging->result;
    }
    {
        const std::lock_guard guard(stagings_mutex_);
        ++stagings_in_flight_;
    }
    int rc = 0;
    PagePtr page = co_await read_page(ino, rc, priority);
    std::vector<std::coroutine_handle<>> waiters;
    {
        const std::lock_guard guard(place.mutex);
        if (staging->is_stale) {
            if (page != nullptr) counters_.stale_stagings.fetch_add(1, std::memory_order_relaxed);
            page = nullptr;
            rc = -ESTALE;
        } else {
            const auto it = place.slots.find(ino);  // it holds this staging, else that would be stale
            it->second.staging = nullptr;
            if (page == nullptr) {
                place.slots.erase(it);
            } else {
                it->second.page = page;
            }
        }
        staging->error = rc;
        staging->result = page;
        staging->is_done = true;
        waiters.swap(staging->waiters);
    }
    if (page != nullptr) enter(page);
    for (const auto waiter : waiters) waiter.resume();
    if (error != nullptr) *error = rc;
    staging_done();
    co_return page;
}

void Tier::staging_done() {
    // notified under the lock: the tier may be destroyed as soon as it is released
    const std::lock_guard guard(stagings_mutex_);
    if (--stagings_in_flight_ == 0) stagings_done_.notify_all();
}

uring::Async<PagePtr> Tier::read_page(std::uint64_t ino, int& error, uring::Priority priority) {
    store::Attributes before{};
    error = store_.getattr(ino, before);
    if (error == 0 &&
        (!S_ISREG(before.mode) || before.size < options_.least_file || before.size > options_.largest_file)) {
        error = -EOPNOTSUPP;
    }
    if (error != 0) co_return nullptr;
    const std::uint64_t bytes = format::round_up(before.size, kBlock);
    if (!reserve(bytes)) {
        counters_.refused.fetch_add(1, std::memory_order_relaxed);
        error = -ENOSPC;
        co_return nullptr;
    }
    MemoryFile file = memory_.make(before.size, error);
    if (!file) {
        release(bytes);
        counters_.refused.fetch_add(1, std::memory_order_relaxed);
        error = -ENOSPC;  // whatever ran out: memory, descriptors, mappings
        co_return nullptr;
    }
    // from here on the page gives the reserved bytes back
    const auto page = std::make_shared<Page>(ino, before.size, std::move(file), resident_);
    counters_.stagings.fetch_add(1, std::memory_order_relaxed);
    error = co_await Pieces(store_, ino, 0, page->file_.memory(), before.size, priority, page);
    if (error != 0) {
        counters_.staging_failures.fetch_add(1, std::memory_order_relaxed);
        co_return nullptr;
    }
    counters_.staged_bytes.fetch_add(before.size, std::memory_order_relaxed);
    co_return page;
}

uring::Async<int> Tier::refresh(std::uint64_t ino, std::uint64_t offset, std::uint64_t length) {
    Shard& place = shard(ino);
    PagePtr page;
    {
        const std::lock_guard guard(place.mutex);
        const auto it = place.slots.find(ino);
        if (it == place.slots.end()) co_return 0;
        if (it->second.staging != nullptr) std::exchange(it->second.staging, nullptr)->is_stale = true;
        page = it->second.page;
        if (page == nullptr) {
            place.slots.erase(it);
            co_return 0;
        }
        page->is_leaving_ = true;
    }
    counters_.refreshes.fetch_add(1, std::memory_order_relaxed);
    co_await page->refreshing_.lock();
    store::Attributes now{};
    int rc = store_.getattr(ino, now);
    if (rc == 0 && now.size != page->length()) {
        {
            const std::lock_guard guard(place.mutex);
            page->is_resized_ = true;
        }
        // What a longer file has gained may be bytes of another change, whose own refresh() follows or waits.
        rc = page->resize(now.size);
    }
    const std::uint64_t end = std::min(now.size, offset + length);
    // whole blocks are read, but not a byte more is put than was changed: next to it may be what a mapping wrote
    for (std::uint64_t at = offset / kBlock * kBlock; rc == 0 && at < end; at += kPiece) {
        const std::uint64_t size = std::min(kPiece, end - at);
        const auto buffer = std::make_shared<const uring::Buffer>(uring::Buffer::heap(format::round_up(size, kBlock)));
        rc = co_await Pieces(store_, ino, at, {buffer->data(), buffer->size()}, size, uring::Priority::kDemand, buffer);
        const std::uint64_t skip = offset > at ? offset - at : 0;
        if (rc == 0) rc = page->put(at + skip, {buffer->data() + skip, size - skip});
    }
    if (rc == -ESTALE) rc = 0;  // shortened while this read it, by a change whose own refresh() follows
    page->refreshing_.unlock();
    co_return rc;
}

}  // namespace kvfs::warm
