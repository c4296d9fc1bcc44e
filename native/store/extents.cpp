#include "store/extents.hpp"

#include <algorithm>
#include <iterator>

namespace kvfs::store {
namespace {

constexpr std::uint64_t kGranule = format::kGranuleBlocks;
constexpr std::uint32_t kJoinLimit = 8192;  // 32 MiB: keeps one log record within one frame of the smallest segment

}  // namespace

Extent narrow(const Extent& extent, std::uint64_t offset, std::uint64_t blocks) {
    const std::uint64_t skip = extent.skip + offset;
    const std::uint64_t first = skip / kGranule;
    const std::uint64_t start = first * kGranule;
    const std::uint64_t stop = std::min<std::uint64_t>(extent.run_blocks, format::round_up(skip + blocks, kGranule));
    const std::uint64_t granules = (stop - start + kGranule - 1) / kGranule;
    Extent out;
    out.segment = extent.segment;
    out.block = extent.block + static_cast<std::uint32_t>(start);
    out.blocks = static_cast<std::uint32_t>(blocks);
    out.skip = static_cast<std::uint32_t>(skip - start);
    out.run_blocks = static_cast<std::uint32_t>(stop - start);
    out.checksums.assign(extent.checksums.begin() + static_cast<std::ptrdiff_t>(first),
                         extent.checksums.begin() + static_cast<std::ptrdiff_t>(first + granules));
    return out;
}

std::vector<Piece> ExtentMap::carve(std::uint64_t from, std::uint64_t to) {
    std::vector<Piece> removed;
    if (from >= to) return removed;
    auto it = map_.upper_bound(from);
    if (it != map_.begin() && std::prev(it)->first + std::prev(it)->second.blocks > from) --it;
    while (it != map_.end() && it->first < to) {
        const std::uint64_t start = it->first;
        const Extent whole = std::move(it->second);
        const std::uint64_t end = start + whole.blocks;
        it = map_.erase(it);
        const std::uint64_t cut_from = std::max(start, from);
        const std::uint64_t cut_to = std::min(end, to);
        blocks_ -= cut_to - cut_from;
        if (start < from) map_.emplace(start, narrow(whole, 0, from - start));
        if (end > to) it = map_.emplace(to, narrow(whole, to - start, end - to)).first;
        removed.push_back({cut_from, narrow(whole, cut_from - start, cut_to - cut_from)});
        if (end > to) break;
    }
    return removed;
}

void ExtentMap::insert(std::uint64_t logical, Extent extent) {
    blocks_ += extent.blocks;
    auto next = map_.lower_bound(logical);
    if (next != map_.begin()) {
        const auto before = std::prev(next);
        Extent& last = before->second;
        // joined only when the earlier run is used to its end and ends on a granule: its checksums stay true
        if (before->first + last.blocks == logical && last.segment == extent.segment &&
            last.skip + last.blocks == last.run_blocks && last.run_blocks % kGranule == 0 &&
            last.block + last.run_blocks == extent.block && extent.skip == 0 &&
            last.run_blocks + extent.run_blocks <= kJoinLimit) {
            last.blocks += extent.blocks;
            last.run_blocks += extent.run_blocks;
            last.checksums.insert(last.checksums.end(), extent.checksums.begin(), extent.checksums.end());
            return;
        }
    }
    map_.emplace_hint(next, logical, std::move(extent));
}

}  // namespace kvfs::store
