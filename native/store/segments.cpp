#include "store/segments.hpp"

#include <algorithm>
#include <utility>

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

std::uint64_t Segments::low() const { return reserve() + std::max<std::uint64_t>(2, table_.size() / 32); }

bool Segments::has_room_for_metadata(std::uint64_t reserved) const {
    const std::uint64_t data = (live_blocks() + reserved) * 32 / 31 / (blocks_ - 1) + 1;
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

// What `blocks` blocks can get there in one piece: 0 when nothing.
std::uint32_t Segments::fit(SegmentId id, std::uint32_t blocks) const {
    const Segment& segment = table_[id];
    if (segment.state != SegmentState::kOpen) return 0;
    if (!segment.recycled) return std::min(blocks, blocks_ - segment.used);
    const auto& gaps = recycled_.at(id).gaps;
    if (gaps.empty()) return 0;
    constexpr auto kGranule = static_cast<std::uint32_t>(format::kGranuleBlocks);
    const std::uint32_t largest = gaps.rbegin()->first;
    if (largest >= blocks) return blocks;
    return largest < kGranule ? 0 : largest / kGranule * kGranule;
}

// The open segment with the fewest writers; another one while all have one and there may be more.
std::optional<SegmentId> Segments::choose(std::uint32_t blocks, std::uint64_t floor, Stream stream, bool& opened) {
    constexpr std::uint32_t kMostMisses = 64;
    std::optional<SegmentId> best;
    std::optional<SegmentId> other;  // the other stream's: better than none
    std::optional<SegmentId> useless;
    const auto better = [this](std::optional<SegmentId> than, SegmentId id) {
        return !than || table_[id].leases < table_[*than].leases;
    };
    for (const SegmentId id : open_) {
        const Segment& segment = table_[id];
        if (fit(id, blocks) == 0) {
            if (segment.recycled && ++recycled_.at(id).misses >= kMostMisses) useless = id;
            continue;
        }
        std::optional<SegmentId>& mine = segment.recycled || segment.stream == stream ? best : other;
        if (better(mine, id)) mine = id;
    }
    if (useless) seal(*useless);
    if (best && (table_[*best].leases == 0 || open_.size() >= max_open_)) return best;
    if (const auto gap = open_recycled(blocks)) return gap;
    const bool may_open = free_.size() > floor;
    const bool comfortable = free_.size() > reserve() + max_open_;
    if (best && !(may_open && comfortable)) return best;
    // Where segments are few, one stream goes on in what the other has open, unless that is what clients must not take:
    // what the cleaner opens below their floor is what it gets more space with. Writers that nothing else helps come
    // with a floor below the reserve.
    if (other && !comfortable && (may_open || stream == Stream::kMoved || floor < reserve())) return other;
    if (!may_open) return std::nullopt;
    const auto id = take_free();
    if (!id) return other;
    table_[*id].state = SegmentState::kOpen;
    table_[*id].stream = stream;
    open_.push_back(*id);
    opened = true;
    return id;
}

std::optional<Allocation> Segments::allocate(std::uint32_t blocks, std::optional<SegmentId>& lease, std::uint64_t floor,
                                             Stream stream) {
    bool opened = false;
    if (lease && fit(*lease, blocks) == 0) end_lease(lease);
    if (!lease) {
        lease = choose(blocks, floor, stream, opened);
        if (!lease) return std::nullopt;
        ++table_[*lease].leases;
    }
    Segment& segment = table_[*lease];
    Allocation out;
    out.segment = *lease;
    out.blocks = fit(*lease, blocks);
    out.opened = opened;
    bool full = false;
    if (segment.recycled) {
        Recycled& recycled = recycled_.at(*lease);
        out.block = take_gap(recycled, out.blocks);
        full = recycled.gaps.empty();
    } else {
        out.block = segment.used;
        segment.used += out.blocks;
        full = segment.used == blocks_;
    }
    taken_ += out.blocks;
    segment.written = taken_;
    add_live(out.segment, out.blocks);
    if (stream == Stream::kMoved) copies_ += out.blocks;
    if (full) seal(out.segment);
    return out;
}

void Segments::end_lease(std::optional<SegmentId>& lease) {
    if (!lease) return;
    --table_[*lease].leases;
    close_if_dead(*lease);
    lease.reset();
}

// What is open for its gaps is worth more as a whole when nothing is left between them.
void Segments::close_if_dead(SegmentId id) {
    const Segment& segment = table_[id];
    if (segment.recycled && segment.live == 0 && segment.leases == 0) seal(id);
}

void Segments::seal(SegmentId id) {
    std::erase(open_, id);
    Segment& segment = table_[id];
    if (std::exchange(segment.recycled, false)) {
        const auto it = recycled_.find(id);
        stock_ -= it->second.blocks;
        recycled_.erase(it);
        std::erase(waiting_, id);
    }
    segment.state = SegmentState::kSealed;
    if (segment.live == 0) candidates_.push_back(id);
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
    deaths_ += blocks;
    segment.dead_lsn = std::max(segment.dead_lsn, lsn);
    if (segment.live != 0) return;
    if (segment.state == SegmentState::kSealed) candidates_.push_back(id);
    close_if_dead(id);
}

bool Segments::collect(std::uint64_t durable_lsn) {
    bool gaps = false;
    for (const SegmentId id : waiting_) {
        const std::uint64_t lsn = recycled_.at(id).lsn;
        gaps = gaps || (lsn > durable_ && lsn <= durable_lsn);
    }
    durable_ = durable_lsn;
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
    return gaps || candidates_.size() != before;
}

bool Segments::would_collect(std::uint64_t durable_lsn) const {
    return std::any_of(candidates_.begin(), candidates_.end(),
                       [&](SegmentId id) { return table_[id].dead_lsn > durable_lsn; }) ||
           std::any_of(waiting_.begin(), waiting_.end(),
                       [&](SegmentId id) { return recycled_.at(id).lsn > durable_lsn; });
}

bool Segments::has_busy_dead() const {
    return std::any_of(candidates_.begin(), candidates_.end(),
                       [this](SegmentId id) { return table_[id].readers != 0 && table_[id].leases == 0; });
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

std::uint64_t Segments::room(Stream stream) const {
    std::uint64_t room = 0;
    for (const SegmentId id : open_) {
        if (!table_[id].recycled && table_[id].stream == stream) room += blocks_ - table_[id].used;
    }
    return room;
}

std::vector<SegmentId> Segments::victims(std::size_t count, std::uint32_t limit, bool now) const {
    std::vector<std::pair<double, SegmentId>> rated;
    for (SegmentId id = 0; id < table_.size(); ++id) {
        const Segment& segment = table_[id];
        if (segment.state != SegmentState::kSealed || segment.live == 0 || segment.live > limit ||
            segment.leases != 0 || segment.waiting != 0) {
            continue;
        }
        const double live = segment.live;
        const double age = static_cast<double>(taken_ - segment.written) + blocks_;
        rated.emplace_back(now ? -live : (blocks_ - 1 - live) * age / (2 * live), id);
    }
    const auto least = std::min(count, rated.size());
    std::partial_sort(rated.begin(), rated.begin() + static_cast<std::ptrdiff_t>(least), rated.end(),
                      [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<SegmentId> out;
    out.reserve(least);
    for (std::size_t i = 0; i < least; ++i) out.push_back(rated[i].second);
    return out;
}

}  // namespace kvfs::store
