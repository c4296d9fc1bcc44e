// Files in memory that hold warm pages.
//
// WHY not simply memfd: what reads them (FOPEN_PASSTHROUGH, or a copy by the request loop) is as fast as the folios
// are large. Measured against ext4's page cache, 1 MiB reads: 4 KiB folios 0.37, the largest that fit 1.00. memfds get
// large folios only where the administrator switched them on for all shared memory, which is rare; a tmpfs of our own
// has its own switch. It is mounted nowhere: no name leads to it, no global setting changes, and it goes when the
// last file in it goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace kvfs::warm {

// A file descriptor that closes itself.
class Descriptor {
public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept;
    Descriptor& operator=(Descriptor&& other) noexcept;
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor();
    [[nodiscard]] int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

private:
    int fd_;
};

// One file of a fixed size with its memory allocated and mapped, shared and writable. The mapping may stay longer than
// its bytes are wanted (a DMA, a holder of a Page), hence it is only ever unmapped by the destructor.
class MemoryFile {
public:
    MemoryFile() = default;
    MemoryFile(Descriptor fd, std::byte* base, std::size_t size);
    MemoryFile(MemoryFile&& other) noexcept;
    MemoryFile& operator=(MemoryFile&& other) noexcept;
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;
    ~MemoryFile();

    [[nodiscard]] int fd() const { return fd_.get(); }
    // The file's bytes and zeros up to the end of its last memory page.
    [[nodiscard]] std::span<std::byte> memory() const { return {base_, mapped_}; }
    explicit operator bool() const { return base_ != nullptr; }

    // Changes the file's size, for those who read the file itself; memory() stays as it is and safe to touch.
    // 0 or -errno.
    [[nodiscard]] int resize(std::uint64_t size);

private:
    Descriptor fd_;
    std::byte* base_ = nullptr;
    std::size_t mapped_ = 0;
};

// Where memory files come from. Thread safe.
class MemorySource {
public:
    MemorySource();

    // Empty when memory, descriptors or mappings run out; `error` is then the errno, negative.
    MemoryFile make(std::uint64_t size, int& error) const;
    // "tmpfs": our own, with large folios; "memfd": with whatever the host has switched on.
    [[nodiscard]] const char* kind() const { return mount_ ? "tmpfs" : "memfd"; }

private:
    Descriptor mount_;
};

}  // namespace kvfs::warm
