// A cache of so many blocks under one policy, driven by a trace as an engine drives a store.
//
// A request looks its blocks up in order, until the first that is missing: those are its prefix hits. It computes the
// others, which takes kCompute, and all of them are then there: a block that is missing is admitted, one that is there
// behind the first miss is touched. Every block takes one place, a partial one too. What the policy is told is in
// policy.hpp: the order of calls, the client, the time, and of an admitted block its length. What it is not told: where
// a request begins, or its length.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "policy/future.hpp"
#include "policy/policy.hpp"
#include "policy/trace.hpp"

namespace kvfs::policy {

class Simulation final : public Host {
public:
    // `policy`: one of policy_names(); std::invalid_argument for another, or no capacity. The trace must outlive this.
    Simulation(const Trace& trace, std::string_view policy, std::uint64_t capacity_blocks);
    ~Simulation() override;
    Simulation(const Simulation&) = delete;
    Simulation& operator=(const Simulation&) = delete;

    // Those of the peers that know the future are here only.
    static const std::vector<std::string_view>& policy_names();

    // Runs the next `requests`; false when the trace has ended.
    bool step(std::size_t requests);

    struct Result {
        std::uint64_t requests = 0;
        std::uint64_t references = 0;
        std::uint64_t prefix_hits = 0;  // references whose request hit all blocks before them too
        std::uint64_t hits = 0;         // references to blocks that were there
        std::uint64_t most_resident = 0;
        std::uint64_t cpu_ns = 0;
        Statistics policy;
    };
    [[nodiscard]] Result result() const;

    [[nodiscard]] std::uint64_t space(ObjectId /*id*/) const override { return 1; }
    [[nodiscard]] Key key(ObjectId id) const override;
    [[nodiscard]] bool may_evict(ObjectId /*id*/) const override { return true; }

private:
    void run(const Trace::Request& request);

    const Trace& trace_;
    std::uint64_t capacity_;
    std::unique_ptr<Future> future_;  // for those that need it
    std::unique_ptr<Policy> policy_;
    std::vector<bool> resident_;
    std::uint64_t residents_ = 0;
    std::vector<ObjectId> ids_;      // of the request in hand
    std::vector<ObjectId> victims_;  // of one call
    Result result_;
};

}  // namespace kvfs::policy
