// Changes of a page in use: those that the store has and the page does not, and the other way round.
//
// While clients read an inode by passthrough the kernel takes only passthrough opens of it, of writers too, and their
// shared mappings then are mappings of the page. What they write there is seen by everybody who reads the page, but
// the store is told by nobody: the kernel sends no request. So a page that may be mapped for writing is tracked, by a
// hash of each block as the store has it, and what differs is written to the store at fsync, at close, and as long as
// somebody still has the page mapped.
#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "format/format.hpp"
#include "warm/tier.hpp"

namespace kvfs::warm {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;

// Fewer than asked for only at the file's end. The count or -errno.
ssize_t read_fully(int fd, std::span<std::byte> out, std::uint64_t offset) {
    std::size_t done = 0;
    while (done < out.size()) {
        const ssize_t count = pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return -errno;
        if (count == 0) break;
        done += static_cast<std::size_t>(count);
    }
    return static_cast<ssize_t>(done);
}

std::uint64_t hash_of(std::span<const std::byte> block) { return XXH3_64bits(block.data(), block.size()); }

}  // namespace

// Hashes of blocks [from, to), the last one perhaps short. The mutex is held.
int Page::hash_blocks(std::uint64_t from, std::uint64_t to, std::vector<std::uint64_t>& out) {
    std::array<std::byte, kBlock> block;
    for (std::uint64_t i = from; i < to; ++i) {
        const ssize_t count = read_fully(file_.fd(), block, i * kBlock);
        if (count < 0) return static_cast<int>(count);
        out.push_back(hash_of(std::span(block).first(static_cast<std::size_t>(count))));
    }
    return 0;
}

std::uint64_t Page::length() {
    const std::lock_guard guard(mutex_);
    return length_;
}

