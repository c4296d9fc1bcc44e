// A trace of requests, each an ordered list of the blocks of its prompt, block 0 first; as runs of consecutive ids,
// since sessions of coding agents repeat a thousand blocks in each of their turns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "policy/policy.hpp"

namespace kvfs::policy {

class Trace {
public:
    struct Run {
        ObjectId first = 0;
        std::uint32_t length = 0;
    };
    struct Request {
        std::int64_t now_ns = 0;
        std::uint32_t client = 0;
        float tail = 1;  // of its last block, how much is filled: 1 all of it
        std::uint64_t first_run = 0;
        std::uint32_t runs = 0;
    };

    // In order of time. Ids should be dense: memory grows with the largest.
    void add(std::int64_t now_ns, std::uint32_t client, float tail, std::span<const Run> runs) {
        requests_.push_back({.now_ns = now_ns,
                             .client = client,
                             .tail = tail,
                             .first_run = runs_.size(),
                             .runs = static_cast<std::uint32_t>(runs.size())});
        for (const auto& run : runs) {
            runs_.push_back(run);
            references_ += run.length;
            const auto end = std::size_t{run.first} + run.length;
            if (end > seen_.size()) seen_.resize(std::max(end, seen_.size() + seen_.size() / 2));
            for (auto id = std::size_t{run.first}; id < end; ++id) {
                blocks_ += seen_[id] ? 0 : 1;
                seen_[id] = true;
            }
            ids_ = std::max(ids_, static_cast<ObjectId>(end));
        }
    }
    [[nodiscard]] const std::vector<Request>& requests() const { return requests_; }
    [[nodiscard]] std::span<const Run> runs(const Request& request) const {
        return std::span(runs_).subspan(request.first_run, request.runs);
    }
    [[nodiscard]] ObjectId ids() const { return ids_; }  // all are below
    [[nodiscard]] std::uint64_t blocks() const { return blocks_; }
    [[nodiscard]] std::uint64_t references() const { return references_; }

private:
    std::vector<Request> requests_;
    std::vector<Run> runs_;
    std::vector<bool> seen_;
    ObjectId ids_ = 0;
    std::uint64_t blocks_ = 0;
    std::uint64_t references_ = 0;
};

}  // namespace kvfs::policy
