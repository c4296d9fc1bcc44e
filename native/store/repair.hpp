// fsck --repair: keep of a damaged volume what can be trusted, drop the rest, and say so.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "store/check.hpp"
#include "store/store.hpp"

namespace kvfs::store {

struct RepairReport {
    CheckReport before;
    std::vector<std::string> done;  // one line each, in order
    std::uint64_t files_dropped = 0;
    CheckReport after;  // as `before` when there was nothing to do
};

// Checks the volume and, when that found anything, repairs it and checks its metadata again. A volume without problems
// is not written to. Throws OpenError when it cannot be opened, is in use, or has no room for a new checkpoint.
// `progress` as in check_volume(). `opened`: with what it is opened to be repaired, whose it is above all.
RepairReport repair_volume(const std::string& path, bool verify_data,
                           const std::function<void(std::uint64_t, std::uint64_t)>& progress, Options opened = {});

}  // namespace kvfs::store
