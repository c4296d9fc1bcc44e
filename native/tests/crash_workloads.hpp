// What the crashes are of: small stores under load, each made so that one part of the store is busy.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tests/crash_check.hpp"
#include "tests/crash_states.hpp"

namespace kvfs::crash {

struct Workload {
    const char* name;
    std::uint64_t size;   // of the store, which has segments of 1 MiB
    std::uint64_t share;  // of the states asked for: one in so many, where each is expensive
    unsigned clients;     // a thread and a directory each
    void (*prepare)(Client& client, unsigned number);  // not recorded
    void (*run)(Client& client, unsigned number);
    // What the store must have done for this to be about what it says.
    const char* covers;
    std::uint64_t (*covered)(store::Store& store);
    bool evicts = false;
};

std::span<const Workload> workloads();

// One life of a store, from the mount to the orderly end.
struct Recording {
    Trace trace;
    std::vector<History> histories;
    std::uint64_t covered = 0;
    std::uint64_t evicts = 0;  // 1: as the workload's store does
};

// `path`: a file that the store believes to be its device.
Recording record(const Workload& workload, const std::string& path, std::uint64_t seed);
// A life that begins with what a crash left: `state` of `before`, which leads to `found` of its histories.
Recording record_after(const Recording& before, const State& state, const std::vector<std::size_t>& found,
                       const std::string& path, std::uint64_t seed);

}  // namespace kvfs::crash
