#include "store/physical.hpp"

#include <algorithm>

#include "store/store.hpp"

namespace kvfs::store {

void Store::set_physical(std::uint64_t total_bytes, std::uint64_t free_bytes, bool rewrites_in_place) {
    const std::lock_guard guard(mutex_);
    physical_.is_known = true;
    physical_.rewrites_in_place = rewrites_in_place;
    physical_.total_bytes = total_bytes;
    physical_.free_bytes = std::min(free_bytes, total_bytes);
    ++physical_.readings;
    if (physical_level() == PhysicalLevel::kPlenty) return;
    if (segments_.would_collect(lsn_durable_)) wake_committer();  // dead segments wait for the log, and then for TRIM
    cleaner_wake_.notify_one();
    set_physical_goal();
}

void Store::forget_physical() {
    const std::lock_guard guard(mutex_);
    physical_.is_known = false;
}

PhysicalSpace Store::physical_space() {
    const std::lock_guard guard(mutex_);
    return {physical_, usable_physical(), physical_level(), physical_blocks_to_evict() * format::kBlock};
}

// The mutex is held, here and below.
std::uint64_t Store::usable_physical() const {
    const std::uint64_t again = physical_.rewrites_in_place ? segments_.untrimmed_count() * sb_.segment_size : 0;
    return std::min(physical_.total_bytes, physical_.free_bytes + again);
}

PhysicalLevel Store::physical_level() const {
    if (!physical_.is_known) return PhysicalLevel::kPlenty;
    const std::uint64_t usable = usable_physical();
    const auto is_below = [&](std::uint64_t percent) { return usable < physical_.total_bytes / 100 * percent; };
    if (is_below(kPhysicalRefuse)) return PhysicalLevel::kRefuse;
    if (is_below(kPhysicalScarce)) return PhysicalLevel::kScarce;
    return is_below(kPhysicalLow) ? PhysicalLevel::kLow : PhysicalLevel::kPlenty;
}

void Store::set_physical_goal() {
    const bool is_scarce = physical_level() >= PhysicalLevel::kScarce;
    // where they do not count as usable they will be, in a moment
    std::uint64_t dead = physical_.rewrites_in_place ? 0 : segments_.untrimmed_count() * segments_.blocks();
    for (SegmentId id = 0; id < segments_.count(); ++id) {
        const Segment& segment = segments_.at(id);
        const bool has_data = segment.state == SegmentState::kOpen || segment.state == SegmentState::kSealed;
        if (!has_data || (is_scarce && segment.live != 0)) continue;
        dead += segment.used - std::min(segment.used, segment.live + 1);  // the header is a block, and no data
    }
    const std::uint64_t goal = physical_.total_bytes / 100 * (kPhysicalLow + kPhysicalBeyond);
    const std::uint64_t there = usable_physical() + dead * format::kBlock;
    physical_.evict_until_blocks = evicted_[static_cast<std::size_t>(EvictReason::kPhysical)].blocks;
    if (!evicts_ || there >= goal) return;
    physical_.evict_until_blocks += (goal - there) / format::kBlock;
    evictor_wanted_ = true;
    evictor_wake_.notify_one();
}

std::uint64_t Store::physical_blocks_to_evict() const {
    const std::uint64_t done = evicted_[static_cast<std::size_t>(EvictReason::kPhysical)].blocks;
    return physical_.is_known && physical_.evict_until_blocks > done ? physical_.evict_until_blocks - done : 0;
}

// Blocks that data may still take: what is above the last mark, less what was promised to data already.
std::uint64_t Store::physical_blocks_left() const {
    if (!physical_.is_known) return ~std::uint64_t{0};
    const std::uint64_t kept = physical_.total_bytes / 100 * kPhysicalRefuse + reserved_blocks_ * format::kBlock;
    const std::uint64_t usable = usable_physical();
    return usable > kept ? (usable - kept) / format::kBlock : 0;
}

void Store::charge_physical(SegmentId segment, std::uint32_t blocks) {
    if (!physical_.is_known || (physical_.rewrites_in_place && !segments_.at(segment).was_trimmed)) return;
    physical_.free_bytes -= std::min(physical_.free_bytes, blocks * format::kBlock);
}

}  // namespace kvfs::store