// Through the descriptor, as the file may have grown beyond our mapping. A block that a mapping has changed stays
// marked as changed.
int Page::put(std::uint64_t offset, std::span<const std::byte> data) {
    const std::lock_guard guard(mutex_);
    const std::uint64_t from = offset / kBlock;
    const std::uint64_t to = (offset + data.size() + kBlock - 1) / kBlock;
    std::vector<std::uint64_t> before;
    std::vector<std::uint64_t> after;
    if (is_tracked_) {
        if (const int rc = hash_blocks(from, to, before); rc != 0) return rc;
    }
    while (!data.empty()) {
        const ssize_t count = pwrite(file_.fd(), data.data(), data.size(), static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return count < 0 ? -errno : -EIO;
        data = data.subspan(static_cast<std::size_t>(count));
        offset += static_cast<std::uint64_t>(count);
    }
    if (!is_tracked_) return 0;
    if (const int rc = hash_blocks(from, to, after); rc != 0) return rc;
    for (std::uint64_t i = from; i < to && i < clean_.size(); ++i) {
        if (before[i - from] == clean_[i]) clean_[i] = after[i - from];
    }
    return 0;
}

int Page::resize(std::uint64_t size) {
    const std::lock_guard guard(mutex_);
    // the block in which the shorter of both ends changes its length
    const std::uint64_t edge = std::min(length_, size) / kBlock;
    std::vector<std::uint64_t> before;
    if (edge < clean_.size()) {
        if (const int rc = hash_blocks(edge, edge + 1, before); rc != 0) return rc;
    }
    const bool was_clean = !before.empty() && before[0] == clean_[edge];
    if (const int rc = file_.resize(size); rc != 0) return rc;
    length_ = size;
    if (!is_tracked_) return 0;
    const std::uint64_t blocks = (size + kBlock - 1) / kBlock;
    if (was_clean || edge >= clean_.size()) clean_.resize(std::min<std::uint64_t>(edge, clean_.size()));
    if (clean_.size() > blocks) clean_.resize(blocks);
    return hash_blocks(clean_.size(), blocks, clean_);
}

// True when that begins here. Nothing changes when memory cannot be read: then it is not tracked.
bool Page::track() {
    const std::lock_guard guard(mutex_);
    if (is_tracked_) return false;
    clean_.clear();
    is_tracked_ = hash_blocks(0, (length_ + kBlock - 1) / kBlock, clean_) == 0;
    return is_tracked_;
}

bool Page::is_tracked() {
    const std::lock_guard guard(mutex_);
    return is_tracked_;
}

// Takes what differs from the store, and counts it as clean from then on.
int Page::collect(std::vector<Change>& out) {
    constexpr std::uint64_t kMost = 1 << 20;  // bytes of one change
    const std::lock_guard guard(mutex_);
    std::array<std::byte, kBlock> block;
    for (std::uint64_t i = 0; i < clean_.size(); ++i) {
        const ssize_t count = read_fully(file_.fd(), block, i * kBlock);
        if (count < 0) return static_cast<int>(count);
        const auto bytes = std::span(block).first(static_cast<std::size_t>(count));
        const std::uint64_t hash = hash_of(bytes);
        if (hash == clean_[i]) continue;
        clean_[i] = hash;
        if (out.empty() || out.back().offset + out.back().data.size() != i * kBlock ||
            out.back().data.size() >= kMost) {
            out.push_back({i * kBlock, {}});
        }
        out.back().data.insert(out.back().data.end(), bytes.begin(), bytes.end());
    }
    return 0;
}

// The store did not take it.
void Page::keep_dirty(const Change& change) {
    const std::lock_guard guard(mutex_);
    const std::uint64_t end = (change.offset + change.data.size() + kBlock - 1) / kBlock;
    for (std::uint64_t i = change.offset / kBlock; i < end && i < clean_.size(); ++i) ++clean_[i];
}

// Whether a mapping, which holds an open file of its own, outlives the descriptors. A write lease is given only to who
// is alone. Nobody may be about to open the page: that would end the lease by a signal.
bool Page::is_open_elsewhere() {
    if (fcntl(file_.fd(), F_SETLEASE, F_WRLCK) != 0) return errno == EAGAIN;
    fcntl(file_.fd(), F_SETLEASE, F_UNLCK);
    return false;
}

void Tier::joined(const PagePtr& page, bool may_write) {
    // The inode is kept as long as it is tracked, so that what mappings wrote does not go to another file.
    if (may_write && !page->is_tracked() && store_.open(page->ino(), true) == 0 && !page->track()) {
        store_.release(page->ino(), true);
    }
    users_.fetch_add(1, std::memory_order_relaxed);
    const std::lock_guard guard(shard(page->ino()).mutex);
    ++page->users_;
    ++page->uses_;
}

uring::Async<int> Tier::write_back(PagePtr page) {
    std::vector<Page::Change> changes;
    int error = page->collect(changes);
    for (const Page::Change& change : changes) {
        const std::int64_t n = co_await store_.write(page->ino(), change.offset, std::span(change.data));
        if (n >= 0) {
            counters_.mapped_bytes.fetch_add(change.data.size(), std::memory_order_relaxed);
            continue;
        }
        page->keep_dirty(change);
        if (error == 0) error = static_cast<int>(n);
    }
    co_return error;
}

// A tracked page whose last user has gone: it stays until no mapping of it is left, and is looked at by the keeper.
void Tier::linger(PagePtr page) {
    {
        const std::lock_guard guard(order_mutex_);
        lingering_.push_back(std::move(page));
    }
    keeper_.poke();
}

void Tier::settle_lingering() {
    std::vector<PagePtr> pages;
    {
        const std::lock_guard guard(order_mutex_);
        pages.swap(lingering_);
    }
    for (PagePtr& page : pages) {
        {
            const std::lock_guard guard(stagings_mutex_);
            ++stagings_in_flight_;
        }
        uring::detach(settle(std::move(page)), [this](int) { staging_done(); });
    }
}

uring::Async<int> Tier::settle(PagePtr page) {
    Shard& place = shard(page->ino());
    bool is_alone = false;
    std::uint64_t uses = 0;
    {
        const std::lock_guard guard(place.mutex);
        is_alone = page->users_ == 0 && !page->is_open_elsewhere();
        uses = page->uses_;
    }
    const int rc = co_await write_back(page);
    bool is_over = false;
    {
        const std::lock_guard guard(place.mutex);
        if (page->users_ > 0) {
            page->is_lingering_ = false;  // the release of that use brings it here again
            co_return rc;
        }
        const auto it = place.slots.find(page->ino());
        const bool is_here = it != place.slots.end() && it->second.page == page;
        // What the store does not take now it may take later; without the file there is nobody to keep it for.
        is_over = !is_here || (is_alone && rc == 0 && page->uses_ == uses);
        if (is_over) page->is_lingering_ = false;
        if (is_over && is_here) place.slots.erase(it);
    }
    if (is_over) {
        store_.release(page->ino(), true);
    } else {
        const std::lock_guard guard(order_mutex_);
        lingering_.push_back(std::move(page));
    }
    co_return rc;
}

// At the end: pages whose users will never be released any more.
void Tier::settle_abandoned() {
    std::vector<PagePtr> pages;
    for (Shard& each : shards_) {
        const std::lock_guard guard(each.mutex);
        for (const auto& [ino, slot] : each.slots) {
            if (slot.page == nullptr || slot.page->is_lingering_ || !slot.page->is_tracked()) continue;
            slot.page->users_ = 0;
            slot.page->is_lingering_ = true;
            pages.push_back(slot.page);
        }
    }
    const std::lock_guard guard(order_mutex_);
    lingering_.insert(lingering_.end(), pages.begin(), pages.end());
}

}  // namespace kvfs::warm
