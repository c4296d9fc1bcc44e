// Which CPUs there are: the kernel's ring queues go by their numbers.
#pragma once

#include <string_view>
#include <vector>

namespace kvfs::splitter {

// All that may ever come online, as the kernel counts queues: numbers 0 to count - 1.
unsigned possible_cpus();
std::vector<int> online_cpus();
// Those that this process may run on.
std::vector<int> allowed_cpus();

// "0-3,8,10-11". Empty when it is not such a list.
std::vector<int> parse_cpu_list(std::string_view text);

}  // namespace kvfs::splitter
