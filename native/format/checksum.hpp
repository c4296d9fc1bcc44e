// The two checksums of KVFS1: crc32c for metadata blocks and frames, seeded XXH3-64 for file data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "format/format.hpp"

namespace kvfs::format {

// Castagnoli, reflected, initial and final xor ~0 (RFC 3720 B.4); `previous` continues an earlier call.
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t previous = 0);

// Checksum of one granule of file data. The seed mixes volume, segment, generation and block, so that a block that
// is intact but stale, misplaced or from another volume fails: XXH3-64 of the packed
// (uuid, segment u64, generation u64, block u64).
class DataChecksum {
public:
    explicit DataChecksum(const Uuid& uuid) : uuid_(uuid) {}
    std::uint64_t operator()(std::span<const std::byte> data, std::uint64_t segment, std::uint64_t generation,
                             std::uint64_t block) const;

private:
    Uuid uuid_;
};

std::uint64_t hash_name(std::uint32_t parent, std::string_view name, std::uint64_t seed);

// Which vector unit XXH3 runs on here, for doctor: "avx512", "avx2", "sse2" or "scalar".
const char* xxh3_vector_unit();

}  // namespace kvfs::format
