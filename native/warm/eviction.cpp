// Room for pages: what is counted, and which page goes.
#include <algorithm>
#include <utility>

#include "warm/tier.hpp"

namespace kvfs::warm {

bool Tier::reserve(std::uint64_t bytes) {
    if (bytes > limit_bytes_.load(std::memory_order_relaxed)) return false;  // nothing to evict would help
    for (;;) {
        std::uint64_t now = resident_->bytes.load(std::memory_order_relaxed);
        if (resident_->pages.load(std::memory_order_relaxed) < most_pages_) {
            while (now + bytes <= limit_bytes_.load(std::memory_order_relaxed)) {
                if (!resident_->bytes.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed)) continue;
                resident_->pages.fetch_add(1);
                if (headroom_.take(bytes)) {
                    keeper_.wake();
                    return true;
                }
                release(bytes);
                break;
            }
        }
        if (!evict_one()) return false;
    }
}

void Tier::release(std::uint64_t bytes) {
    resident_->bytes.fetch_sub(bytes, std::memory_order_relaxed);
    resident_->pages.fetch_sub(1, std::memory_order_relaxed);
}

void Tier::enter(const PagePtr& page) {
    const std::lock_guard guard(order_mutex_);
    order_.push_back(page);
    // Pages that were dropped leave their places behind, which matters when files change a lot and nothing is evicted.
    if (order_.size() > 2 * resident_->pages.load(std::memory_order_relaxed) + 64) {
        std::erase_if(order_, [](const std::weak_ptr<Page>& each) { return each.expired(); });
    }
}

// Second chance: in the order of arrival, but what was used since the last look goes to the end. WHY this and not
// S3-FIFO, as the store's own eviction: on traces of KV-cache traffic recency is what tells (the next turn of a
// conversation needs what the last one used), and LRU, which this approximates, hits as often or more at the sizes of a
// memory tier: 19.6 % against 18.7 % of references at 5 % of the footprint, 27.9 against 24.5 at 10 %, and 92.9
// against 87.9 for coding agents. A hit costs one relaxed store and no lock.
bool Tier::evict_one() {
    std::size_t looks = 0;
    for (;;) {
        PagePtr victim;
        {
            const std::lock_guard guard(order_mutex_);
            if (looks == 0) looks = 2 * order_.size() + 1;  // each page's second chance included
            while (victim == nullptr) {
                if (order_.empty() || --looks == 0) return false;
                victim = order_.front().lock();
                order_.pop_front();
            }
        }
        if (victim->touched_.exchange(false, std::memory_order_relaxed)) {
            const std::lock_guard guard(order_mutex_);
            order_.push_back(victim);
            continue;
        }
        Shard& place = shard(victim->ino());
        PagePtr gone;
        {
            const std::lock_guard guard(place.mutex);
            const auto it = place.slots.find(victim->ino());
            if (it == place.slots.end() || it->second.page != victim) continue;  // dropped before
            // 2: the slot's and this one. Others copy from the slot, under its lock; a page that somebody holds would
            // free nothing.
            if (victim->users_ == 0 && !victim->is_lingering_ && victim.use_count() == 2) {
                gone = std::move(it->second.page);
                place.slots.erase(it);
            }
        }
        if (gone == nullptr) {
            const std::lock_guard guard(order_mutex_);
            order_.push_back(victim);
            continue;
        }
        counters_.evictions.fetch_add(1, std::memory_order_relaxed);
        return true;
    }
}

void Tier::shrink(std::uint64_t bytes) {
    const std::uint64_t resident = resident_->bytes.load(std::memory_order_relaxed);
    if (resident == 0) return;
    if (bytes == 0) bytes = resident / 4;
    const std::uint64_t wanted = resident - std::min(resident, bytes);
    limit_bytes_.store(std::min(wanted, limit_bytes_.load(std::memory_order_relaxed)), std::memory_order_relaxed);
    counters_.pressure_shrinks.fetch_add(1, std::memory_order_relaxed);
    while (resident_->bytes.load(std::memory_order_relaxed) > wanted && evict_one()) {
    }
}

// In steps, each after a time of calm: what the tier gets back at once it would give back at once.
void Tier::recover() {
    const std::uint64_t limit = limit_bytes_.load(std::memory_order_relaxed);
    const std::uint64_t step = std::max<std::uint64_t>(options_.budget_bytes / 8, 1);
    limit_bytes_.store(std::min(options_.budget_bytes, limit + step), std::memory_order_relaxed);
}

}  // namespace kvfs::warm
