#include "uring/rings.hpp"

#include <algorithm>

namespace kvfs::uring {
namespace {

// At the device, over all rings. Beside demand just enough to keep moving: a request of demand then finds few in front
// of it.
constexpr unsigned kPrefetchAlone = 16;
constexpr unsigned kPrefetchBesideDemand = 4;

}  // namespace

Rings::Rings(int fd, Tap* tap, unsigned count, unsigned depth, std::span<std::byte> registered) {
    count = std::max(count, 1U);
    const Ring::PrefetchLimits limits{std::max(kPrefetchAlone / count, 1U),
                                      std::max(kPrefetchBesideDemand / count, 1U)};
    for (unsigned i = 0; i < count; ++i) {
        rings_.push_back(std::make_unique<Ring>(fd, tap, depth, registered, i, demand_, limits));
    }
}

Rings::~Rings() {
    // all threads first: one that is still running may post to any ring
    for (const auto& ring : rings_) ring->stop();
}

bool Rings::buffers_registered() const {
    return std::all_of(rings_.begin(), rings_.end(), [](const auto& ring) { return ring->buffers_registered(); });
}

void Rings::tick(std::int64_t now_ns) {
    for (const auto& ring : rings_) ring->ages().tick(now_ns);
}

std::int64_t Rings::oldest_ns(std::int64_t now_ns) const {
    std::int64_t oldest = now_ns;
    for (const auto& ring : rings_) oldest = std::min(oldest, ring->ages().oldest_ns(now_ns));
    return oldest;
}

std::uint64_t Rings::changes_in_flight() const {
    std::uint64_t sum = 0;
    for (const auto& ring : rings_) sum += ring->counters().changes_in_flight.load(std::memory_order_acquire);
    return sum;
}

Rings::Statistics Rings::statistics() const {
    Statistics sum{};
    const auto get = [](const std::atomic<std::uint64_t>& value) { return value.load(std::memory_order_relaxed); };
    for (const auto& ring : rings_) {
        const RingCounters& c = ring->counters();
        sum.reads += get(c.reads);
        sum.read_bytes += get(c.read_bytes);
        sum.writes += get(c.writes);
        sum.write_bytes += get(c.write_bytes);
        sum.syncs += get(c.syncs);
        sum.errors += get(c.errors);
        sum.in_flight += get(c.in_flight);
        sum.prefetch_waiting += get(c.prefetch_waiting);
    }
    return sum;
}

}  // namespace kvfs::uring
