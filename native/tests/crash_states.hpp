// Crash states: what a device may hold when the power goes, made from a trace.
#pragma once

#include <string>
#include <vector>

#include "tests/crash_trace.hpp"

namespace kvfs::crash {

// How much of a write is there: all of it, its first units, or some of them. A unit is a block or a sector.
struct Tear {
    std::uint32_t unit = 0;   // 0: not torn
    std::uint32_t first = 0;  // so many units from the front; 0: those that `draw` says
    std::uint64_t draw = 0;
    bool operator==(const Tear&) const = default;
};

struct Present {
    std::size_t write = 0;  // number in the trace
    Tear tear;
    bool operator==(const Present&) const = default;
};

// Everything that was durable at `crash` is there, and of what was not, only `present` (in the order of sending).
struct State {
    Time crash = 0;
    std::vector<Present> present;
};

// Prefixes of the order in which writes came back (all, or `count` of them evenly spread), and `count` different random
// subsets of what no flush had followed, some of it torn; fewer where there are no more. In the order of their crashes.
std::vector<State> plan_states(const Trace& trace, std::size_t count, std::uint64_t seed);

// What was sent and is not durable at that time.
std::vector<std::size_t> undecided(const Trace& trace, Time crash);

// Brings a device with the trace's base to one state after the other. Crashes must not go backwards.
class Images {
public:
    explicit Images(const Trace& trace);
    // The device, as at that crash: what recovery wrote since the last call is forgotten.
    MemoryDevice& at(const State& state);

private:
    const Trace& trace_;
    std::vector<std::byte> image_;
    std::vector<std::size_t> order_;  // writes by the time they are durable
    std::size_t durable_ = 0;         // of `order_`: part of the image
    MemoryDevice device_;
};

// For a person: what each present write is, and what is missing.
std::string describe(const Trace& trace, const State& state);
// A line that parse_state() reads.
std::string to_text(const State& state);
State parse_state(const std::string& text);  // std::invalid_argument

}  // namespace kvfs::crash
