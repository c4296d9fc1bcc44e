// Least recently used goes first.
#pragma once

#include <vector>

#include "policy/order.hpp"
#include "policy/policy.hpp"

namespace kvfs::policy {

class Lru final : public Policy {
public:
    explicit Lru(const Host& host) : host_(host) {}

    void admitted(ObjectId id, std::uint64_t length, const Access& access) override;
    void touched(ObjectId id, const Access& access) override;
    void removed(ObjectId id) override;
    void missed(Key /*key*/, const Access& /*access*/) override {}
    std::uint64_t victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) override;
    [[nodiscard]] Statistics statistics() const override;

private:
    [[nodiscard]] bool is_resident(ObjectId id) const { return id < resident_.size() && resident_[id]; }

    const Host& host_;
    Order order_;
    Order::List list_;
    std::vector<bool> resident_;
    std::uint64_t evicted_ = 0;
    std::uint64_t refused_ = 0;
};

}  // namespace kvfs::policy
