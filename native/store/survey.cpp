// Finding what is dead: one walk over all maps tells, for many segments at once, which of their blocks nothing refers
// to any more. There is no index from segments to files: it would cost memory for every file, and one walk (some 50 ns
// a file) pays for gaps of many megabytes.
//
// Why write into gaps at all. A store that only cleans has to move what is live to get at what is dead: at 90 % full
// and with deaths spread evenly that is several bytes moved for each one written, whatever victims are chosen. Writing
// into gaps of at least 64 KiB costs a drive nothing next to that, and nothing is moved. (Matthews et al. 1997,
// "Improving the performance of log-structured file systems with adaptive methods", hole-plugging; F2FS calls it
// threaded logging.) As long as there are free segments nobody looks for gaps: data lies in one piece then, and
// segments that die as a whole come back as a whole.
//
// Which blocks are a gap. Checksums cover granules of up to 64 blocks, and whoever reads one block of a granule
// reads all of it. So a granule is spared whole as long as one of its blocks is mapped, by the present map of a file or
// by the version that a crash would bring back (File::replaced). Where that keeps a gap from being one, what is
// mapped is read and gets checksums of its own (moving.cpp): that costs a read and a record in the log, and no write.
//
// When a gap can be written. What died there died in the log by Segment::dead_lsn: once the log is durable up to there,
// recovery finds nobody who refers to it. Whoever planned a read of it before it died has to be through
// (Segment::was_idle). Both are asked for each segment as a whole, at the end of the walk, and what dies in it after
// that is left to the next survey.
//
// Why a walk that lets go of the mutex sees all that is live. A victim is sealed, and nobody has a request under way in
// it when the walk begins: all that it holds is mapped, and nothing new comes. An extent leaves a file's map for
// `replaced` or dies; the map is looked at first, so it is met in one of the two. Only revert() goes the other way: a
// walk that met with one is thrown away. Moves, the other thing that changes maps behind a file's back, are made by the
// thread that walks.
#include <algorithm>
#include <chrono>
#include <thread>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kSlice = 4096;  // inodes or extents per hold of the mutex: a fraction of a millisecond
constexpr auto kBreath = std::chrono::microseconds(20);
constexpr std::size_t kMostVictims = 512;       // per walk
constexpr std::uint64_t kMostBits = 64U << 20;  // of the maps of a walk's victims: 8 MiB
constexpr std::size_t kMostCuts = 16384;        // per walk
constexpr std::uint32_t kLeastGap = 16;         // 64 KiB
constexpr auto kGranule = static_cast<std::uint32_t>(format::kGranuleBlocks);

// Which blocks of the victims are taken.
class TakenBlocks {
public:
    TakenBlocks(const std::vector<SegmentId>& victims, std::uint32_t blocks, std::uint64_t segments)
        : blocks_(blocks), place_(segments, kNone), taken_(victims.size() * blocks) {
        for (std::size_t i = 0; i < victims.size(); ++i) place_[victims[i]] = static_cast<std::uint32_t>(i);
    }

    [[nodiscard]] bool covers(SegmentId id) const { return place_[id] != kNone; }

    // These blocks of the extent's run.
    void add(const Extent& extent, std::uint32_t from, std::uint32_t to) {
        const auto first = taken_.begin() + static_cast<std::ptrdiff_t>(base(extent.segment) + extent.block);
        std::fill(first + from, first + to, true);
    }

    // Some gap of at least `least` blocks touches these blocks of the extent's run.
    [[nodiscard]] bool is_gap_near(const Extent& extent, std::uint32_t from, std::uint32_t to,
                                   std::uint32_t least) const {
        const std::uint32_t begin = extent.block + from;
        const std::uint32_t end = extent.block + to;
        std::uint32_t length = 0;
        for (std::uint32_t at = begin > least ? begin - least : 1; at < blocks_ && at < end + least; ++at) {
            length = taken_[base(extent.segment) + at] ? 0 : length + 1;
            if (length >= least && at >= begin && at - length + 1 < end) return true;
        }
        return false;
    }

    [[nodiscard]] std::vector<Gap> gaps(SegmentId id, std::uint32_t least) const {
        std::vector<Gap> out;
        for (std::uint32_t at = 1; at < blocks_;) {  // the first block is the header's
            const std::uint32_t from = at;
            while (at < blocks_ && !taken_[base(id) + at]) ++at;
            if (at - from >= least) out.push_back({from, at - from});
            while (at < blocks_ && taken_[base(id) + at]) ++at;
        }
        return out;
    }

private:
    static constexpr std::uint32_t kNone = ~0U;
    [[nodiscard]] std::uint64_t base(SegmentId id) const { return std::uint64_t{place_[id]} * blocks_; }

    std::uint32_t blocks_;
    std::vector<std::uint32_t> place_;  // by segment
    std::vector<bool> taken_;
};

// The granules of an extent's run that its view begins and ends in, where it does not cover them whole.
struct Edges {
    explicit Edges(const Extent& extent)
        : from(extent.skip),
          to(extent.skip + extent.blocks),
          first(from / kGranule * kGranule),
          last(static_cast<std::uint32_t>(std::min<std::uint64_t>(extent.run_blocks, format::round_up(to, kGranule)))) {
    }
    [[nodiscard]] bool are_whole() const { return from == first && to == last; }

    std::uint32_t from, to;     // the view
    std::uint32_t first, last;  // what reading it takes
};

