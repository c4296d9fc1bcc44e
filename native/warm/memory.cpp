#include "warm/memory.hpp"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

namespace kvfs::warm {
namespace {

constexpr std::uint64_t kPageSize = 4096;

std::uint64_t round_up(std::uint64_t size) { return (size + kPageSize - 1) / kPageSize * kPageSize; }

// glibc of Debian 12 has no wrappers before 2.36 everywhere that we build
int sys_fsopen(const char* type, unsigned flags) { return static_cast<int>(syscall(SYS_fsopen, type, flags)); }
int sys_fsconfig(int fd, unsigned command, const char* key, const char* value) {
    return static_cast<int>(syscall(SYS_fsconfig, fd, command, key, value, 0));
}
int sys_fsmount(int fd, unsigned flags, unsigned attributes) {
    return static_cast<int>(syscall(SYS_fsmount, fd, flags, attributes));
}

// within_size: huge folios that lie inside the file, so that a 3 MiB file costs 3 MiB. No size limit of its own: the
// tier's budget is the limit, and pages that were evicted while in use are in neither's.
Descriptor mount_tmpfs() {
    const Descriptor context(sys_fsopen("tmpfs", FSOPEN_CLOEXEC));
    if (!context) return Descriptor();
    if (sys_fsconfig(context.get(), FSCONFIG_SET_STRING, "huge", "within_size") != 0) return Descriptor();
    if (sys_fsconfig(context.get(), FSCONFIG_SET_STRING, "size", "0") != 0) return Descriptor();
    if (sys_fsconfig(context.get(), FSCONFIG_SET_STRING, "nr_inodes", "0") != 0) return Descriptor();
    if (sys_fsconfig(context.get(), FSCONFIG_SET_STRING, "mode", "0700") != 0) return Descriptor();
    if (sys_fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr) != 0) return Descriptor();
    return Descriptor(sys_fsmount(context.get(), FSMOUNT_CLOEXEC,
                                  MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME));
}

// A memfd as it comes has no open(2) behind it, without which the kernel refuses O_DIRECT on it.
Descriptor open_memfd() {
    const Descriptor bare(memfd_create("kvfs-page", MFD_CLOEXEC));
    if (!bare) return Descriptor();
    char path[32];
    std::snprintf(path, sizeof path, "/proc/self/fd/%d", bare.get());
    return Descriptor(open(path, O_RDWR | O_CLOEXEC));
}

}  // namespace

Descriptor::Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
}

Descriptor::~Descriptor() {
    if (fd_ >= 0) close(fd_);
}

MemoryFile::MemoryFile(Descriptor fd, std::byte* base, std::size_t size)
    : fd_(std::move(fd)), base_(base), mapped_(size) {}

MemoryFile::MemoryFile(MemoryFile&& other) noexcept
    : fd_(std::move(other.fd_)), base_(std::exchange(other.base_, nullptr)), mapped_(other.mapped_) {}

MemoryFile& MemoryFile::operator=(MemoryFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(base_, other.base_);
    std::swap(mapped_, other.mapped_);
    return *this;
}

MemoryFile::~MemoryFile() {
    if (base_ != nullptr) munmap(base_, mapped_);
}

int MemoryFile::resize(std::uint64_t size) {
    const std::uint64_t kept = round_up(size);
    // Touching a mapping beyond its file's end is SIGBUS, and somebody may be copying from it right now: private zeros
    // take the place of what the file loses, in one step as far as others can see.
    if (kept < mapped_ && mmap(base_ + kept, mapped_ - kept, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        return -errno;
    }
    return ftruncate(fd_.get(), static_cast<off_t>(size)) == 0 ? 0 : -errno;
}

MemorySource::MemorySource() : mount_(mount_tmpfs()) {}

MemoryFile MemorySource::make(std::uint64_t size, int& error) const {
    const auto failed = [&error] {
        error = -errno;
        return MemoryFile();
    };
    Descriptor fd = mount_ ? Descriptor(openat(mount_.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) : open_memfd();
    if (!fd) return failed();
    // The size first, then all memory in one call: that is how the kernel gets to choose large folios. Page by page, as
    // a DMA would fault them in, a file of less than 2 MiB gets small ones.
    if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return failed();
    if (fallocate(fd.get(), 0, 0, static_cast<off_t>(size)) != 0) return failed();
    const std::size_t mapped = round_up(size);
    void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (base == MAP_FAILED) return failed();
    // Where shared memory gets huge pages on request only, this is the request; elsewhere it changes nothing, and a
    // kernel without them refuses it, which is fine.
    madvise(base, mapped, MADV_HUGEPAGE);
    error = 0;
    return {std::move(fd), static_cast<std::byte*>(base), mapped};
}

}  // namespace kvfs::warm
