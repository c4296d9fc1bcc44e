#include "warm/headroom.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

namespace kvfs::warm {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

// The number in a file that holds one. Nothing when the file is absent or says "max".
std::optional<std::uint64_t> number_in(const std::string& path) {
    std::ifstream file(path);
    std::uint64_t value = 0;
    if (file >> value) return value;
    return std::nullopt;
}

// The number after `name` at the start of a line, as in "MemTotal:  5 kB" and "inactive_file 4096".
std::optional<std::uint64_t> field_in(const std::string& path, const std::string& name) {
    std::ifstream file(path);
    std::string word;
    std::uint64_t value = 0;
    std::string line;
    while (std::getline(file, line)) {
        std::istringstream text(line);
        if (text >> word >> value && word == name) return value;
    }
    return std::nullopt;
}

}  // namespace

Headroom::Headroom(const std::string& root) : meminfo_(root + "/proc/meminfo") {
    find_groups(root);
    // A twentieth, as a machine with less free is slow already; no more than 2 GiB, as that is enough for anybody to
    // react.
    floor_ = std::clamp<std::uint64_t>(read().total / 20, 64 * kMiB, 2048 * kMiB);
    missing();
}

// /proc/self/cgroup has "0::/path" for v2 and "4:memory:/path" for v1. In a container the path may be the host's and
// lead nowhere; the top of the mounted hierarchy is then the container's own group. Limits of every level apply.
void Headroom::find_groups(const std::string& root) {
    std::ifstream file(root + "/proc/self/cgroup");
    std::string line;
    while (std::getline(file, line)) {
        const std::size_t first = line.find(':');
        const std::size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool is_v2 = controllers.empty();
        if (!is_v2 && controllers != "memory") continue;  // v1 has no reason to mount it together with others
        const std::string hierarchy = root + (is_v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory");
        std::string path = line.substr(second + 1);
        if (path == "/") path.clear();
        for (;;) {
            std::string at = hierarchy;
            at += path;
            if (is_v2) {
                groups_.push_back({at + "/memory.max", at + "/memory.current", at + "/memory.stat", "inactive_file"});
            } else {
                groups_.push_back({at + "/memory.limit_in_bytes", at + "/memory.usage_in_bytes", at + "/memory.stat",
                                   "total_inactive_file"});
            }
            if (path.empty()) break;
            path.resize(path.rfind('/'));
        }
    }
    std::erase_if(groups_, [](const Group& group) { return !std::ifstream(group.usage).good(); });
}

MemoryReading Headroom::read() const {
    MemoryReading reading;
    reading.total = field_in(meminfo_, "MemTotal:").value_or(0) * 1024;
    reading.available = field_in(meminfo_, "MemAvailable:").value_or(0) * 1024;
    for (const Group& group : groups_) {
        const auto limit = number_in(group.limit);
        const auto usage = number_in(group.usage);
        // v1 says "no limit" by a number near 2^63
        if (!limit || !usage || *limit >= reading.total) continue;
        const std::uint64_t used = *usage - std::min(*usage, field_in(group.stat, group.reclaimable).value_or(0));
        reading.total = *limit;
        reading.available = std::min(reading.available, *limit - std::min(*limit, used));
    }
    return reading;
}

std::uint64_t Headroom::missing() {
    const std::uint64_t available = read().available;
    room_.store(static_cast<std::int64_t>(available) - static_cast<std::int64_t>(floor_), std::memory_order_relaxed);
    return floor_ - std::min(floor_, available);
}

bool Headroom::take(std::uint64_t bytes) {
    const auto wanted = static_cast<std::int64_t>(bytes);
    if (room_.fetch_sub(wanted, std::memory_order_relaxed) >= wanted) return true;
    missing();
    return room_.fetch_sub(wanted, std::memory_order_relaxed) >= wanted;
}

}  // namespace kvfs::warm
