// How long the requests that a ring has at the device have been there, without a list of them.
//
// Requests that are sent during the same tick of a clock are counted together, so a request costs two additions. The
// count of a request that is never answered stays where it is: its tick is not used again. When all ticks are held up
// like that, new requests are counted with the youngest of them and look older than they are; whoever acts on an age
// looks at the age of what it acts on as well (see Patience).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace kvfs::uring {

class Ages {
public:
    // The tick that a request is counted with; for leave(). Any thread.
    std::uint8_t enter() {
        const std::uint8_t tick = now_.load(std::memory_order_relaxed);
        ticks_[tick].count.fetch_add(1, std::memory_order_relaxed);
        return tick;
    }
    void leave(std::uint8_t tick) { ticks_[tick].count.fetch_sub(1, std::memory_order_relaxed); }

    // A new tick begins. One thread's business.
    void tick(std::int64_t now_ns) {
        for (std::size_t i = 0; i < ticks_.size(); ++i) {
            if (ticks_[i].count.load(std::memory_order_relaxed) != 0) continue;
            ticks_[i].since_ns.store(now_ns, std::memory_order_relaxed);
            now_.store(static_cast<std::uint8_t>(i), std::memory_order_relaxed);
            return;
        }
    }
    // When the oldest request was sent, at the latest a tick after that; `now_ns` when there is none.
    [[nodiscard]] std::int64_t oldest_ns(std::int64_t now_ns) const {
        std::int64_t oldest = now_ns;
        for (const Tick& each : ticks_) {
            const auto since = each.since_ns.load(std::memory_order_relaxed);
            if (each.count.load(std::memory_order_relaxed) != 0 && since < oldest) oldest = since;
        }
        return oldest;
    }

private:
    struct Tick {
        std::atomic<std::uint32_t> count{0};
        std::atomic<std::int64_t> since_ns{0};
    };
    std::array<Tick, 16> ticks_{};
    std::atomic<std::uint8_t> now_{0};
};

}  // namespace kvfs::uring
