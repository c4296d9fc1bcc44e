#include "warm/page.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace kvfs::warm {
namespace {

// <linux/fuse.h> has these from kernel 6.9 on; the headers that we build with may be older.
struct BackingMap {
    std::int32_t fd;
    std::uint32_t flags;
    std::uint64_t padding;
};
static_assert(sizeof(BackingMap) == 16);
constexpr unsigned kFuseIoctl = 229;
constexpr unsigned long kBackingOpen = _IOW(kFuseIoctl, 1, BackingMap);
constexpr unsigned long kBackingClose = _IOW(kFuseIoctl, 2, std::uint32_t);

}  // namespace

int Passthrough::add(int file) {
    if (const int refused = refused_.load(std::memory_order_relaxed); refused != 0) return refused;
    const std::lock_guard guard(mutex_);
    if (fd_ < 0) return -ENOTCONN;
    BackingMap map{file, 0, 0};
    const int id = ioctl(fd_, kBackingOpen, &map);
    if (id > 0) return id;
    const int error = id < 0 ? -errno : -EIO;
    // an old kernel, no CAP_SYS_ADMIN, or a connection that did not negotiate passthrough
    if (error == -ENOTTY || error == -EPERM || error == -EOPNOTSUPP || error == -EINVAL) {
        refused_.store(error, std::memory_order_relaxed);
    }
    return error;
}

void Passthrough::remove(int id) {
    const std::lock_guard guard(mutex_);
    if (fd_ < 0) return;
    auto number = static_cast<std::uint32_t>(id);
    // can fail only when the connection is gone, and the id with it
    ioctl(fd_, kBackingClose, &number);
}

void Passthrough::detach() {
    const std::lock_guard guard(mutex_);
    fd_ = -1;
}

Page::Page(std::uint64_t ino, std::uint64_t size, MemoryFile file, std::shared_ptr<Resident> resident)
    : ino_(ino), size_(size), file_(std::move(file)), resident_(std::move(resident)), length_(size) {}

Page::~Page() {
    if (const int id = backing_id(); id > 0) passthrough_->remove(id);
    const std::size_t size = file_.memory().size();
    { const MemoryFile gone = std::move(file_); }
    // Only now: whoever sees the bytes given back may count on them.
    resident_->bytes.fetch_sub(size, std::memory_order_relaxed);
    resident_->pages.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace kvfs::warm
