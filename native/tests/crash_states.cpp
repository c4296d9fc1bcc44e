#include "tests/crash_states.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <unordered_set>

#include "format/superblock.hpp"

namespace kvfs::crash {
namespace {

bool has_unit(const Tear& tear, std::uint64_t unit) {
    if (tear.first != 0) return unit < tear.first;
    std::uint64_t x = tear.draw + unit * 0x9e3779b97f4a7c15ULL;  // splitmix64's finaliser
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return ((x ^ x >> 31) & 1) != 0;
}

void apply(MemoryDevice& device, const Write& write, const Tear& tear) {
    const std::uint64_t unit = tear.unit == 0 ? write.size : tear.unit;
    for (std::uint64_t at = 0; at < write.size; at += unit) {
        if (tear.unit != 0 && !has_unit(tear, at / unit)) continue;
        const std::uint64_t n = std::min(unit, write.size - at);
        if (write.data.empty()) {
            device.zero(write.offset + at, n);
        } else {
            device.write(write.offset + at, {write.data.data() + at, n});
        }
    }
}

Tear draw_tear(const Write& write, std::mt19937_64& random) {
    Tear tear;
    tear.unit = static_cast<std::uint32_t>(random() % 2 == 0 && write.size > kBlock ? kBlock : kSector);
    const std::uint64_t units = write.size / tear.unit;
    if (random() % 2 == 0) {
        tear.first = static_cast<std::uint32_t>(1 + random() % std::max<std::uint64_t>(units - 1, 1));
    } else {
        tear.draw = random();
    }
    return tear;
}

std::vector<Present> draw_subset(const Trace& trace, const std::vector<std::size_t>& open, std::mt19937_64& random) {
    const std::uint64_t one = random() % open.size();
    const std::uint64_t mode = random() % 6;
    std::vector<Present> out;
    for (std::size_t i = 0; i < open.size(); ++i) {
        bool there = false;
        switch (mode) {
            case 0:  // all but one
                there = i != one;
                break;
            case 1:  // that one alone
                there = i == one;
                break;
            case 2:  // only what was sent last
                there = i >= one;
                break;
            case 3:  // nothing
                break;
            default:
                there = random() % 2 == 0;
        }
        if (!there) continue;
        const bool torn = mode == 5 ? random() % 3 == 0 : random() % 12 == 0;
        out.push_back({open[i], torn ? draw_tear(trace.writes[open[i]], random) : Tear{}});
    }
    return out;
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
    return (hash ^ value) * 0x9fb21c651e98df25ULL + (hash >> 29);
}

const char* kind_of(const Write& write) {
    if (write.data.empty()) return "trim";
    if (write.data.size() >= 8) {
        if (std::memcmp(write.data.data(), format::kSuperblockMagicBytes, 8) == 0) return "superblock";
        if (std::memcmp(write.data.data(), format::kSegmentMagicBytes, 8) == 0) return "segment header";
        std::uint32_t magic = 0;
        std::memcpy(&magic, write.data.data(), sizeof magic);
        if (magic == format::kFrameMagic) return "frame";
    }
    return "data";
}

}  // namespace

std::vector<std::size_t> undecided(const Trace& trace, Time crash) {
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < trace.writes.size(); ++i) {
        if (trace.writes[i].sent > crash) break;
        if (trace.writes[i].durable > crash) out.push_back(i);
    }
    return out;
}

