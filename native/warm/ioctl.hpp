// What `kvfsctl warm` asks of a mount, by ioctl(2) on a file that it has opened for reading as its caller: whoever may
// read a file may have it warmed. The same layout is in kvfs/fs/warm.py.
//
//   report  0  size         u64  of the file
//           8  warm_bytes   u64  of it in the tier: all or nothing today
//          16  state        u32  Warmth
//          20  flags        u32  in: 0; out: 1 = its opens for reading may be passthrough
//
// Errors: ENOTTY where there is no tier (a file system without one answers so by itself), EINVAL for a report that is
// too small or has flags set, ENOSPC when the tier has no room that may be taken, ESTALE when the file changes all the
// time, EIO when it cannot be read. A page that is in use by passthrough, perhaps by who asks, is evicted when the last
// of its users closes it; the report says kWarm till then.
#pragma once

#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "uring/async.hpp"
#include "warm/tier.hpp"

namespace kvfs::warm {

struct Report {
    std::uint64_t size;
    std::uint64_t warm_bytes;
    std::uint32_t state;
    std::uint32_t flags;
};
static_assert(sizeof(Report) == 24);

inline constexpr std::uint32_t kReportPassthrough = 1;

inline constexpr unsigned kIoctlType = 'K';
inline constexpr std::uint32_t kIocWarm = _IOWR(kIoctlType, 0x77, Report);       // returns when the file is in
inline constexpr std::uint32_t kIocWarmState = _IOWR(kIoctlType, 0x78, Report);  // changes nothing
inline constexpr std::uint32_t kIocWarmEvict = _IOWR(kIoctlType, 0x79, Report);  // makes room

// `in` and `out` stay valid until the task is done; `out` gets a Report. 0 or a negative errno.
uring::Async<int> control(Tier& tier, std::uint64_t ino, std::uint32_t command, std::span<const std::byte> in,
                          std::span<std::byte> out);

}  // namespace kvfs::warm
