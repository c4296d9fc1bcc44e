#include "policy/reuse.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kvfs::policy {
namespace {

// An object that nothing is known of is used again at this rate divided by its age.
constexpr double kPriorRate = 0.1;
// As many objects as have to pass a bin before what they did outweighs what was assumed.
constexpr double kPriorWeight = 30;

double width(unsigned bin) { return Reuse::first_age(bin + 1) - Reuse::first_age(bin); }

using Bins = std::array<double, Reuse::kBins>;

// Time that `passed` (objects, by the age at which they were used or lost sight of) spent in each bin.
Bins exposure(const Bins& passed) {
    Bins out{};
    double beyond = 0;
    for (auto bin = Reuse::kBins; bin-- > 0;) {
        out[bin] = width(bin) * (beyond + passed[bin] / 2);
        beyond += passed[bin];
    }
    return out;
}

}  // namespace

unsigned Reuse::bin_of(std::uint32_t age) {
    if (age < 2) return age;
    const auto bits = static_cast<unsigned>(std::bit_width(age));
    return 2 * (bits - 1) + (age >> (bits - 2) & 1);
}

void Reuse::halve() {
    for (auto* counts : {&used_, &lost_}) {
        for (auto& bins : *counts) {
            for (auto& count : bins) count /= 2;
        }
    }
}

void Reuse::learn(const Counts& waiting) {
    std::array<Bins, kClasses> time{};
    Bins all_uses{};
    Bins all_time{};
    for (unsigned c = 0; c < kClasses; ++c) {
        Bins passed{};
        for (unsigned bin = 0; bin < kBins; ++bin) passed[bin] = used_[c][bin] + lost_[c][bin] + waiting[c][bin];
        time[c] = exposure(passed);
        for (unsigned bin = 0; bin < kBins; ++bin) {
            all_uses[bin] += used_[c][bin];
            all_time[bin] += time[c][bin];
        }
    }
    Bins common{};
    for (unsigned bin = 0; bin < kBins; ++bin) {
        const double assumed = kPriorRate / (first_age(bin) + width(bin) / 2 + 1);
        const double weight = kPriorWeight * width(bin);
        common[bin] = (all_uses[bin] + weight * assumed) / (all_time[bin] + weight);
    }
    for (unsigned c = 0; c < kClasses; ++c) {
        Bins used{};   // probability, for who has come to a bin
        Bins spent{};  // ticks, of who has come to a bin
        for (unsigned bin = 0; bin < kBins; ++bin) {
            const double weight = kPriorWeight * width(bin);
            const double hazard = (used_[c][bin] + weight * common[bin]) / (time[c][bin] + weight);
            used[bin] = -std::expm1(-hazard * width(bin));
            spent[bin] = used[bin] / hazard;
        }
        for (unsigned from = 0; from < kBins; ++from) {
            double alive = 1;
            double hits = 0;
            double ticks = 0;
            double best = 0;
            for (auto bin = from; bin < kBins; ++bin) {
                hits += alive * used[bin];
                ticks += alive * spent[bin];
                alive *= 1 - used[bin];
                best = std::max(best, hits / ticks);
            }
            if (c > 0) best = std::max(best, static_cast<double>(index_[c - 1][from]));
            index_[c][from] = static_cast<float>(best);
        }
    }
}

}  // namespace kvfs::policy