std::vector<State> plan_states(const Trace& trace, std::size_t count, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<Time> durable;
    durable.reserve(trace.writes.size());
    for (const Write& write : trace.writes) durable.push_back(write.durable);
    std::sort(durable.begin(), durable.end());
    std::vector<State> out;
    std::unordered_set<std::uint64_t> seen;
    const auto add = [&](State state) {
        // by what is on the device, and by the time: a later one has heard more promises
        std::uint64_t key =
            mix(state.crash, static_cast<std::uint64_t>(std::upper_bound(durable.begin(), durable.end(), state.crash) -
                                                        durable.begin()));
        for (const Present& present : state.present) {
            key = mix(mix(mix(key, present.write), std::uint64_t{present.tear.unit} << 32 | present.tear.first),
                      present.tear.draw);
        }
        if (seen.insert(key).second) out.push_back(std::move(state));
    };
    const std::size_t stride = (trace.writes.size() + count - 1) / count;
    for (std::size_t i = random() % std::max<std::size_t>(stride, 1); i < trace.writes.size(); i += stride) {
        State state;
        state.crash = trace.writes[i].back == kNever ? trace.writes[i].sent : trace.writes[i].back;
        for (const std::size_t open : undecided(trace, state.crash)) {
            if (trace.writes[open].back <= state.crash) state.present.push_back({open, {}});
        }
        add(std::move(state));
    }
    const std::size_t all = out.size() + count;
    for (std::size_t attempts = 0; out.size() < all && attempts < 20 * count; ++attempts) {
        State state;
        state.crash = 1 + random() % trace.end;
        const auto open = undecided(trace, state.crash);
        if (open.empty()) continue;
        state.present = draw_subset(trace, open, random);
        add(std::move(state));
    }
    std::stable_sort(out.begin(), out.end(), [](const State& a, const State& b) { return a.crash < b.crash; });
    return out;
}

Images::Images(const Trace& trace) : trace_(trace), image_(trace.base), order_(trace.writes.size()), device_(image_) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::size_t a, std::size_t b) { return trace.writes[a].durable < trace.writes[b].durable; });
}

MemoryDevice& Images::at(const State& state) {
    device_.reset();
    if (durable_ < order_.size() && trace_.writes[order_[durable_]].durable <= state.crash) {
        for (; durable_ < order_.size() && trace_.writes[order_[durable_]].durable <= state.crash; ++durable_) {
            apply(device_, trace_.writes[order_[durable_]], {});
        }
        device_.keep();
    }
    for (const Present& present : state.present) apply(device_, trace_.writes[present.write], present.tear);
    return device_;
}

std::string describe(const Trace& trace, const State& state) {
    std::ostringstream out;
    const auto open = undecided(trace, state.crash);
    out << "crash at event " << state.crash << " of " << trace.end << "; of " << open.size()
        << " writes that no flush had followed, " << state.present.size() << " are there\n";
    auto present = state.present.begin();
    for (const std::size_t number : open) {
        const Write& write = trace.writes[number];
        const bool there = present != state.present.end() && present->write == number;
        out << "  " << (there ? "there  " : "missing") << " #" << number << " byte " << write.offset << " +"
            << write.size << " " << kind_of(write) << (write.back > state.crash ? ", under way" : "");
        if (there && present->tear.unit != 0) {
            out << ", torn at " << present->tear.unit;
            if (present->tear.first != 0) out << " after " << present->tear.first << " units";
        }
        if (there) ++present;
        out << "\n";
    }
    return out.str();
}

std::string to_text(const State& state) {
    std::ostringstream out;
    out << state.crash;
    for (const auto& [write, tear] : state.present) {
        out << "," << write;
        if (tear.unit != 0) out << ":" << tear.unit << ":" << tear.first << ":" << tear.draw;
    }
    return out.str();
}

State parse_state(const std::string& text) {
    State state;
    std::istringstream in(text);
    const auto wrong = [&] {
        return std::invalid_argument("expected EVENT[,WRITE[:UNIT:FIRST:DRAW]]..., found " + text);
    };
    if (!(in >> state.crash)) throw wrong();
    for (char c = 0; in >> c;) {
        Present present;
        if (c != ',' || !(in >> present.write)) throw wrong();
        if (in.peek() == ':') {
            char a = 0;
            char b = 0;
            char d = 0;
            if (!(in >> a >> present.tear.unit >> b >> present.tear.first >> d >> present.tear.draw)) throw wrong();
        }
        state.present.push_back(present);
    }
    return state;
}

}  // namespace kvfs::crash
