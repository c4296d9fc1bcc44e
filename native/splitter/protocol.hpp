// What kvfs needs of the FUSE protocol beyond the linux/fuse.h of Debian 12 (7.38), and its own conventions.
// Source: include/uapi/linux/fuse.h of the kernel, up to 7.45.
#pragma once

#include <linux/fuse.h>
#include <sys/ioctl.h>

#include <cstdint>
#include <string_view>

namespace kvfs::splitter {

// Above 32 bits: in flags2 of INIT.
inline constexpr std::uint64_t kInitDirectIoAllowMmap = std::uint64_t{1} << 36;
inline constexpr std::uint64_t kInitPassthrough = std::uint64_t{1} << 37;
// Offered when the parameter enable_uring of the kernel's fuse module is on. Once INIT is answered with it, every
// request waits until all queues have registered an entry.
inline constexpr std::uint64_t kInitOverIoUring = std::uint64_t{1} << 41;

inline constexpr std::uint32_t kOpenPassthrough = 1U << 7;

struct InitOut {
    std::uint32_t major, minor, max_readahead, flags;
    std::uint16_t max_background, congestion_threshold;
    std::uint32_t max_write, time_gran;
    std::uint16_t max_pages, map_alignment;
    std::uint32_t flags2;
    std::uint32_t max_stack_depth;  // 1 admits a backing file that is not itself on a stacked file system
    std::uint16_t request_timeout;
    std::uint16_t unused[11];
};
static_assert(sizeof(InitOut) == 64);

struct OpenOut {
    std::uint64_t fh;
    std::uint32_t open_flags;
    std::int32_t backing_id;
};
static_assert(sizeof(OpenOut) == 16);

inline constexpr unsigned long kDeviceClone = _IOR(229, 0, std::uint32_t);  // FUSE_DEV_IOC_CLONE

// One page cache page of the kernel; max_pages counts these.
inline constexpr std::uint32_t kKernelPage = 4096;
inline constexpr std::uint32_t kMaxPages = 256;  // the kernel's default limit (fs.fuse.max_pages_limit)
inline constexpr std::uint32_t kMaxWrite = kMaxPages * kKernelPage;

// Inode numbers and handles from here on are kvfs/fs/control.py's: the store hands none of these out.
inline constexpr std::uint64_t kFirstVirtual = 0xFFFF'FFFF'FFFF'0000;
// More than this in one write to one of them is refused: it would not fit into the relay to Python.
inline constexpr std::uint32_t kMaxVirtualWrite = 128U << 10;
inline bool is_control_name(std::uint64_t parent, std::string_view name) {
    return parent == FUSE_ROOT_ID && name == ".kvfs";
}

// How long the kernel may believe what it is told; the reasons are in kvfs/fs/attributes.py, which says the same.
inline constexpr std::uint64_t kNameTimeout = 3600;  // s
inline constexpr std::uint64_t kFileTimeout = 1;
inline constexpr std::uint64_t kDirectoryTimeout = 60;
inline constexpr std::uint64_t kRootTimeout = 1;

}  // namespace kvfs::splitter
