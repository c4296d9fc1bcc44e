#pragma once

#include <cstdint>

namespace kvfs::drill {

struct Allocations {
    std::uint64_t count = 0;
    std::uint64_t largest = 0;  // bytes
};

// Of all threads.
void start_counting();
Allocations stop_counting();

}  // namespace kvfs::drill
