// ARC: recency (t1, b1) and frequency (t2, b2), with the share of each learned from its ghosts (Megiddo, Modha, "ARC: a
// self-tuning, low overhead replacement cache", FAST 2003). The room that it divides is the capacity in objects of the
// size of those that are resident.
#pragma once

#include <vector>

#include "policy/ghost_list.hpp"
#include "policy/order.hpp"
#include "policy/policy.hpp"

namespace kvfs::policy {

class Arc final : public Policy {
public:
    Arc(const Host& host, const Options& options) : host_(host), capacity_bytes_(options.capacity_bytes) {}

    void admitted(ObjectId id, std::uint64_t length, const Access& access) override;
    void touched(ObjectId id, const Access& access) override;
    void removed(ObjectId id) override;
    void missed(Key /*key*/, const Access& /*access*/) override {}
    std::uint64_t victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) override;
    [[nodiscard]] Statistics statistics() const override;

private:
    enum class Where : std::uint8_t { nowhere, t1, t2 };

    [[nodiscard]] Where where(ObjectId id) const { return id < where_.size() ? where_[id] : Where::nowhere; }
    Order::List& list_of(Where where) { return where == Where::t1 ? t1_ : t2_; }
    void put(ObjectId id, Where where);
    void take_out(ObjectId id);
    [[nodiscard]] double capacity() const;  // objects
    void trim_ghosts();

    const Host& host_;
    std::uint64_t capacity_bytes_;
    std::uint64_t bytes_ = 0;
    Order order_;
    Order::List t1_;
    Order::List t2_;
    GhostList b1_;
    GhostList b2_;
    std::vector<Where> where_;
    double target_ = 0;               // of t1, in objects: the paper's p
    bool came_from_b2_ = false;       // what was admitted last
    ObjectId newest_ = Order::kNone;  // in t1, since the last victims()
    std::uint64_t ghost_hits_ = 0;
    std::uint64_t evicted_ = 0;
    std::uint64_t refused_ = 0;
};

}  // namespace kvfs::policy
