// What has been learned of reuse: how soon objects of a class are used again, and what keeping one is worth.
//
// Per class and age (logarithmic bins) it counts the uses that came at that age and the objects that passed it unused,
// which makes a hazard: uses per second of an object of that class and age. From the hazards follows the index
//
//     index(class, age) = max over T of  P(used again before age + T) / E[time kept until then, at most T]
//
// the best rate of hits per second of keeping that any deadline T achieves: the Gittins index (Gittins, "Bandit
// processes and dynamic allocation indices", 1979; hit density is its cousin in Beckmann, Chen, Cidon, "LHD", NSDI
// 2018). The hazard alone would not do: an object whose next turn is a minute away has none now and is worth keeping.
//
// Little is known at first and of rare classes always. So each class is drawn towards all classes together, and these
// towards a hazard that falls as 1 / age, under which the index orders as LRU does.
#pragma once

#include <array>
#include <cstdint>

namespace kvfs::policy {

class Reuse {
public:
    static constexpr unsigned kClasses = 5;
    static constexpr unsigned kAgeBits = 28;
    static constexpr unsigned kBins = 2 * kAgeBits;
    static constexpr std::uint32_t kAgeMask = (1U << kAgeBits) - 1;

    using Counts = std::array<std::array<float, kBins>, kClasses>;  // objects

    Reuse() { learn({}); }

    // Ages in ticks: 0 1 2 3 4-5 6-7 8-11 12-15 ...
    static unsigned bin_of(std::uint32_t age);
    static double first_age(unsigned bin) {
        return bin < 2 ? bin : static_cast<double>((2ULL + bin % 2) << (bin / 2 - 1));
    }

    void used_again(unsigned object_class, std::uint32_t age) {
        used_[object_class][bin_of(age)] += 1;
        ++events_;
    }
    // Nothing more will be known of it.
    void lost_sight_of(unsigned object_class, std::uint32_t age) { lost_[object_class][bin_of(age)] += 1; }
    // What came so far counts half from now on.
    void halve();

    // Makes the indexes anew. `waiting`: the objects under observation that have not been used again, by their age.
    void learn(const Counts& waiting);

    [[nodiscard]] float index(unsigned object_class, std::uint32_t age) const {
        return index_[object_class][bin_of(age)];
    }
    [[nodiscard]] std::uint64_t events() const { return events_; }  // uses, ever

private:
    Counts used_{};
    Counts lost_{};
    Counts index_{};  // hits per tick
    std::uint64_t events_ = 0;
};

}  // namespace kvfs::policy