// The parts of an extent that lie in granules which it does not cover whole: one, or one at each end.
void add_edges(const Move& whole, std::vector<Move>& out) {
    const Edges edges(whole.extent);
    const auto add = [&](std::uint32_t from, std::uint32_t to) {
        out.push_back({whole.ino, whole.logical + from - edges.from, narrow(whole.extent, from - edges.from, to - from),
                       whole.urgent, true});
    };
    const std::uint32_t head = std::min(edges.to, edges.first + kGranule);
    const std::uint32_t foot = std::max(edges.from, (edges.to - 1) / kGranule * kGranule);
    if (edges.first < edges.from || head == edges.to) add(edges.from, head);
    if (edges.to < edges.last && head != edges.to) add(foot, edges.to);
}

}  // namespace

// Calls visit(ino, logical, extent) for every extent of every map, and for what was replaced since a file's last commit
// (`replaced` true), letting go of the mutex now and then. False when it has to be done again.
bool Store::walk_extents(
    std::unique_lock<std::mutex>& guard,
    const std::function<void(InodeNumber ino, std::uint64_t logical, const Extent& extent, bool replaced)>& visit) {
    const std::uint64_t reverts = reverts_;
    std::size_t left = kSlice;
    const auto breathe = [&] {
        guard.unlock();
        // a mutex that is let go of and taken at once is not seen free by anybody
        std::this_thread::sleep_for(kBreath);
        guard.lock();
        left = kSlice;
    };
    for (InodeNumber ino = kRoot; ino < inodes_.end(); ++ino) {
        if (left == 0) breathe();
        if (stop_ || reverts_ != reverts) return false;
        --left;
        for (std::optional<std::uint64_t> from = 0; from;) {
            if (left == 0) breathe();
            const Inode* inode = inodes_.find(ino);  // again: it may be another file's by now, whose map is as good
            if (inode == nullptr || !inode->is_regular()) break;
            const std::size_t most = left;
            from = inodes_.visit_some(*inode, *from, most, [&](std::uint64_t logical, const Extent& extent) {
                visit(ino, logical, extent, false);
                --left;
            });
        }
        if (files_.empty()) continue;
        for (std::optional<std::uint64_t> from = 0; from;) {
            if (left == 0) breathe();
            const auto file = find_file(ino);
            if (!file) break;
            from = file->replaced.visit_some(*from, left, [&](std::uint64_t logical, const Extent& extent) {
                visit(ino, logical, extent, true);
                --left;
            });
        }
    }
    return reverts_ == reverts;
}

// Looks for gaps of at least `least` blocks (0: of 64 KiB), until `wanted` blocks of them are in stock. False when
// there was nothing to be found.
bool Store::survey(std::unique_lock<std::mutex>& guard, std::uint64_t wanted, std::uint32_t least) {
    if (least == 0) least = kLeastGap;
    const std::size_t most =
        std::min<std::size_t>(kMostVictims, std::max<std::uint64_t>(1, kMostBits / segments_.blocks()));
    const auto victims = segments_.worth_a_survey(wanted, most, std::min(least, kLeastGap));
    if (victims.empty()) return false;
    std::vector<std::uint64_t> generations;
    generations.reserve(victims.size());
    for (const SegmentId id : victims) generations.push_back(segments_.at(id).generation);
    TakenBlocks taken(victims, segments_.blocks(), segments_.count());
    counters_.surveys.fetch_add(1, std::memory_order_relaxed);
    std::vector<Move> partial;
    const auto note = [&](InodeNumber ino, std::uint64_t logical, const Extent& extent, bool replaced) {
        if (!taken.covers(extent.segment)) return;
        const Edges edges(extent);
        if (edges.are_whole() || replaced || partial.size() >= kMostCuts) {
            taken.add(extent, edges.first, edges.last);
        } else {
            taken.add(extent, edges.from, edges.to);
            add_edges({ino, logical, extent, !space_waiters_.empty()}, partial);
        }
    };
    if (!walk_extents(guard, note)) return !stop_;

    std::vector<Move> cuts;
    std::vector<Move> kept;
    for (Move& edge : partial) {
        const Edges edges(edge.extent);
        const bool is_worth_it =
            (edges.first < edges.from && taken.is_gap_near(edge.extent, edges.first, edges.from, least)) ||
            (edges.to < edges.last && taken.is_gap_near(edge.extent, edges.to, edges.last, least));
        (is_worth_it ? cuts : kept).push_back(std::move(edge));
    }
    run_moves(guard, cuts);
    for (Move& edge : cuts) {
        if (edge.result != Moved::kYes) kept.push_back(std::move(edge));
    }
    for (const Move& edge : kept) {
        const Edges edges(edge.extent);
        taken.add(edge.extent, edges.first, edges.last);
    }
    bool found = false;
    for (std::size_t i = 0; i < victims.size(); ++i) {
        const SegmentId id = victims[i];
        const Segment& segment = segments_.at(id);
        // all of it died meanwhile, or somebody's lease is on it again
        if (segment.state != SegmentState::kSealed || segment.generation != generations[i] || segment.live == 0)
            continue;
        const auto gaps = taken.gaps(id, least);
        segments_.recycle(id, gaps);
        if (gaps.empty()) continue;
        found = true;
        counters_.recycled_segments.fetch_add(1, std::memory_order_relaxed);
    }
    return found;
}

}  // namespace kvfs::store
