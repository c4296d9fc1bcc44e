// The INIT handshake: what kvfs asks of the kernel, and what libfuse behind the relay is told.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "splitter/splitter.hpp"
#include "splitter/uring_protocol.hpp"

namespace kvfs::splitter {
namespace {

// 12, the kernel's default, are few: read-ahead and asynchronous direct I/O are background requests.
constexpr std::uint16_t kBackground = 256;
constexpr std::uint16_t kCongestedAt = kBackground / 4 * 3;  // the kernel's own ratio

// READDIRPLUS always: pyfuse3 has no plain READDIR. EXPLICIT_INVAL_DATA: data changes through this kernel only, so a
// new mtime is no reason to drop its pages. No killpriv flags: the kernel then clears set-ID bits itself, by SETATTR.
// No writeback cache: it would own sizes and times, and a close would no longer say ENOSPC.
constexpr std::uint64_t kWanted = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |
                                  FUSE_DO_READDIRPLUS | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                                  FUSE_EXPLICIT_INVAL_DATA | std::uint64_t{FUSE_INIT_EXT} | kInitDirectIoAllowMmap;

}  // namespace

InitOut Splitter::negotiate(const fuse_init_in& in) {
    std::uint64_t offered = in.flags;
    if ((in.flags & FUSE_INIT_EXT) != 0) offered |= std::uint64_t{in.flags2} << 32;
    std::uint64_t wanted = kWanted;
    if (options_.passthrough && options_.warm_bytes != 0 && geteuid() == 0) wanted |= kInitPassthrough;
    if (options_.loop == LoopKind::kUring) {
        wanted |= kFuseOverIoUring;
        if ((offered & kFuseOverIoUring) == 0) {
            throw std::system_error(
                EOPNOTSUPP, std::generic_category(),
                "expected FUSE over io_uring, found a kernel that does not offer it (Linux 6.14 with "
                "fuse.enable_uring=1 does)");
        }
    }
    const std::uint64_t agreed = offered & wanted;
    InitOut out{};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = std::min<std::uint32_t>(in.minor, 45);
    out.max_readahead = in.max_readahead;
    out.flags = static_cast<std::uint32_t>(agreed);
    out.flags2 = static_cast<std::uint32_t>(agreed >> 32);
    out.max_background = kBackground;
    out.congestion_threshold = kCongestedAt;
    out.max_write = kMaxWrite;
    out.max_pages = kMaxPages;
    out.time_gran = 1;
    if ((agreed & kInitPassthrough) != 0) out.max_stack_depth = 1;
    passthrough_ = (agreed & kInitPassthrough) != 0;
    allows_mmap_ = (agreed & kInitDirectIoAllowMmap) != 0;
    return out;
}

void Splitter::handshake() {
    std::vector<std::byte> message(kDataAt + kMaxWrite);
    ssize_t size = -1;
    do {
        size = ::read(fuse_fd_, message.data(), message.size());
    } while (size < 0 && (errno == EINTR || errno == ENOENT));
    if (size < 0) throw std::system_error(errno, std::generic_category(), "reading INIT from /dev/fuse");
    fuse_in_header header{};
    fuse_init_in in{};
    constexpr std::size_t kOldest = sizeof header + 4 * sizeof(std::uint32_t);  // before 7.36: no flags2
    if (static_cast<std::size_t>(size) < kOldest) {
        throw std::system_error(EPROTO, std::generic_category(), "expected INIT, found a message too short for it");
    }
    std::memcpy(&header, message.data(), sizeof header);
    std::memcpy(&in, message.data() + sizeof header,
                std::min(sizeof in, static_cast<std::size_t>(size) - sizeof header));
    if (header.opcode != FUSE_INIT || in.major != FUSE_KERNEL_VERSION) {
        throw std::system_error(EPROTO, std::generic_category(),
                                "expected INIT of FUSE 7, found opcode " + std::to_string(header.opcode) + " of FUSE " +
                                    std::to_string(in.major));
    }
    init_ = negotiate(in);
    fuse_out_header out{};
    out.len = sizeof out + sizeof init_;
    out.unique = header.unique;
    const iovec parts[2] = {{&out, sizeof out}, {&init_, sizeof init_}};
    if (::writev(fuse_fd_, parts, 2) < 0) {
        throw std::system_error(errno, std::generic_category(), "answering INIT to /dev/fuse");
    }
    relay_.greet(header, in);
}

}  // namespace kvfs::splitter
