#include "policy/sample.hpp"

#include <utility>

namespace kvfs::policy {

std::size_t Sample::place_of(Key key) const {
    auto at = home(key);
    while (slots_[at].in_use && slots_[at].key != key) at = next(at);
    return at;
}

void Sample::used(Key key, unsigned object_class, std::uint32_t now, std::uint32_t horizon) {
    auto at = place_of(key);
    if (slots_[at].in_use) {
        if (!slots_[at].missed) reuse_.used_again(slots_[at].object_class, age(slots_[at], now));
    } else {
        if (2 * (size_ + 1) > slots_.size()) {
            make_room(now, horizon);
            if (!includes(key)) return;
            at = place_of(key);
        }
        ++size_;
    }
    slots_[at] = {.key = key, .tick = now, .object_class = static_cast<std::uint8_t>(object_class), .in_use = true};
}

void Sample::missed(Key key, std::uint32_t now) {
    auto& slot = slots_[place_of(key)];
    if (!slot.in_use || slot.missed) return;
    reuse_.used_again(slot.object_class, age(slot, now));
    slot.tick = now;
    slot.missed = true;
}

void Sample::forget(Key key, std::uint32_t now) {
    const auto at = place_of(key);
    if (!slots_[at].in_use) return;
    reuse_.lost_sight_of(slots_[at].object_class, age(slots_[at], now));
    erase(at);
}

void Sample::erase(std::size_t at) {
    for (auto from = next(at); slots_[from].in_use; from = next(from)) {
        // may it move to `at`: is its home not after `at` on the way to where it is?
        const auto mask = slots_.size() - 1;
        if (((from - home(slots_[from].key)) & mask) >= ((from - at) & mask)) {
            slots_[at] = slots_[from];
            at = from;
        }
    }
    slots_[at] = {};
    --size_;
}

void Sample::rebuild(std::size_t slots, const std::vector<Slot>& kept) {
    slots_.assign(slots, {});
    size_ = kept.size();
    for (const auto& slot : kept) slots_[place_of(slot.key)] = slot;
}

void Sample::make_room(std::uint32_t now, std::uint32_t horizon) {
    std::vector<Slot> kept;
    kept.reserve(size_);
    if (size_ < kMost) {
        for (const auto& slot : slots_) {
            if (slot.in_use) kept.push_back(slot);
        }
        return rebuild(slots_.size() * 2, kept);
    }
    for (const auto& slot : slots_) {
        if (!slot.in_use) continue;
        if (age(slot, now) > horizon) {
            reuse_.lost_sight_of(slot.object_class, age(slot, now));
        } else {
            kept.push_back(slot);
        }
    }
    if (kept.size() > kMost / 4 * 3) {
        // half the keys from now on; what is known already was twice as many for the same traffic
        threshold_ /= 2;
        reuse_.halve();
        std::erase_if(kept, [this](const Slot& slot) { return !includes(slot.key); });
    }
    rebuild(slots_.size(), kept);
}

void Sample::teach(std::uint32_t now) {
    Reuse::Counts waiting{};
    for (const auto& slot : slots_) {
        if (slot.in_use) waiting[slot.object_class][Reuse::bin_of(age(slot, now))] += 1;
    }
    reuse_.learn(waiting);
}

}  // namespace kvfs::policy
