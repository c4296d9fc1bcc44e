// Gaps: the dead parts of segments that are written to once more (see survey.cpp for how they are found).
#include <algorithm>
#include <functional>
#include <utility>

#include "store/segments.hpp"

namespace kvfs::store {
std::vector<SegmentId> Segments::worth_a_survey(std::uint64_t blocks, std::size_t most, std::uint32_t deaths) const {
    std::vector<std::pair<std::uint32_t, SegmentId>> dead;
    for (SegmentId id = 0; id < table_.size(); ++id) {
        const Segment& segment = table_[id];
        if (segment.state != SegmentState::kSealed || segment.live == 0 || segment.leases != 0) continue;
        if (segment.readers != 0) continue;  // a write that is under way may not be mapped yet
        const std::uint32_t before = segment.surveyed != 0 ? segment.surveyed : blocks_ - 1;
        if (segment.live + deaths > before) continue;
        dead.emplace_back(blocks_ - 1 - segment.live, id);
    }
    std::sort(dead.begin(), dead.end(), std::greater<>());
    std::vector<SegmentId> out;
    std::uint64_t sum = 0;
    for (const auto& [gone, id] : dead) {
        if (sum >= blocks || out.size() >= most) break;
        sum += gone;
        out.push_back(id);
    }
    return out;
}

void Segments::recycle(SegmentId id, const std::vector<Gap>& gaps) {
    Segment& segment = table_[id];
    Recycled recycled;
    for (const Gap& gap : gaps) {
        recycled.gaps.emplace(gap.blocks, gap.block);
        recycled.blocks += gap.blocks;
    }
    segment.surveyed = segment.live + static_cast<std::uint32_t>(recycled.blocks);
    if (gaps.empty()) return;
    recycled.lsn = segment.dead_lsn;
    segment.was_idle = segment.readers == 0;
    stock_ += recycled.blocks;
    segment.state = SegmentState::kOpen;
    segment.recycled = true;
    recycled_.emplace(id, std::move(recycled));
    waiting_.push_back(id);
}

// The gaps have been dead since the survey, so nobody has begun to read them after it: one instant without a reader,
// whenever it comes, is enough.
bool Segments::is_ready(SegmentId id, const Recycled& recycled) const {
    return recycled.lsn <= durable_ && table_[id].was_idle;
}

std::optional<SegmentId> Segments::open_recycled(std::uint32_t blocks) {
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
        const SegmentId id = *it;
        if (!is_ready(id, recycled_.at(id)) || fit(id, blocks) == 0) continue;
        waiting_.erase(it);
        open_.push_back(id);
        return id;
    }
    return std::nullopt;
}

// The smallest that takes them all: what is left of it is what will be hard to use.
std::uint32_t Segments::take_gap(Recycled& recycled, std::uint32_t blocks) {
    const auto it = recycled.gaps.lower_bound(blocks);
    const Gap gap{it->second, it->first};
    recycled.gaps.erase(it);
    if (gap.blocks > blocks) recycled.gaps.emplace(gap.blocks - blocks, gap.block + blocks);
    recycled.blocks -= blocks;
    recycled.misses = 0;
    stock_ -= blocks;
    return gap.block;
}

bool Segments::has_gap(std::uint32_t blocks) const {
    return std::any_of(recycled_.begin(), recycled_.end(), [&](const auto& each) {
        return is_ready(each.first, each.second) && fit(each.first, blocks) > 0;
    });
}

bool Segments::has_busy_gaps() const {
    return std::any_of(waiting_.begin(), waiting_.end(), [&](SegmentId id) { return !table_[id].was_idle; });
}

bool Segments::close_gaps(std::uint32_t blocks) {
    std::vector<SegmentId> small;
    for (const auto& each : recycled_) {
        if (blocks == 0 || fit(each.first, blocks) == 0) small.push_back(each.first);
    }
    for (const SegmentId id : small) {
        table_[id].surveyed = 0;
        seal(id);
    }
    return !small.empty();
}

}  // namespace kvfs::store
