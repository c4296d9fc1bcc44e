// A sample of keys that is watched whether they are resident or not, so that what is learned of reuse does not depend
// on what is evicted. By hash of the key, at a rate that falls as keys become many: memory is fixed (SHARDS:
// Waldspurger, Park, Garthwaite, Ahmad, "Efficient MRC construction with SHARDS", FAST 2015).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "policy/policy.hpp"
#include "policy/reuse.hpp"

namespace kvfs::policy {

class Sample {
public:
    static constexpr std::size_t kMost = std::size_t{32} * 1024;  // keys

    explicit Sample(Reuse& reuse) : reuse_(reuse), slots_(1024) {}

    [[nodiscard]] bool includes(Key key) const { return (key >> 16 & 0xffffffff) < threshold_; }

    // For keys that it includes. `now` in ticks. `horizon`: ages beyond it are of no interest when room is short.
    void used(Key key, unsigned object_class, std::uint32_t now, std::uint32_t horizon);
    // Wanted and not there: a use as far as reuse goes; that it is written then, by used(), is the same one.
    void missed(Key key, std::uint32_t now);
    void forget(Key key, std::uint32_t now);

    // Makes the indexes anew from what was seen until now.
    void teach(std::uint32_t now);

    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::size_t memory_bytes() const { return slots_.capacity() * sizeof(Slot); }

private:
    struct Slot {
        Key key = 0;
        std::uint32_t tick = 0;
        std::uint8_t object_class = 0;
        bool in_use = false;
        bool missed = false;  // since `tick`
    };
    static std::uint32_t age(const Slot& slot, std::uint32_t now) { return (now - slot.tick) & Reuse::kAgeMask; }

    // Linear probing; an erased slot is closed by moving back what follows it.
    [[nodiscard]] std::size_t home(Key key) const { return key & (slots_.size() - 1); }
    [[nodiscard]] std::size_t next(std::size_t at) const { return (at + 1) & (slots_.size() - 1); }
    std::size_t place_of(Key key) const;  // its slot or the free one where it belongs
    void erase(std::size_t at);
    void rebuild(std::size_t slots, const std::vector<Slot>& kept);
    void make_room(std::uint32_t now, std::uint32_t horizon);

    Reuse& reuse_;
    std::vector<Slot> slots_;  // a power of two, at most half of them in use
    std::size_t size_ = 0;
    std::uint64_t threshold_ = 1ULL << 32;  // of 32 bits of the key
};

}  // namespace kvfs::policy
