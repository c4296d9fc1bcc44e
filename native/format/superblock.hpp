// Superblocks: building, judging and finding them.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "format/format.hpp"

namespace kvfs::format {

enum class Fault { kValid, kNotKvfs, kTooNew, kCorrupt };

struct SuperblockCheck {
    Fault fault = Fault::kValid;
    std::string problem;  // one line: what was expected, what was found; empty when valid
};

// Judges one copy: magic, version, incompat bits, crc, geometry against itself.
SuperblockCheck check_superblock(const Superblock& sb);

// Fills in magic, version and crc; everything else is the caller's.
void seal_superblock(Superblock& sb);
void seal_segment_header(SegmentHeader& header);

void seal_host_mark(HostMark& mark);
// Whether it is one, intact, of this volume.
bool is_host_mark(const HostMark& mark, const Uuid& uuid);

// Empty when the header belongs to this volume, segment and generation; else what is wrong with it.
std::string check_segment_header(const SegmentHeader& header, const Uuid& uuid, std::uint64_t segment,
                                 std::uint64_t generation);

// A power of two from 1 to 256 MiB that gives a store of this size some 256 segments.
std::uint64_t default_segment_size(std::uint64_t volume_bytes);

// size, segment_size, segment_count and first_segment of a volume on `bytes` of device. Empty result: fits;
// otherwise what is wrong.
std::string plan_geometry(Superblock& sb, std::uint64_t bytes, std::uint64_t segment_size);

constexpr std::uint64_t superblock_offset(std::uint32_t copy, std::uint64_t volume_bytes) {
    return copy == 0 ? kSuperblockA : copy == 1 ? kSuperblockB : volume_bytes - kBlock;
}

std::string uuid_text(const Uuid& uuid);

inline const char* copy_name(std::uint32_t copy) { return copy == 0 ? "A" : copy == 1 ? "B" : "end"; }

}  // namespace kvfs::format
