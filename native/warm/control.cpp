#include <cerrno>
#include <cstring>

#include "warm/ioctl.hpp"

namespace kvfs::warm {
namespace {

// A file that changed while it was read is read again, but not for ever.
constexpr int kAttempts = 3;

}  // namespace

uring::Async<int> control(Tier& tier, std::uint64_t ino, std::uint32_t command, std::span<const std::byte> in,
                          std::span<std::byte> out) {
    if (command != kIocWarm && command != kIocWarmState && command != kIocWarmEvict) co_return -ENOTTY;
    Report report{};
    if (in.size() < sizeof report || out.size() < sizeof report) co_return -EINVAL;
    std::memcpy(&report, in.data(), sizeof report);
    if (report.flags != 0) co_return -EINVAL;

    if (command == kIocWarmEvict) tier.evict(ino);
    Warmth state{};
    int rc = tier.warmth(ino, state, report.size);
    if (rc != 0) co_return rc;
    // Behind what clients are waiting for: this is in advance.
    if (command == kIocWarm && state == Warmth::kCold) {
        rc = -ESTALE;
        for (int attempt = 0; attempt < kAttempts && rc == -ESTALE; ++attempt) {
            if (co_await tier.stage(ino, &rc, uring::Priority::kPrefetch) != nullptr) rc = 0;
        }
        if (rc == 0) rc = tier.warmth(ino, state, report.size);
        if (rc != 0) co_return rc;
    }
    report.warm_bytes = state == Warmth::kWarm ? report.size : 0;
    report.state = static_cast<std::uint32_t>(state);
    report.flags = tier.offers_passthrough() ? kReportPassthrough : 0;
    std::memcpy(out.data(), &report, sizeof report);
    co_return 0;
}

}  // namespace kvfs::warm
