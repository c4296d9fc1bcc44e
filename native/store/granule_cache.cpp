#include "store/granule_cache.hpp"

#include <bit>
#include <utility>

#include "uring/turn.hpp"

namespace kvfs::store {

GranuleCache::GranuleCache(std::span<std::byte> memory, std::size_t slot_size)
    : slots_(memory.size() / slot_size), buckets_(std::bit_ceil(2 * slots_.size() + 1)) {
    for (std::size_t i = 0; i < slots_.size(); ++i) slots_[i].data_ = memory.data() + i * slot_size;
}

GranuleCache::Slot* GranuleCache::look(const GranuleKey& key) {
    for (Slot* slot = buckets_[bucket(key)]; slot != nullptr; slot = slot->next_) {
        if (slot->key_ == key) return slot;
    }
    return nullptr;
}

GranuleCache::Found GranuleCache::find(const GranuleKey& key) {
    const std::lock_guard guard(mutex_);
    Slot* const slot = look(key);
    if (slot == nullptr) return {};
    ++slot->pins_;
    slot->used_again_ = true;
    if (std::exchange(slot->ahead_, false)) --ahead_;
    return {slot, slot->state_ == Slot::State::kReady};
}

GranuleCache::Claim GranuleCache::claim(const GranuleKey& key, bool ahead, Slot*& slot) {
    const std::lock_guard guard(mutex_);
    if (look(key) != nullptr) return Claim::kExists;
    if (ahead && ahead_ >= slots_.size() / 2) return Claim::kRefused;
    slot = victim();
    if (slot == nullptr) return Claim::kRefused;
    forget(*slot);
    slot->key_ = key;
    slot->state_ = Slot::State::kLoading;
    slot->pins_ = 1;
    slot->used_again_ = false;
    slot->ahead_ = ahead;
    if (ahead) ++ahead_;
    Slot*& first = buckets_[bucket(key)];
    slot->next_ = std::exchange(first, slot);
    return Claim::kMine;
}

// Two rounds at most: the first takes second chances away.
GranuleCache::Slot* GranuleCache::victim() {
    for (std::size_t steps = 0; steps < 2 * slots_.size(); ++steps) {
        Slot& slot = slots_[hand_];
        hand_ = (hand_ + 1) % slots_.size();
        if (slot.pins_ == 0 && !std::exchange(slot.used_again_, false)) return &slot;
    }
    return nullptr;
}

void GranuleCache::forget(Slot& slot) {
    if (slot.state_ == Slot::State::kFree) return;
    Slot** at = &buckets_[bucket(slot.key_)];
    while (*at != &slot) at = &(*at)->next_;
    *at = slot.next_;
    slot.state_ = Slot::State::kFree;
    if (std::exchange(slot.ahead_, false)) --ahead_;
}

void GranuleCache::finish(Slot& slot, bool verified) {
    Loaded* waiting = nullptr;
    {
        const std::lock_guard guard(mutex_);
        if (verified) {
            slot.state_ = Slot::State::kReady;
        } else {
            forget(slot);
        }
        waiting = std::exchange(slot.waiting_, nullptr);
    }
    while (waiting != nullptr) {
        Loaded& each = *waiting;
        waiting = each.next_;
        uring::Turn::next(each.waiter_);  // the node may be gone after this
    }
}

void GranuleCache::unpin(Slot& slot, bool consumed) {
    const std::lock_guard guard(mutex_);
    --slot.pins_;
    if (consumed) slot.used_again_ = false;
}

bool GranuleCache::Loaded::await_suspend(std::coroutine_handle<> waiter) {
    const std::lock_guard guard(cache_.mutex_);
    if (slot_.state_ != Slot::State::kLoading) return false;
    waiter_ = waiter;
    next_ = std::exchange(slot_.waiting_, this);
    return true;
}

bool GranuleCache::Loaded::await_resume() const {
    const std::lock_guard guard(cache_.mutex_);
    return slot_.state_ == Slot::State::kReady;
}

}  // namespace kvfs::store
