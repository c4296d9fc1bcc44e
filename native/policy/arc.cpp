#include "policy/arc.hpp"

#include <algorithm>

namespace kvfs::policy {

void Arc::put(ObjectId id, Where where) {
    where_[id] = where;
    order_.push_hot(list_of(where), id);
    bytes_ += host_.space(id);
}

void Arc::take_out(ObjectId id) {
    order_.erase(list_of(where_[id]), id);
    where_[id] = Where::nowhere;
    bytes_ -= host_.space(id);
}

double Arc::capacity() const {
    const auto count = t1_.size + t2_.size;
    return count == 0 || bytes_ == 0
               ? 1
               : static_cast<double>(capacity_bytes_) * static_cast<double>(count) / static_cast<double>(bytes_);
}

void Arc::admitted(ObjectId id, std::uint64_t /*length*/, const Access& access) {
    if (where(id) != Where::nowhere) return touched(id, access);
    order_.reserve(id);
    if (id >= where_.size()) Order::grow(where_, id);
    const auto key = host_.key(id);
    const auto b1 = static_cast<double>(b1_.size());
    const auto b2 = static_cast<double>(b2_.size());
    came_from_b2_ = false;
    newest_ = Order::kNone;
    if (b1_.contains(key)) {
        target_ = std::min(target_ + std::max(b2 / b1, 1.0), capacity());
        b1_.erase(key);
        ++ghost_hits_;
        put(id, Where::t2);
    } else if (b2_.contains(key)) {
        target_ = std::max(target_ - std::max(b1 / b2, 1.0), 0.0);
        b2_.erase(key);
        ++ghost_hits_;
        came_from_b2_ = true;
        put(id, Where::t2);
    } else {
        put(id, Where::t1);
        newest_ = id;
    }
    trim_ghosts();
}

// |t1| + |b1| <= c and all four together <= 2c
void Arc::trim_ghosts() {
    const auto room = static_cast<std::size_t>(capacity());
    while (b1_.size() > 0 && t1_.size + b1_.size() > room) b1_.pop_oldest();
    while (b2_.size() > 0 && t1_.size + t2_.size + b1_.size() + b2_.size() > 2 * room) b2_.pop_oldest();
}

void Arc::touched(ObjectId id, const Access& /*access*/) {
    if (where(id) == Where::nowhere) return;
    newest_ = Order::kNone;
    take_out(id);
    put(id, Where::t2);
}

void Arc::removed(ObjectId id) {
    if (where(id) != Where::nowhere) take_out(id);
}

std::uint64_t Arc::victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) {
    std::uint64_t bytes = 0;
    ObjectId cursor1 = t1_.cold;
    ObjectId cursor2 = t2_.cold;
    auto left1 = t1_.size;
    auto left2 = t2_.size;
    while (bytes < bytes_wanted && left1 + left2 > 0) {
        // the paper replaces before it inserts: the newest does not count
        const auto in_t1 = static_cast<double>(t1_.size) - (where(newest_) == Where::t1 ? 1 : 0);
        const bool from_t1 =
            left2 == 0 || (left1 > 0 && in_t1 >= 1 && (in_t1 > target_ || (came_from_b2_ && in_t1 == target_)));
        auto& cursor = from_t1 ? cursor1 : cursor2;
        --(from_t1 ? left1 : left2);
        const auto id = cursor;
        cursor = order_.hotter(id);
        if (filter && !filter(id)) continue;
        const auto list = where_[id];
        take_out(id);
        if (!host_.may_evict(id)) {
            put(id, list);
            ++refused_;
            continue;
        }
        (list == Where::t1 ? b1_ : b2_).push(host_.key(id));
        out.push_back(id);
        bytes += host_.space(id);
        ++evicted_;
    }
    trim_ghosts();
    return bytes;
}

Statistics Arc::statistics() const {
    return {.resident = t1_.size + t2_.size,
            .ghosts = b1_.size() + b2_.size(),
            .ghost_hits = ghost_hits_,
            .evicted = evicted_,
            .refused = refused_,
            .memory_bytes = order_.memory_bytes() + where_.capacity() + b1_.memory_bytes() + b2_.memory_bytes()};
}

}  // namespace kvfs::policy
