// A device or file that holds, or is to hold, a KVFS1 volume: opening it, its lock, its superblocks.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "format/superblock.hpp"
#include "store/damage.hpp"
#include "uring/plain.hpp"

namespace kvfs::store {

class Device {
public:
    // O_DIRECT, and O_EXCL on a block device that is opened for writing (refused while the kernel has it mounted).
    // `tap` may be null. Throws OpenError.
    Device(const std::string& path, bool writable, uring::Tap* tap = nullptr);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    // Exclusive for a writer, shared for readers; OpenError(EBUSY) says who holds the volume.
    void lock(bool exclusive);

    struct Copy {
        std::uint32_t copy = 0;
        std::uint64_t offset = 0;
        format::Superblock sb{};
        format::SuperblockCheck check;
    };
    // The three places; the end copy is looked for where A or B say the volume ends, else at the device's end.
    std::array<Copy, 3> read_superblocks();
    // The newest one; null when there is none, or when it is one that this version cannot read.
    static const Copy* newest(const std::array<Copy, 3>& copies);
    // The same, or OpenError: EMEDIUMTYPE, EUCLEAN, EPROTONOSUPPORT with which copy, expected and found.
    // `damage`, when given, gets the copies that are not what they should be beside that one.
    format::Superblock choose_superblock(std::vector<Damage>* damage = nullptr);
    // Copies that are not valid, or older than the order in which they are written allows.
    static std::vector<Damage> damaged(const std::array<Copy, 3>& copies);
    // One line on why no copy can be used; `error` gets the errno.
    std::string explain(const std::array<Copy, 3>& copies, int& error) const;

    // One line for a volume that is larger than what holds it.
    [[nodiscard]] std::string truncated(const Copy& copy) const;

    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] bool is_block_device() const { return block_device_; }
    [[nodiscard]] int fd() const { return fd_; }
    int release();
    void write(const void* data, std::size_t bytes, std::uint64_t offset);
    void sync();

private:
    std::string path_;
    int fd_ = -1;
    uring::PlainIo io_;
    std::uint64_t size_ = 0;
    bool block_device_ = false;
};

struct FormatRequest {
    std::uint64_t size = 0;
    std::uint64_t segment_size = 0;
    std::string label;
    format::Uuid uuid{};  // all zero: random
    format::Uuid host{};  // who formats; all zero: nobody in particular
    uring::Tap* tap = nullptr;
};

// Writes an empty volume over whatever is there and returns its superblock. Throws OpenError.
format::Superblock format_volume(const std::string& path, const FormatRequest& request);

}  // namespace kvfs::store
