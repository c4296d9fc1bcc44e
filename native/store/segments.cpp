#include "store/segments.hpp"

#include <algorithm>

namespace kvfs::store {

void Segments::configure(std::uint64_t count, std::uint64_t blocks_per_segment, std::uint64_t epoch) {
    table_.assign(count, Segment{});
    blocks_ = static_cast<std::uint32_t>(blocks_per_segment);
    epoch_ = epoch;
    least_reserve_ = std::max<std::uint64_t>(4, count / 32);
    // several open segments let writers fill one each, so that a file lies in one piece; few where segments are few
    max_open_ = std::clamp<std::size_t>(count / 16, 1, 16);
}

std::uint64_t Segments::data_capacity() const {
    // a 32nd stays dead space, so that some segment always has more of it than the cleaner's least (see clean_some)
    // what metadata may need, not what it happens to occupy now: statfs must not move when a checkpoint comes or goes
    const std::uint64_t taken = least_reserve_ + std::max<std::uint64_t>(metadata_expected_, 4);
    return taken >= table_.size() ? 0 : (table_.size() - taken) * (blocks_ - 1) / 32 * 31;
}

std::uint64_t Segments::reserve() const {
    const std::uint64_t growth = metadata_expected_ > metadata_ ? metadata_expected_ - metadata_ : 0;
    return std::max(least_reserve_, growth + 1);
}

bool Segments::has_room_for_metadata(std::uint64_t reserved) const {
    const std::uint64_t data = (live_ + reserved) * 32 / 31 / (blocks_ - 1) + 1;
    return data + metadata_expected_ + 1 <= table_.size();
}

std::optional<SegmentId> Segments::take_free() {
    if (free_.empty()) return std::nullopt;
    const SegmentId id = free_.front();
    free_.pop_front();
    Segment& segment = table_[id];
    if (!segment.trimmed) --untrimmed_;
    const std::uint64_t generation = next_generation();
    const bool trimmed = segment.trimmed;
    segment = Segment{};
    segment.was_trimmed = trimmed;
    segment.generation = generation;
    segment.used = 1;
    return id;
}

std::optional<Allocation> Segments::allocate(std::uint32_t blocks, std::optional<SegmentId>& lease,
                                             std::uint64_t floor) {
    bool opened = false;
    if (lease && (table_[*lease].state != SegmentState::kOpen || table_[*lease].used == blocks_)) end_lease(lease);
    if (!lease) {
        // the open segment with the fewest writers; a new one while all have one and there may be more
        const auto best = std::min_element(open_.begin(), open_.end(), [this](SegmentId a, SegmentId b) {
            return table_[a].leases < table_[b].leases;
        });
        const bool may_open = free_.size() > floor;
        const bool comfortable = free_.size() > reserve() + max_open_;
        if (best == open_.end() || (table_[*best].leases > 0 && open_.size() < max_open_ && may_open && comfortable)) {
            if (!may_open) return std::nullopt;
            const auto id = take_free();
            if (!id) return std::nullopt;
            table_[*id].state = SegmentState::kOpen;
            open_.push_back(*id);
            opened = true;
            lease = id;
        } else {
            lease = *best;
        }
        ++table_[*lease].leases;
    }
    Segment& segment = table_[*lease];
    Allocation out;
    out.segment = *lease;
    out.block = segment.used;
    out.blocks = std::min(blocks, blocks_ - segment.used);
    out.opened = opened;
    segment.used += out.blocks;
    add_live(out.segment, out.blocks);
    if (segment.used == blocks_) seal(out.segment);
    return out;
}

void Segments::end_lease(std::optional<SegmentId>& lease) {
    if (!lease) return;
    --table_[*lease].leases;
    lease.reset();
}

void Segments::seal(SegmentId id) {
    std::erase(open_, id);
    table_[id].state = SegmentState::kSealed;
    if (table_[id].live == 0) candidates_.push_back(id);
}

std::optional<SegmentId> Segments::take_for_metadata() {
    const auto id = take_free();
    if (id) {
        table_[*id].state = SegmentState::kMetadata;
        ++metadata_;
    }
    return id;
}

void Segments::release_metadata(SegmentId id, std::uint64_t lsn) {
    table_[id].state = SegmentState::kSealed;
    table_[id].live = 0;
    table_[id].dead_lsn = lsn;
    --metadata_;
    candidates_.push_back(id);
}

void Segments::add_live(SegmentId id, std::uint32_t blocks) {
    table_[id].live += blocks;
    live_ += blocks;
}

void Segments::remove_live(SegmentId id, std::uint32_t blocks, std::uint64_t lsn) {
    Segment& segment = table_[id];
    segment.live -= blocks;
    live_ -= blocks;
    segment.dead_lsn = std::max(segment.dead_lsn, lsn);
    if (segment.live == 0 && segment.state == SegmentState::kSealed) candidates_.push_back(id);
}

bool Segments::collect(std::uint64_t durable_lsn) {
    const auto before = candidates_.size();
    std::erase_if(candidates_, [&](SegmentId id) {
        Segment& segment = table_[id];
        if (segment.state != SegmentState::kSealed || segment.live != 0) return true;
        if (segment.readers != 0 || segment.leases != 0 || segment.dead_lsn > durable_lsn) return false;
        segment.state = SegmentState::kFree;
        segment.trimmed = false;
        ++untrimmed_;
        free_.push_front(id);  // still backed by the device: cheaper to write than a trimmed one
        return true;
    });
    return candidates_.size() != before;
}

bool Segments::would_collect(std::uint64_t durable_lsn) const {
    return std::any_of(candidates_.begin(), candidates_.end(),
                       [&](SegmentId id) { return table_[id].dead_lsn > durable_lsn; });
}

void Segments::restore(SegmentId id, std::uint64_t generation, SegmentState state) {
    table_[id].generation = generation;
    table_[id].state = state;
    if (state == SegmentState::kMetadata) ++metadata_;
}

void Segments::rebuild_after_recovery() {
    free_.clear();
    for (SegmentId id = 0; id < table_.size(); ++id) {
        Segment& segment = table_[id];
        if (segment.state == SegmentState::kMetadata) continue;
        segment.used = blocks_;
        segment.state = segment.live > 0 ? SegmentState::kSealed : SegmentState::kFree;
        if (segment.state != SegmentState::kFree) continue;
        // one that was in use before this mount may still be backed; one that never was is not
        segment.trimmed = segment.generation == 0;
        if (!segment.trimmed) ++untrimmed_;
        free_.push_back(id);
    }
}

std::optional<SegmentId> Segments::start_trim(std::size_t keep) {
    if (untrimmed_ <= keep) return std::nullopt;
    // from the back: the ones that will be used last
    for (auto it = free_.rbegin(); it != free_.rend(); ++it) {
        if (table_[*it].trimmed) continue;
        const SegmentId id = *it;
        table_[id].state = SegmentState::kTrimming;
        free_.erase(std::next(it).base());
        return id;
    }
    return std::nullopt;
}

void Segments::finish_trim(SegmentId id) {
    table_[id].state = SegmentState::kFree;
    table_[id].trimmed = true;  // or refused: asking again would be refused again
    --untrimmed_;
    free_.push_back(id);
}

std::vector<SegmentId> Segments::victims(std::size_t count, std::uint32_t limit) const {
    std::vector<SegmentId> out;
    for (SegmentId id = 0; id < table_.size(); ++id) {
        const Segment& segment = table_[id];
        if (segment.state == SegmentState::kSealed && segment.live > 0 && segment.live <= limit &&
            segment.leases == 0) {
            out.push_back(id);
        }
    }
    const auto least = std::min(count, out.size());
    std::partial_sort(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(least), out.end(),
                      [this](SegmentId a, SegmentId b) { return table_[a].live < table_[b].live; });
    out.resize(least);
    return out;
}

}  // namespace kvfs::store
