// The answer to INIT: what kvfs asks of the kernel.
#include <unistd.h>

#include <algorithm>

#include "splitter/splitter.hpp"

namespace kvfs::splitter {
namespace {

// READDIRPLUS always: pyfuse3 has no plain READDIR. EXPLICIT_INVAL_DATA: data changes through this kernel only, so a
// new mtime is no reason to drop its pages. No killpriv flags: the kernel then clears set-ID bits itself, by SETATTR.
// No writeback cache: it would own sizes and times, and a close would no longer say ENOSPC.
constexpr std::uint64_t kWanted = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |
                                  FUSE_DO_READDIRPLUS | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                                  FUSE_EXPLICIT_INVAL_DATA | std::uint64_t{FUSE_INIT_EXT} | kInitDirectIoAllowMmap;

}  // namespace

InitOut Splitter::negotiate(const Hello& hello, std::uint64_t of_loop) {
    std::uint64_t wanted = kWanted;
    if (options_.passthrough && options_.warm_bytes != 0 && geteuid() == 0) wanted |= kInitPassthrough;
    const std::uint64_t agreed = (hello.offered() & wanted) | of_loop;
    InitOut out = answer_to(hello, agreed);
    if ((agreed & kInitPassthrough) != 0) out.max_stack_depth = 1;
    passthrough_ = (agreed & kInitPassthrough) != 0;
    allows_mmap_ = (agreed & kInitDirectIoAllowMmap) != 0;
    return out;
}

}  // namespace kvfs::splitter
