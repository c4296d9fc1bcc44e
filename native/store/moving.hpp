// Data that is to change its place, or only its checksums (see moving.cpp and survey.cpp).
#pragma once

#include <cstdint>
#include <optional>

#include "store/extents.hpp"
#include "store/inodes.hpp"
#include "store/segments.hpp"

namespace kvfs::store {

enum class Moved : std::uint8_t { kNo, kYes, kNotNow };  // kNotNow: another time, perhaps

// Blocks from `logical` on of a file, which lie where `extent` says.
struct Move {
    InodeNumber ino = 0;
    std::uint64_t logical = 0;
    Extent extent;
    bool urgent = false;    // somebody waits for the space
    bool in_place = false;  // the blocks stay, with checksums of their own
    Moved result = Moved::kNo;
};

// Moves that go on side by side. Guarded by the store's mutex.
struct MoveRun {
    std::optional<SegmentId> lease;
    unsigned under_way = 0;
};

}  // namespace kvfs::store
