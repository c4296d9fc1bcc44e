#include "splitter/cpus.hpp"

#include <sched.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <numeric>
#include <string>

namespace kvfs::splitter {

namespace {

std::vector<int> read_list(const char* path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return parse_cpu_list(line);
}

std::vector<int> first(long count) {
    std::vector<int> cpus(static_cast<std::size_t>(count > 0 ? count : 1));
    std::iota(cpus.begin(), cpus.end(), 0);
    return cpus;
}

}  // namespace

std::vector<int> parse_cpu_list(std::string_view text) {
    std::vector<int> cpus;
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at < end) {
        int from = 0;
        auto parsed = std::from_chars(at, end, from);
        if (parsed.ec != std::errc{}) return {};
        int to = from;
        if (parsed.ptr < end && *parsed.ptr == '-') {
            parsed = std::from_chars(parsed.ptr + 1, end, to);
            if (parsed.ec != std::errc{}) return {};
        }
        for (int cpu = from; cpu <= to; ++cpu) cpus.push_back(cpu);
        at = parsed.ptr;
        if (at == end) break;
        if (*at != ',') return {};
        ++at;
    }
    return cpus;
}

unsigned possible_cpus() {
    const std::vector<int> cpus = read_list("/sys/devices/system/cpu/possible");
    if (!cpus.empty()) return static_cast<unsigned>(cpus.size());
    return static_cast<unsigned>(first(sysconf(_SC_NPROCESSORS_CONF)).size());
}

std::vector<int> online_cpus() {
    std::vector<int> cpus = read_list("/sys/devices/system/cpu/online");
    return cpus.empty() ? first(sysconf(_SC_NPROCESSORS_ONLN)) : cpus;
}

std::vector<int> allowed_cpus() {
    const int most = static_cast<int>(possible_cpus()) + 1024;  // the kernel's mask may be larger than what is possible
    cpu_set_t* const set = CPU_ALLOC(most);
    const std::size_t size = CPU_ALLOC_SIZE(most);
    std::vector<int> cpus;
    if (sched_getaffinity(0, size, set) == 0) {
        for (int cpu = 0; cpu < most; ++cpu) {
            if (CPU_ISSET_S(cpu, size, set)) cpus.push_back(cpu);
        }
    }
    CPU_FREE(set);
    return cpus.empty() ? online_cpus() : cpus;
}

}  // namespace kvfs::splitter
