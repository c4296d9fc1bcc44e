// The few requests to a device that go by plain system calls: superblocks, segment headers, recovery, the checker,
// trim. Results and errno as those calls have them.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "uring/tap.hpp"

namespace kvfs::uring {

class PlainIo {
public:
    PlainIo() = default;
    // Both stay the caller's. `tap` may be null.
    PlainIo(int fd, Tap* tap) : fd_(fd), tap_(tap) {}

    ssize_t read(void* data, std::size_t size, std::uint64_t offset) const;
    ssize_t write(const void* data, std::size_t size, std::uint64_t offset) const;
    int sync() const;                                             // fdatasync
    int punch(std::uint64_t offset, std::uint64_t size) const;    // a hole in a file
    int discard(std::uint64_t offset, std::uint64_t size) const;  // BLKDISCARD

private:
    int fd_ = -1;
    Tap* tap_ = nullptr;
};

}  // namespace kvfs::uring
