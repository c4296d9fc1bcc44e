// Small forms of what an inode keeps: memory per file is a promise (see inodes.hpp).
#pragma once

#include <cstdint>
#include <optional>

namespace kvfs::store {

// An integer of 48 bits: a file's size (at most 16 TiB).
class Uint48 {
public:
    Uint48() = default;
    // NOLINTNEXTLINE(google-explicit-constructor): it stands for the integer
    Uint48(std::uint64_t value)
        : low_(static_cast<std::uint16_t>(value)),
          middle_(static_cast<std::uint16_t>(value >> 16)),
          high_(static_cast<std::uint16_t>(value >> 32)) {}
    // NOLINTNEXTLINE(google-explicit-constructor)
    operator std::uint64_t() const { return std::uint64_t{high_} << 32 | std::uint64_t{middle_} << 16 | low_; }

private:
    std::uint16_t low_ = 0;
    std::uint16_t middle_ = 0;
    std::uint16_t high_ = 0;
};
static_assert(sizeof(Uint48) == 6);

// A time in 32 bits, as its distance from the inode's mtime: 30 bits with a sign, in units of 2^10 ns (to 9 minutes),
// of 2^16 ns (to 10 hours) or of 2^26 ns, 67 ms (to 416 days). The store's clock ticks in units of 2^10 ns, so what
// happens around a file's writing is exact. What has to be and is not, or is further away, is kept elsewhere
// (kElsewhere).
class TimeCode {
public:
    static constexpr std::int64_t kTick = 1 << 10;  // ns
    static constexpr std::uint32_t kElsewhere = 0xffffffff;

    // Rounded down, unless `exact`; nothing where that cannot be.
    static std::optional<std::uint32_t> of(std::int64_t time_ns, std::int64_t mtime_ns, bool exact) {
        std::int64_t distance = 0;
        if (__builtin_sub_overflow(time_ns, mtime_ns, &distance)) return std::nullopt;
        for (std::uint32_t scale = 0; scale < kScales; ++scale) {
            const std::int64_t units = distance >> kShift[scale];
            if (units < -kMost || units >= kMost) continue;
            if (exact && units << kShift[scale] != distance) break;  // a coarser unit cannot be exact either
            return scale << kBits | (static_cast<std::uint32_t>(units) & kMask);
        }
        return std::nullopt;
    }
    // Not of kElsewhere.
    static std::int64_t decode(std::uint32_t code, std::int64_t mtime_ns) {
        const auto units = static_cast<std::int32_t>(code << (32 - kBits)) >> (32 - kBits);
        return mtime_ns + (std::int64_t{units} << kShift[code >> kBits]);
    }

private:
    static constexpr std::uint32_t kScales = 3;
    static constexpr unsigned kShift[kScales] = {10, 16, 26};
    static constexpr unsigned kBits = 30;
    static constexpr std::uint32_t kMask = (1U << kBits) - 1;
    static constexpr std::int64_t kMost = std::int64_t{1} << (kBits - 1);
};

}  // namespace kvfs::store
