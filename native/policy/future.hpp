// When each block of a trace is used next, for the policy that is allowed to know. 4 bytes a reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "policy/trace.hpp"

namespace kvfs::policy {

class Future {
public:
    explicit Future(const Trace& trace);

    // The request that uses `id` next, by its place in the trace; requests() when none does.
    [[nodiscard]] std::uint32_t next_use(ObjectId id) const { return next_[id]; }
    [[nodiscard]] std::uint32_t requests() const { return requests_; }

    // Goes on by one reference, which is to `id`.
    void advance(ObjectId id) { next_[id] = after_[at_++]; }

private:
    std::uint32_t requests_;
    std::vector<std::uint32_t> after_;  // per reference, the next use of its block
    std::vector<std::uint32_t> next_;   // per block
    std::size_t at_ = 0;
};

}  // namespace kvfs::policy
