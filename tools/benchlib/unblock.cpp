// Loaded into a daemon that valgrind runs, only to count its instructions.
//
// Valgrind lets one thread run at a time, and has to know of every system call whether it may block: a thread in a call
// that it takes for one that does not keeps all others waiting. For version 3.19, which current distributions have,
// these two do not, and with a file system's daemon they do:
//
// * io_uring_enter(2): completions are waited for with poll(2) before the ring is asked;
// * stat(2) of the daemon's own mount: statx(2) answers without asking the daemon. (Valgrind's own
//   --sim-hints=fuse-compatible ends in a failed assertion at the first readlink(2).)
#include <dlfcn.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdlib>
#include <cstring>

namespace {

void wait_for_completion(io_uring* ring) {
    while (io_uring_cq_ready(ring) == 0) {
        pollfd ready{ring->ring_fd, POLLIN, 0};
        poll(&ready, 1, -1);
    }
}

bool is_own_mount(const char* path) {
    static const char* const mount = std::getenv("KVFS_BENCH_MOUNT");
    return mount != nullptr && std::strcmp(path, mount) == 0;
}

}  // namespace

extern "C" {

// What io_uring_wait_cqe(), inline in liburing's header, calls.
int __io_uring_get_cqe(io_uring* ring, io_uring_cqe** cqe, unsigned submit, unsigned wait_nr, sigset_t* mask) {
    using Function = int (*)(io_uring*, io_uring_cqe**, unsigned, unsigned, sigset_t*);
    static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "__io_uring_get_cqe"));
    if (submit != 0) io_uring_submit(ring);
    if (wait_nr != 0) wait_for_completion(ring);
    return real(ring, cqe, 0, wait_nr, mask);
}

int stat64(const char* path, struct stat64* out) {
    static const auto real = reinterpret_cast<int (*)(const char*, struct stat64*)>(dlsym(RTLD_NEXT, "stat64"));
    if (!is_own_mount(path)) return real(path, out);
    struct statx found {};
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &found) != 0) return -1;
    *out = {};
    out->st_dev = makedev(found.stx_dev_major, found.stx_dev_minor);
    out->st_ino = found.stx_ino;
    out->st_mode = found.stx_mode;
    return 0;
}

}  // extern "C"
