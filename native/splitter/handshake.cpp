#include "splitter/handshake.hpp"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "splitter/request.hpp"

namespace kvfs::splitter {
namespace {

// 12, the kernel's default, are few: read-ahead and asynchronous direct I/O are background requests.
constexpr std::uint16_t kBackground = 256;

}  // namespace

Hello read_init(int fuse_fd) {
    // The kernel refuses buffers that a WRITE would not fit into.
    std::vector<std::byte> message(kDataAt + kMaxWrite);
    ssize_t size = -1;
    do {
        size = ::read(fuse_fd, message.data(), message.size());
    } while (size < 0 && (errno == EINTR || errno == ENOENT));
    if (size < 0) throw std::system_error(errno, std::generic_category(), "reading INIT from /dev/fuse");
    Hello hello{};
    constexpr std::size_t kOldest = sizeof hello.header + 4 * sizeof(std::uint32_t);  // before 7.36: no flags2
    if (static_cast<std::size_t>(size) < kOldest) {
        throw std::system_error(EPROTO, std::generic_category(), "expected INIT, found a message too short for it");
    }
    std::memcpy(&hello.header, message.data(), sizeof hello.header);
    std::memcpy(&hello.init, message.data() + sizeof hello.header,
                std::min(sizeof hello.init, static_cast<std::size_t>(size) - sizeof hello.header));
    if (hello.header.opcode != FUSE_INIT || hello.init.major != FUSE_KERNEL_VERSION) {
        throw std::system_error(EPROTO, std::generic_category(),
                                "expected INIT of FUSE 7, found opcode " + std::to_string(hello.header.opcode) +
                                    " of FUSE " + std::to_string(hello.init.major));
    }
    return hello;
}

void answer_init(int fuse_fd, const Hello& hello, const InitOut& answer) {
    fuse_out_header out{};
    out.len = sizeof out + sizeof answer;
    out.unique = hello.header.unique;
    const iovec parts[2] = {{&out, sizeof out}, {const_cast<InitOut*>(&answer), sizeof answer}};
    if (::writev(fuse_fd, parts, 2) < 0) {
        throw std::system_error(errno, std::generic_category(), "answering INIT to /dev/fuse");
    }
}

InitOut answer_to(const Hello& hello, std::uint64_t flags) {
    InitOut out{};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = std::min<std::uint32_t>(hello.init.minor, 45);
    out.max_readahead = hello.init.max_readahead;
    out.flags = static_cast<std::uint32_t>(flags);
    out.flags2 = static_cast<std::uint32_t>(flags >> 32);
    out.max_background = kBackground;
    out.congestion_threshold = kBackground / 4 * 3;  // the kernel's own ratio
    out.max_write = kMaxWrite;
    out.max_pages = kMaxPages;
    out.time_gran = 1;
    return out;
}

}  // namespace kvfs::splitter
