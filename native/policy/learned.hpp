// The store's policy: what goes first is what, as far as was learned, earns the fewest hits for its time in the store.
//
// Objects are in classes: used once, twice, three times, more often, and partial tails of chains, whatever their use.
// Each class is a list in order of last use. The victim is the cold end of that list whose index (reuse.hpp) is the
// lowest. What reuse looks like is learned from a fixed-size sample of keys (sample.hpp), and how often an object had
// been used outlives its eviction (ghosts.hpp). Nothing is tuned to a workload: with nothing learned it is LRU.
//
// Chains (chains.hpp): a block is worthless without the blocks before it, and all of a chain are used at the same time.
// So a chain is put into a list first block hottest: it goes from its end. And no block counts as used more often than
// the one before it.
//
// A use is counted once: another within kSameUse ticks of it (look up, open, read) changes nothing.
//
// Memory: 12 bytes for the largest id in use (8 links, 4 state), 2 for each of 1.5 to 1.75 times as many ghosts as
// residents (64 Ki at least), and 1 MiB for the sample once it is full.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "policy/chains.hpp"
#include "policy/ghosts.hpp"
#include "policy/order.hpp"
#include "policy/policy.hpp"
#include "policy/reuse.hpp"
#include "policy/sample.hpp"

namespace kvfs::policy {

class Learned final : public Policy {
public:
    explicit Learned(const Host& host);

    void admitted(ObjectId id, std::uint64_t length, const Access& access) override;
    void touched(ObjectId id, const Access& access) override;
    void removed(ObjectId id) override;
    void missed(Key key, const Access& access) override;
    std::uint64_t victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) override;
    [[nodiscard]] Statistics statistics() const override;

private:
    static constexpr unsigned kTail = 0;
    static constexpr unsigned kMaxUses = Reuse::kClasses - 1;
    static constexpr std::uint32_t kSameUse = 1;  // ticks

    struct Object {
        std::uint32_t tick : Reuse::kAgeBits;  // of its last use
        std::uint32_t uses : 2;                // less one; kMaxUses means that or more
        std::uint32_t tail : 1;
        std::uint32_t resident : 1;
    };
    static_assert(sizeof(Object) == 4);
    static_assert(kMaxUses == 4, "two bits");

    [[nodiscard]] bool is_resident(ObjectId id) const { return id < objects_.size() && objects_[id].resident; }
    static unsigned class_of(const Object& object) { return object.tail ? kTail : object.uses + 1U; }
    [[nodiscard]] std::uint32_t age(const Object& object) const { return (now_ - object.tick) & Reuse::kAgeMask; }
    void advance(std::int64_t now_ns);
    // Behind its chain's last one in the list of its class, or at the hot end where it is the first.
    void insert(ObjectId id, Chain& chain);
    void written_again(ObjectId id, std::uint64_t length, const Access& access);
    void count_use(ObjectId id);
    void learn_now_and_then();
    [[nodiscard]] std::uint32_t horizon() const;

    const Host& host_;
    Order order_;
    std::array<Order::List, Reuse::kClasses> lists_;
    std::vector<Object> objects_;
    Reuse reuse_;
    Sample sample_{reuse_};
    Ghosts ghosts_;
    Chains chains_;
    std::int64_t origin_ns_ = 0;
    std::uint32_t now_ = 0;  // ticks since the first call
    bool started_ = false;
    std::uint64_t next_lesson_ = 0;  // in events of reuse_
    std::uint64_t next_halving_ = 0;
    std::size_t residents_ = 0;
    std::uint64_t ghost_hits_ = 0;
    std::uint64_t evicted_ = 0;
    std::uint64_t refused_ = 0;
};

}  // namespace kvfs::policy
