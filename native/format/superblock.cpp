#include "format/superblock.hpp"

#include <bit>
#include <cstdio>
#include <cstring>

#include "format/checksum.hpp"

namespace kvfs::format {
namespace {

template <typename T>
std::uint32_t block_crc(const T& block) {
    T copy = block;
    copy.crc = 0;
    return crc32c(std::as_bytes(std::span(&copy, 1)));
}

template <typename... Args>
std::string print(const char* pattern, Args... args) {
    char text[256];
    std::snprintf(text, sizeof text, pattern, args...);
    return text;
}

using ull = unsigned long long;

}  // namespace

SuperblockCheck check_superblock(const Superblock& sb) {
    if (std::memcmp(sb.magic, kSuperblockMagicBytes, sizeof sb.magic) != 0) {
        return {Fault::kNotKvfs, print("expected the magic KVFSSB1, found %02x%02x%02x%02x%02x%02x%02x%02x",
                                       sb.magic[0] & 0xff, sb.magic[1] & 0xff, sb.magic[2] & 0xff, sb.magic[3] & 0xff,
                                       sb.magic[4] & 0xff, sb.magic[5] & 0xff, sb.magic[6] & 0xff, sb.magic[7] & 0xff)};
    }
    const std::uint32_t crc = block_crc(sb);
    if (crc != sb.crc) return {Fault::kCorrupt, print("expected crc32c %08x, found %08x", crc, sb.crc)};
    if (sb.version > kVersion) {
        return {Fault::kTooNew, print("expected format version %u or older, found %u", kVersion, sb.version)};
    }
    if ((sb.incompat & ~kKnownIncompat) != 0) {
        return {Fault::kTooNew, print("expected no incompatible features beyond %llx, found bits %llx",
                                      ull{kKnownIncompat}, ull{sb.incompat})};
    }
    const bool sane = std::has_single_bit(sb.segment_size) && sb.segment_size >= kMinSegment &&
                      sb.segment_size <= kMaxSegment && sb.first_segment == kFirstSegment &&
                      sb.segment_count >= kMinSegments && sb.segment_count < (1ULL << 32) && sb.size % kBlock == 0 &&
                      sb.first_segment + sb.segment_count * sb.segment_size <= sb.size - kBlock &&
                      sb.size >= kFirstSegment && sb.log_segment < sb.segment_count && sb.log_offset % kBlock == 0 &&
                      sb.log_offset >= kBlock && sb.log_offset <= sb.segment_size &&
                      (sb.checkpoint_segment < sb.segment_count || sb.checkpoint_segment == kNoSegment) &&
                      sb.owner_bytes <= kOwnerMax;
    if (!sane) {
        return {Fault::kCorrupt, print("expected a possible geometry, found %llu segments of %llu bytes in %llu",
                                       ull{sb.segment_count}, ull{sb.segment_size}, ull{sb.size})};
    }
    return {};
}

void seal_superblock(Superblock& sb) {
    std::memcpy(sb.magic, kSuperblockMagicBytes, sizeof sb.magic);
    sb.version = kVersion;
    sb.crc = block_crc(sb);
}

void seal_segment_header(SegmentHeader& header) {
    std::memcpy(header.magic, kSegmentMagicBytes, sizeof header.magic);
    header.version = kVersion;
    header.crc = block_crc(header);
}

void seal_host_mark(HostMark& mark) {
    std::memcpy(mark.magic, kHostMarkMagicBytes, sizeof mark.magic);
    mark.version = kVersion;
    mark.crc = block_crc(mark);
}

bool is_host_mark(const HostMark& mark, const Uuid& uuid) {
    return std::memcmp(mark.magic, kHostMarkMagicBytes, sizeof mark.magic) == 0 && mark.version <= kVersion &&
           mark.uuid == uuid && mark.owner_bytes <= kOwnerMax && mark.crc == block_crc(mark);
}

std::string check_segment_header(const SegmentHeader& header, const Uuid& uuid, std::uint64_t segment,
                                 std::uint64_t generation) {
    if (std::memcmp(header.magic, kSegmentMagicBytes, sizeof header.magic) != 0) return "expected the magic KVFSSEG";
    if (const auto crc = block_crc(header); crc != header.crc) {
        return print("expected crc32c %08x, found %08x", crc, header.crc);
    }
    if (header.uuid != uuid) {
        return "expected volume " + uuid_text(uuid) + ", found " + uuid_text(header.uuid);
    }
    if (header.segment != segment || header.generation != generation) {
        return print("expected segment %llu generation %llx, found %llu generation %llx", ull{segment}, ull{generation},
                     ull{header.segment}, ull{header.generation});
    }
    return {};
}

std::uint64_t default_segment_size(std::uint64_t volume_bytes) {
    const std::uint64_t wanted = std::bit_floor(volume_bytes / 256 + 1);
    return wanted < kMinSegment ? kMinSegment : wanted > kMaxSegment ? kMaxSegment : wanted;
}

std::string plan_geometry(Superblock& sb, std::uint64_t bytes, std::uint64_t segment_size) {
    const std::uint64_t smallest = kFirstSegment + kMinSegments * kMinSegment + kBlock;
    sb.size = bytes / kBlock * kBlock;
    if (sb.size < smallest) {
        return print("expected at least %llu bytes (%llu segments of 1 MiB and the superblocks), found %llu",
                     ull{smallest}, ull{kMinSegments}, ull{bytes});
    }
    sb.segment_size = segment_size != 0 ? segment_size : default_segment_size(sb.size);
    if (!std::has_single_bit(sb.segment_size) || sb.segment_size < kMinSegment || sb.segment_size > kMaxSegment) {
        return print("expected a segment size that is a power of two from 1 MiB to 256 MiB, found %llu",
                     ull{sb.segment_size});
    }
    sb.first_segment = kFirstSegment;
    sb.segment_count = (sb.size - kBlock - kFirstSegment) / sb.segment_size;
    if (sb.segment_count < kMinSegments) {
        return print("expected room for at least %llu segments, found room for %llu of %llu bytes: choose smaller ones",
                     ull{kMinSegments}, ull{sb.segment_count}, ull{sb.segment_size});
    }
    return {};
}

std::string uuid_text(const Uuid& uuid) {
    std::string out;
    char hex[3];
    for (std::size_t i = 0; i < uuid.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
        std::snprintf(hex, sizeof hex, "%02x", uuid[i]);
        out += hex;
    }
    return out;
}

}  // namespace kvfs::format
