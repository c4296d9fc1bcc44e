#pragma once

#include <cstdint>

#include "store/granule_cache.hpp"
#include "store/segments.hpp"
#include "uring/inline_vector.hpp"

namespace kvfs::store {

// One checksummed unit on the device (at most 64 blocks) and the part of it that a reader wants.
struct Granule {
    SegmentId segment = 0;
    std::uint32_t block = 0;
    std::uint32_t blocks = 0;
    std::uint32_t skip = 0;
    std::uint32_t wanted = 0;
    std::uint64_t generation = 0;
    std::uint64_t checksum = 0;
    std::uint64_t logical = 0;  // block of the file that the wanted part starts at

    [[nodiscard]] GranuleKey key() const { return {std::uint64_t{segment} << 32 | block, checksum}; }
};

using Plan = uring::InlineVector<Granule, 6>;  // 1 MiB touches five granules

}  // namespace kvfs::store
