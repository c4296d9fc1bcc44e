// One crash state recovered by the store, and what is wrong with it.
#pragma once

#include <string>
#include <vector>

#include "tests/crash_client.hpp"

namespace kvfs::crash {

class Checker {
public:
    // `path`: a file of the device's size that nobody else uses; its content does not matter.
    // `evicts`: so does the store that is to take a write.
    Checker(std::string path, const std::vector<History>& histories, bool evicts)
        : path_(std::move(path)), histories_(histories), evicts_(evicts) {}

    // Empty when all is well, else one violation. With `thorough`, also: fsck finds nothing, before the mount and after
    // it, and the store takes a write, is opened again and has it.
    std::string check(MemoryDevice& device, Time crash, bool thorough);

    // Which state of each history the last check found.
    [[nodiscard]] const std::vector<std::size_t>& found() const { return found_; }

private:
    std::string check_again(MemoryDevice& device, Time crash);
    std::string read_all(store::Store& store);
    std::string recovered(store::Store& store, Time crash);
    static std::string accepts_a_write(store::Store& store);
    static std::string compare_evicted(const std::vector<Contents>& before, const std::vector<Contents>& after,
                                       std::uint64_t evicted);
    std::string fsck(MemoryDevice& device, bool crashed);
    std::string read_file(store::Store& store, const store::Attributes& file, Digest& out);
    std::string read_directory(store::Store& store, const std::string& name, Contents& out);
    std::string compare(const History& history, const Contents& found, Time crash, std::size_t& state) const;

    std::string path_;
    const std::vector<History>& histories_;
    bool evicts_;
    std::vector<std::size_t> found_;
    std::vector<Contents> contents_;  // of each directory, as it was read last
    uring::Buffer memory_ = uring::Buffer::heap(kRead);
    static constexpr std::size_t kRead = std::size_t{1} << 20;
};

// As a workload and the checker open stores: few buffers, one ring.
store::Options small_store(MemoryDevice& device);

}  // namespace kvfs::crash
