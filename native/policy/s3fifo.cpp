#include "policy/s3fifo.hpp"

#include <algorithm>

namespace kvfs::policy {

void S3Fifo::put(ObjectId id, Where where) {
    auto& queue = queue_of(where);
    objects_[id].where = where;
    order_.push_hot(queue.list, id);
    queue.bytes += host_.space(id);
}

void S3Fifo::take_out(ObjectId id) {
    auto& queue = queue_of(objects_[id].where);
    order_.erase(queue.list, id);
    queue.bytes -= host_.space(id);
    objects_[id].where = Where::nowhere;
}

void S3Fifo::admitted(ObjectId id, std::uint64_t /*length*/, const Access& access) {
    if (is_resident(id)) return touched(id, access);
    order_.reserve(id);
    if (id >= objects_.size()) Order::grow(objects_, id);
    objects_[id].uses = 0;
    const bool known = ghosts_.erase(host_.key(id));
    if (known) ++ghost_hits_;
    put(id, known ? Where::main : Where::small);
}

void S3Fifo::touched(ObjectId id, const Access& /*access*/) {
    if (is_resident(id)) objects_[id].uses = static_cast<std::uint8_t>(std::min(objects_[id].uses + 1, 3));
}

void S3Fifo::removed(ObjectId id) {
    if (is_resident(id)) take_out(id);
}

std::uint64_t S3Fifo::victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) {
    std::uint64_t bytes = 0;
    // each may go round three times before it has no use left; one that is refused goes round too
    auto left = 4 * (small_.list.size + main_.list.size);
    while (bytes < bytes_wanted && left-- > 0) {
        const bool from_small = main_.list.empty() || (!small_.list.empty() && small_.bytes > capacity_bytes_ / 10);
        const auto id = from_small ? small_.list.cold : main_.list.cold;
        if (id == Order::kNone) break;
        auto& object = objects_[id];
        take_out(id);
        if (from_small && object.uses > 1) {
            object.uses = 0;
            put(id, Where::main);
        } else if (!from_small && object.uses > 0) {
            --object.uses;
            put(id, Where::main);
        } else if ((filter && !filter(id)) || !host_.may_evict(id)) {
            put(id, from_small ? Where::small : Where::main);
            ++refused_;
        } else {
            if (from_small) ghosts_.push(host_.key(id));
            out.push_back(id);
            bytes += host_.space(id);
            ++evicted_;
        }
    }
    // as many as the main queue has places, for objects of the size that they have on average
    const auto all = static_cast<double>(small_.bytes + main_.bytes);
    const auto count = static_cast<double>(small_.list.size + main_.list.size);
    const auto places =
        all == 0 ? ghosts_.size() : static_cast<std::size_t>(static_cast<double>(capacity_bytes_) * 0.9 * count / all);
    while (ghosts_.size() > places) ghosts_.pop_oldest();
    return bytes;
}

Statistics S3Fifo::statistics() const {
    return {.resident = small_.list.size + main_.list.size,
            .ghosts = ghosts_.size(),
            .ghost_hits = ghost_hits_,
            .evicted = evicted_,
            .refused = refused_,
            .memory_bytes = order_.memory_bytes() + objects_.capacity() * sizeof(Object) + ghosts_.memory_bytes()};
}

}  // namespace kvfs::policy
