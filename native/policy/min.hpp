// The optimum that knows the future: what is used farthest in the future goes first (Belady, "A study of replacement
// algorithms for a virtual-storage computer", 1966), a block that has just come included. Of blocks that the same
// request uses next the last goes first, since a block is worthless without those before it.
#pragma once

#include <queue>
#include <vector>

#include "policy/future.hpp"
#include "policy/order.hpp"
#include "policy/policy.hpp"

namespace kvfs::policy {

class Min final : public Policy {
public:
    Min(const Host& host, const Future& future) : host_(host), future_(future), lists_(future.requests() + 1) {}

    void admitted(ObjectId id, std::uint64_t length, const Access& access) override;
    void touched(ObjectId id, const Access& access) override;
    void removed(ObjectId id) override;
    void missed(Key /*key*/, const Access& /*access*/) override {}
    std::uint64_t victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) override;
    [[nodiscard]] Statistics statistics() const override;

private:
    static constexpr std::uint32_t kAbsent = 0xffffffff;
    void insert(ObjectId id);
    [[nodiscard]] bool is_resident(ObjectId id) const { return id < filed_.size() && filed_[id] != kAbsent; }

    const Host& host_;
    const Future& future_;
    Order order_;
    std::vector<Order::List> lists_;          // by the request that uses them next
    std::vector<std::uint32_t> filed_;        // in which list an object is
    std::priority_queue<std::uint32_t> far_;  // lists that are not empty, and some that are by now
    std::uint64_t residents_ = 0;
    std::uint64_t evicted_ = 0;
};

}  // namespace kvfs::policy
