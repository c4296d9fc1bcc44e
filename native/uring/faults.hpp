// Faults on request: a tap that makes requests to the device fail, come up short, be late, or stay unanswered.
//
// For tests. A mount has one only when its daemon was started with a hidden option, and without it a request costs the
// branch that every tap costs.
//
// Concurrency: rules come and go by any thread while requests pass; all of it is under one mutex, which no call holds
// across anything that waits. A request that is held back is asked about again every few milliseconds: the ring, or the
// plain call, is told -EAGAIN with a delay. So what holds it is looked up anew each time, and taking a rule away lets
// go of everything that it held: these requests then go to the device, as if it had come back.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <random>
#include <unordered_map>
#include <vector>

#include "uring/tap.hpp"

namespace kvfs::uring {

class FaultInjector final : public Tap {
public:
    enum class Effect : std::uint8_t { kError, kShort, kDelay, kHang };
    struct Rule {
        std::uint32_t kinds = 0;  // bits 1 << OpKind
        std::uint64_t from = 0;   // device offsets that a request must touch; requests without any match from == 0
        std::uint64_t to = ~std::uint64_t{0};
        Effect effect = Effect::kError;
        int error = 5;  // a positive errno
        std::chrono::nanoseconds delay{0};
        std::uint64_t count = ~std::uint64_t{0};  // requests that it still applies to
        std::uint64_t skip = 0;                   // and that pass before
        double probability = 1;
        // set by the injector
        std::uint64_t id = 0;
        std::uint64_t hits = 0;
    };

    explicit FaultInjector(std::uint64_t seed = 0) : random_(seed) {}

    std::uint64_t add(Rule rule);  // its id
    bool remove(std::uint64_t id);
    void clear();
    [[nodiscard]] std::vector<Rule> rules() const;
    // Requests that are being held back now.
    [[nodiscard]] std::size_t held() const;

    std::optional<Answer> before(const Request& request) override;
    int after(const Request& request, int result) override;

private:
    using Clock = std::chrono::steady_clock;
    struct Held {
        std::uint64_t rule = 0;
        Clock::time_point until;  // of a delay; a hang has none
    };
    Rule* match(const Request& request);  // counts it
    Rule* find(std::uint64_t id);

    mutable std::mutex mutex_;
    std::mt19937_64 random_;
    std::vector<Rule> rules_;
    std::uint64_t last_id_ = 0;
    std::unordered_map<const void*, Held> held_;
    std::unordered_map<const void*, bool> short_;  // requests that will come up short
};

}  // namespace kvfs::uring
