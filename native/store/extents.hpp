// Which blocks of a file lie where. An extent is a view of a checksummed run (see format.hpp, ExtentBody).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "format/format.hpp"

namespace kvfs::store {

struct Extent {
    std::uint32_t segment = 0;
    std::uint32_t block = 0;  // of the run, within the segment
    std::uint32_t blocks = 0;
    std::uint32_t skip = 0;
    std::uint32_t run_blocks = 0;
    std::vector<std::uint64_t> checksums;  // one per 64 blocks of the run
};

// A part of an extent: `blocks` blocks from `offset` blocks into the view, keeping only the granules it touches.
Extent narrow(const Extent& extent, std::uint64_t offset, std::uint64_t blocks);

struct Piece {
    std::uint64_t logical = 0;
    Extent extent;
};

class ExtentMap {
public:
    using Map = std::map<std::uint64_t, Extent>;

    [[nodiscard]] bool empty() const { return map_.empty(); }
    [[nodiscard]] std::size_t count() const { return map_.size(); }
    [[nodiscard]] std::uint64_t blocks() const { return blocks_; }
    [[nodiscard]] const Map& all() const { return map_; }

    // Unmaps [from, to) and returns what was mapped there.
    std::vector<Piece> carve(std::uint64_t from, std::uint64_t to);
    // Maps a range that is unmapped now; joins it to the extent before when both lie in one piece on the device.
    void insert(std::uint64_t logical, Extent extent);
    // Calls visit(logical, extent) for what overlaps [from, to), in order.
    template <typename Visit>
    void visit(std::uint64_t from, std::uint64_t to, Visit&& visit) const {
        auto it = map_.upper_bound(from);
        if (it != map_.begin() && std::prev(it)->first + std::prev(it)->second.blocks > from) --it;
        for (; it != map_.end() && it->first < to; ++it) visit(it->first, it->second);
    }

    // The same for at most `most` extents that reach past `from`: where to go on, or nothing at the end.
    template <typename Visit>
    std::optional<std::uint64_t> visit_some(std::uint64_t from, std::size_t most, Visit&& visit) const {
        auto it = map_.upper_bound(from);
        if (it != map_.begin() && std::prev(it)->first + std::prev(it)->second.blocks > from) --it;
        for (; it != map_.end() && most > 0; ++it, --most) visit(it->first, it->second);
        if (it == map_.end()) return std::nullopt;
        return it->first;
    }

private:
    Map map_;
    std::uint64_t blocks_ = 0;
};

}  // namespace kvfs::store
