#include "uring/plain.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace kvfs::uring {
namespace {

template <typename Call>
ssize_t tapped(Tap* tap, Tap::Request request, Call&& call) {
    if (tap == nullptr) return call();
    request.id = &request;
    int result = 0;
    auto answer = tap->before(request);
    while (answer && answer->result == -EAGAIN) {  // as a ring does: it is asked about again
        std::this_thread::sleep_for(answer->delay);
        answer = tap->before(request);
    }
    if (answer) {
        if (answer->delay.count() > 0) std::this_thread::sleep_for(answer->delay);
        result = answer->result;
    } else {
        const ssize_t rc = call();
        result = rc < 0 ? -errno : static_cast<int>(rc);
    }
    result = tap->after(request, result);
    if (result >= 0) return result;
    errno = -result;
    return -1;
}

}  // namespace

ssize_t PlainIo::read(void* data, std::size_t size, std::uint64_t offset) const {
    return tapped(tap_, {OpKind::kRead, static_cast<std::byte*>(data), size, offset},
                  [&] { return ::pread(fd_, data, size, static_cast<off_t>(offset)); });
}

ssize_t PlainIo::write(const void* data, std::size_t size, std::uint64_t offset) const {
    // a request has one pointer for both ways; nobody writes through a write's
    auto* const bytes = static_cast<std::byte*>(const_cast<void*>(data));
    return tapped(tap_, {OpKind::kWrite, bytes, size, offset},
                  [&] { return ::pwrite(fd_, data, size, static_cast<off_t>(offset)); });
}

int PlainIo::sync() const {
    return static_cast<int>(tapped(tap_, {OpKind::kSync, nullptr, 0, 0}, [&] { return ssize_t{::fdatasync(fd_)}; }));
}

int PlainIo::punch(std::uint64_t offset, std::uint64_t size) const {
    return static_cast<int>(tapped(tap_, {OpKind::kPunch, nullptr, size, offset}, [&] {
        return ssize_t{::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                                   static_cast<off_t>(size))};
    }));
}

int PlainIo::discard(std::uint64_t offset, std::uint64_t size) const {
    const std::uint64_t range[2] = {offset, size};
    return static_cast<int>(tapped(tap_, {OpKind::kPunch, nullptr, size, offset},
                                   [&] { return ssize_t{::ioctl(fd_, BLKDISCARD, range)}; }));
}

}  // namespace kvfs::uring
