#include "policy/min.hpp"

#include <algorithm>

namespace kvfs::policy {

void Min::insert(ObjectId id) {
    const auto next = future_.next_use(id);
    filed_[id] = next;
    if (lists_[next].empty()) far_.push(next);
    order_.push_hot(lists_[next], id);
}

void Min::admitted(ObjectId id, std::uint64_t /*length*/, const Access& access) {
    if (is_resident(id)) return touched(id, access);
    order_.reserve(id);
    if (id >= filed_.size()) filed_.resize(std::max(std::size_t{id} + 1, filed_.size() * 2), kAbsent);
    ++residents_;
    insert(id);
}

void Min::touched(ObjectId id, const Access& /*access*/) {
    if (!is_resident(id)) return;
    order_.erase(lists_[filed_[id]], id);
    insert(id);
}

void Min::removed(ObjectId id) {
    if (!is_resident(id)) return;
    order_.erase(lists_[filed_[id]], id);
    filed_[id] = kAbsent;
    --residents_;
}

std::uint64_t Min::victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) {
    std::uint64_t bytes = 0;
    std::vector<std::uint32_t> passed;  // lists that hold only what may not go
    while (bytes < bytes_wanted && !far_.empty()) {
        auto& list = lists_[far_.top()];
        auto id = list.hot;
        while (id != Order::kNone && ((filter && !filter(id)) || !host_.may_evict(id))) id = order_.colder(id);
        if (id == Order::kNone) {
            if (!list.empty()) passed.push_back(far_.top());
            far_.pop();
            continue;
        }
        removed(id);
        out.push_back(id);
        bytes += host_.space(id);
        ++evicted_;
    }
    for (const auto request : passed) far_.push(request);
    return bytes;
}

Statistics Min::statistics() const {
    return {.resident = residents_,
            .evicted = evicted_,
            .memory_bytes =
                order_.memory_bytes() + filed_.capacity() * sizeof(filed_[0]) + lists_.capacity() * sizeof(lists_[0])};
}

}  // namespace kvfs::policy
