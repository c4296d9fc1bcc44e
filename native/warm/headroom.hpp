// How much memory this process may still take, from the kernel's own figures: of the machine and of every memory
// cgroup that it lies in, v1 or v2.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace kvfs::warm {

struct MemoryReading {
    std::uint64_t total = 0;      // what the machine, or the tightest cgroup, has
    std::uint64_t available = 0;  // of it, without anybody having to swap
};

class Headroom {
public:
    // `root`: in front of /proc and /sys, for tests.
    explicit Headroom(const std::string& root = "");

    [[nodiscard]] MemoryReading read() const;
    // What is left to others, always.
    [[nodiscard]] std::uint64_t floor() const { return floor_; }

    // Whether `bytes` more can be had and the floor stays. Cheap as long as there is plenty: it counts down from the
    // last reading, and reads again when that seems used up.
    bool take(std::uint64_t bytes);
    // Reads again; how many bytes are missing to the floor.
    std::uint64_t missing();

private:
    struct Group {
        std::string limit, usage, stat;  // files
        std::string reclaimable;         // the line of `stat` that counts cold page cache
    };
    void find_groups(const std::string& root);

    std::string meminfo_;
    std::vector<Group> groups_;
    std::uint64_t floor_ = 0;
    std::atomic<std::int64_t> room_{0};
};

}  // namespace kvfs::warm
