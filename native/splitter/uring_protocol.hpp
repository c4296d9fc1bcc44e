// FUSE over io_uring (Linux 6.14, protocol 7.42) as the kernel lays it out; <linux/fuse.h> of Debian 12 has none of it.
//
// For every queue (one per possible CPU) the server registers entries with FUSE_IO_URING_CMD_REGISTER. An entry is two
// pieces of memory; the kernel fills them and completes the command when a request has come:
//
//   header, 288 bytes                                      payload, as large as the largest request or answer
//   +---------------+---------------+-------------------+  +-----------------------------------------------+
//   | fuse_in_header| first argument| UringEntryInOut   |  | the other arguments: names, the data of WRITE |
//   | 128           | 128           | 32                |  |                                               |
//   +---------------+---------------+-------------------+  +-----------------------------------------------+
//
// The answer goes back in the same memory, fuse_out_header in the place of fuse_in_header and every result in the
// payload, with FUSE_IO_URING_CMD_COMMIT_AND_FETCH, which is also the wait for the entry's next request.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvfs::splitter {

enum class UringCommand : std::uint32_t { kRegister = 1, kCommitAndFetch = 2 };

struct UringEntryInOut {
    std::uint64_t flags;
    std::uint64_t commit_id;  // of the request, to be named in the commit
    std::uint32_t payload_size;
    std::uint32_t padding;
    std::uint64_t reserved;
};
static_assert(sizeof(UringEntryInOut) == 32);

struct UringRequestHeader {
    alignas(8) std::byte in_out[128];
    alignas(8) std::byte first_argument[128];
    UringEntryInOut entry;
};
static_assert(sizeof(UringRequestHeader) == 288 && offsetof(UringRequestHeader, entry) == 256);

// Lies in the second half of a 128-byte submission queue entry.
struct UringCommandRequest {
    std::uint64_t flags;
    std::uint64_t commit_id;
    std::uint16_t queue;
    std::uint8_t padding[6];
};
static_assert(sizeof(UringCommandRequest) == 24);

// The kernel refuses entries with less payload, whatever max_write says.
inline constexpr std::size_t kLeastPayload = 8192;

}  // namespace kvfs::splitter
