// S3-FIFO: a small queue for what is new, a main one for what was used again meanwhile, ghosts of what was not (Yang,
// Zhang, Qiu, Yue, Vigfusson, "FIFO queues are all you need for cache eviction", SOSP 2023). As in the paper: the small
// queue takes a tenth, counts go up to 3, more than one use moves to the main queue, which has as many ghosts as
// places.
#pragma once

#include <vector>

#include "policy/ghost_list.hpp"
#include "policy/order.hpp"
#include "policy/policy.hpp"

namespace kvfs::policy {

class S3Fifo final : public Policy {
public:
    S3Fifo(const Host& host, const Options& options) : host_(host), capacity_bytes_(options.capacity_bytes) {}

    void admitted(ObjectId id, std::uint64_t length, const Access& access) override;
    void touched(ObjectId id, const Access& access) override;
    void removed(ObjectId id) override;
    void missed(Key /*key*/, const Access& /*access*/) override {}
    std::uint64_t victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) override;
    [[nodiscard]] Statistics statistics() const override;

private:
    enum class Where : std::uint8_t { nowhere, small, main };
    struct Object {
        Where where = Where::nowhere;
        std::uint8_t uses = 0;  // since it came into its queue, at most 3
    };
    struct Queue {
        Order::List list;
        std::uint64_t bytes = 0;
    };

    [[nodiscard]] bool is_resident(ObjectId id) const {
        return id < objects_.size() && objects_[id].where != Where::nowhere;
    }
    Queue& queue_of(Where where) { return where == Where::small ? small_ : main_; }
    void put(ObjectId id, Where where);
    void take_out(ObjectId id);

    const Host& host_;
    std::uint64_t capacity_bytes_;
    Order order_;
    Queue small_;
    Queue main_;
    GhostList ghosts_;
    std::vector<Object> objects_;
    std::uint64_t ghost_hits_ = 0;
    std::uint64_t evicted_ = 0;
    std::uint64_t refused_ = 0;
};

}  // namespace kvfs::policy
