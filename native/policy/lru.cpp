#include "policy/lru.hpp"

namespace kvfs::policy {

void Lru::admitted(ObjectId id, std::uint64_t /*length*/, const Access& access) {
    if (is_resident(id)) return touched(id, access);
    order_.reserve(id);
    if (id >= resident_.size()) Order::grow(resident_, id);
    resident_[id] = true;
    order_.push_hot(list_, id);
}

void Lru::touched(ObjectId id, const Access& /*access*/) {
    if (!is_resident(id)) return;
    order_.erase(list_, id);
    order_.push_hot(list_, id);
}

void Lru::removed(ObjectId id) {
    if (!is_resident(id)) return;
    order_.erase(list_, id);
    resident_[id] = false;
}

std::uint64_t Lru::victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) {
    std::uint64_t bytes = 0;
    auto left = list_.size;  // those that are refused go to the hot end and are not met again
    for (auto id = list_.cold; left > 0 && bytes < bytes_wanted; --left) {
        const auto next = order_.hotter(id);
        if (filter && !filter(id)) {
            id = next;
            continue;
        }
        order_.erase(list_, id);
        if (host_.may_evict(id)) {
            resident_[id] = false;
            out.push_back(id);
            bytes += host_.space(id);
            ++evicted_;
        } else {
            order_.push_hot(list_, id);
            ++refused_;
        }
        id = next;
    }
    return bytes;
}

Statistics Lru::statistics() const {
    return {.resident = list_.size,
            .evicted = evicted_,
            .refused = refused_,
            .memory_bytes = order_.memory_bytes() + resident_.capacity() / 8};
}

}  // namespace kvfs::policy
