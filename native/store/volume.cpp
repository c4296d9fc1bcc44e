#include "store/volume.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <thread>
#include <utility>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

[[noreturn]] void fail(int error, const std::string& text) { throw OpenError(error, text); }

std::string errno_text(int error) { return std::strerror(error); }

}  // namespace

Device::Device(const std::string& path, bool writable, uring::Tap* tap) : path_(path) {
    struct stat st {};
    if (stat(path.c_str(), &st) != 0) fail(errno, path + ": " + errno_text(errno));
    block_device_ = S_ISBLK(st.st_mode);
    if (!block_device_ && !S_ISREG(st.st_mode)) {
        fail(EINVAL, path + ": expected a regular file or a block device");
    }
    const int flags = O_DIRECT | O_CLOEXEC | (writable ? O_RDWR : O_RDONLY) | (block_device_ && writable ? O_EXCL : 0);
    fd_ = ::open(path.c_str(), flags);
    if (fd_ < 0 && errno == EINVAL) {
        fail(EINVAL,
             path + ": its file system does not support O_DIRECT, which a kvfs store needs; choose another place");
    }
    if (fd_ < 0 && errno == EBUSY) {
        // another kvfs says who it is; anything else only says that it is there
        Device(path, false).lock(false);
        fail(EBUSY, path + ": the kernel is using this device (mounted or part of another one)");
    }
    if (fd_ < 0) fail(errno, path + ": " + errno_text(errno));
    io_ = uring::PlainIo(fd_, tap);
    if (block_device_) {
        if (ioctl(fd_, BLKGETSIZE64, &size_) != 0) {
            const int error = errno;
            ::close(fd_);
            fail(error, path + ": cannot ask the device for its size: " + errno_text(error));
        }
        int device_read_only = 0;
        if (writable && ioctl(fd_, BLKROGET, &device_read_only) == 0 && device_read_only != 0) {
            ::close(fd_);
            fail(EROFS, path + ": the device is read-only; use --read-only");
        }
    } else {
        size_ = static_cast<std::uint64_t>(st.st_size);
    }
}

Device::~Device() {
    if (fd_ >= 0) ::close(fd_);
}

int Device::release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
}

void Device::lock(bool exclusive) {
    // the kernel lets go of a killed process's ring, and with it of the file, a moment after the process is gone; and
    // udev holds a device's lock for moments: only a lock that stays is somebody's mount
    constexpr int kAttempts = 40;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        if (flock(fd_, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0) return;
        if (errno != EWOULDBLOCK) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    if (errno != EWOULDBLOCK) fail(errno, path_ + ": cannot lock it: " + errno_text(errno));
    std::string holder;
    const auto copies = read_superblocks();
    if (const Copy* best = newest(copies)) holder.assign(best->sb.owner, best->sb.owner_bytes);
    fail(EBUSY, path_ + ": in use by " + (holder.empty() ? std::string("another process") : holder));
}

std::array<Device::Copy, 3> Device::read_superblocks() {
    std::array<Copy, 3> copies;
    Buffer block = Buffer::heap(format::kBlock);
    std::uint64_t end = size_ / format::kBlock * format::kBlock;
    for (std::uint32_t i = 0; i < 3; ++i) {
        Copy& copy = copies[i];
        copy.copy = i;
        copy.offset = format::superblock_offset(i, std::max(end, format::kBlock));
        if (copy.offset + format::kBlock > size_) {
            copy.check = {format::Fault::kCorrupt, "expected it at byte " + std::to_string(copy.offset) +
                                                       ", found the end of the device at " + std::to_string(size_)};
            continue;
        }
        const ssize_t got = io_.read(block.data(), format::kBlock, copy.offset);
        if (got != static_cast<ssize_t>(format::kBlock)) {
            copy.check = {format::Fault::kCorrupt, "cannot be read: " + errno_text(got < 0 ? errno : EIO)};
            continue;
        }
        std::memcpy(&copy.sb, block.data(), sizeof copy.sb);
        copy.check = format::check_superblock(copy.sb);
        if (i < 2 && copy.check.fault == format::Fault::kValid) end = copy.sb.size;
    }
    return copies;
}

std::string Device::explain(const std::array<Copy, 3>& copies, int& error) const {
    using format::Fault;
    const auto any = [&](Fault fault) -> const Copy* {
        for (const Copy& copy : copies) {
            if (copy.check.fault == fault) return &copy;
        }
        return nullptr;
    };
    const auto line = [&](const Copy& copy) {
        return path_ + ": superblock " + format::copy_name(copy.copy) + " at byte " + std::to_string(copy.offset) +
               ": " + copy.check.problem;
    };
    if (const Copy* copy = any(Fault::kTooNew)) {
        error = EPROTONOSUPPORT;
        return line(*copy) + "; use a newer kvfs";
    }
    // a copy whose magic is right but whose content is not speaks for a damaged volume, not for a foreign one
    for (const Copy& copy : copies) {
        if (copy.check.fault != Fault::kCorrupt ||
            std::memcmp(copy.sb.magic, format::kSuperblockMagicBytes, sizeof copy.sb.magic) != 0) {
            continue;
        }
        error = EUCLEAN;
        return line(copy) + "; no other copy is valid either";
    }
    error = EMEDIUMTYPE;
    return path_ + ": not a kvfs volume: superblock A at byte 0: " + copies[0].check.problem;
}

std::string Device::truncated(const Copy& copy) const {
    return path_ + ": truncated: superblock " + format::copy_name(copy.copy) + " at byte " +
           std::to_string(copy.offset) + ": expected " + std::to_string(copy.sb.size) + " bytes, found " +
           std::to_string(size_);
}

// A newer kvfs may have left an old copy behind: its newest word counts, and that one cannot be understood here. The
// epoch counts first: a host that lost the volume and does not know yet may write once more, with any sequence.
const Device::Copy* Device::newest(const std::array<Copy, 3>& copies) {
    const Copy* best = nullptr;
    for (const Copy& copy : copies) {
        if (copy.check.fault != format::Fault::kValid && copy.check.fault != format::Fault::kTooNew) continue;
        const auto rank = [](const Copy& each) { return std::pair(each.sb.epoch, each.sb.sequence); };
        if (best == nullptr || rank(copy) > rank(*best)) best = &copy;
    }
    return best != nullptr && best->check.fault == format::Fault::kValid ? best : nullptr;
}

// A mount writes A and B in turn, each with the copy at the end after it: none is ever behind by more than one.
std::vector<Damage> Device::damaged(const std::array<Copy, 3>& copies) {
    std::vector<Damage> out;
    const Copy* best = newest(copies);
    for (const Copy& copy : copies) {
        const std::string where =
            std::string("superblock ") + format::copy_name(copy.copy) + " at byte " + std::to_string(copy.offset);
        if (copy.check.fault != format::Fault::kValid) {
            out.push_back({"superblock", where, copy.check.problem});
        } else if (best != nullptr && copy.sb.epoch < best->sb.epoch && copy.sb.sequence >= best->sb.sequence) {
            out.push_back({"superblock", where, "written by a mount that had lost the volume to another host"});
        } else if (best != nullptr && copy.sb.sequence + 1 < best->sb.sequence) {
            out.push_back({"superblock", where,
                           "out of date: expected sequence " + std::to_string(best->sb.sequence - 1) +
                               " or later, found " + std::to_string(copy.sb.sequence)});
        }
    }
    return out;
}

format::Superblock Device::choose_superblock(std::vector<Damage>* damage) {
    const auto copies = read_superblocks();
    const Copy* best = newest(copies);
    if (best == nullptr) {
        int error = 0;
        const std::string text = explain(copies, error);
        fail(error, text);
    }
    if (best->sb.size > size_) fail(EUCLEAN, truncated(*best));
    if (damage != nullptr) *damage = damaged(copies);
    return best->sb;
}

void Device::write(const void* data, std::size_t bytes, std::uint64_t offset) {
    const ssize_t done = io_.write(data, bytes, offset);
    if (done != static_cast<ssize_t>(bytes)) {
        const int error = done < 0 ? errno : EIO;
        fail(error, path_ + ": cannot write at byte " + std::to_string(offset) + ": " + errno_text(error));
    }
}

void Device::sync() {
    if (io_.sync() != 0) fail(errno, path_ + ": cannot flush: " + errno_text(errno));
}

format::Superblock format_volume(const std::string& path, const FormatRequest& request) {
    Device device(path, true, request.tap);
    device.lock(true);
    format::Superblock sb{};
    if (request.size > device.size()) {
        fail(EINVAL, path + ": expected a size of at most " + std::to_string(device.size()) + " bytes, found " +
                         std::to_string(request.size));
    }
    const std::string problem = format::plan_geometry(sb, request.size, request.segment_size);
    if (!problem.empty()) fail(EINVAL, path + ": " + problem);
    if (request.label.size() >= format::kLabelMax) {
        fail(EINVAL, path + ": expected a label of at most 63 bytes, found " + std::to_string(request.label.size()));
    }
    sb.uuid = request.uuid;
    if (sb.uuid == format::Uuid{}) {
        if (getrandom(sb.uuid.data(), sb.uuid.size(), 0) != static_cast<ssize_t>(sb.uuid.size())) {
            fail(errno, path + ": no random numbers for a uuid");
        }
        sb.uuid[6] = static_cast<std::uint8_t>((sb.uuid[6] & 0x0f) | 0x40);  // version 4, RFC 9562
        sb.uuid[8] = static_cast<std::uint8_t>((sb.uuid[8] & 0x3f) | 0x80);
    }
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    sb.created_ns = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
    sb.written_ns = sb.created_ns;
    sb.store_uuid = sb.uuid;
    sb.host_uuid = request.host;
    if (request.host != format::Uuid{}) sb.compat |= format::kOwnedByHost;
    sb.namespace_count = 1;
    sb.flags = format::kClean;
    sb.checkpoint_segment = format::kNoSegment;
    sb.log_segment = 0;
    sb.log_generation = 1;
    sb.log_offset = format::kBlock;
    sb.log_sequence = 1;
    sb.sequence = 2;
    std::memcpy(sb.label, request.label.data(), request.label.size());

    Buffer block = Buffer::heap(format::kBlock);
    // what an earlier volume left at the end copy's place must not outlive this one
    std::memset(block.data(), 0, format::kBlock);
    device.write(block.data(), format::kBlock, device.size() / format::kBlock * format::kBlock - format::kBlock);
    format::SegmentHeader header{};
    header.uuid = sb.uuid;
    header.generation = sb.log_generation;
    header.segment_class = static_cast<std::uint32_t>(format::SegmentClass::kLog);
    header.opened_ns = sb.created_ns;
    format::seal_segment_header(header);
    std::memcpy(block.data(), &header, sizeof header);
    device.write(block.data(), format::kBlock, sb.first_segment);
    device.sync();
    for (const std::uint32_t copy : {1U, 2U, 0U}) {  // A last: until then this is not a volume to anyone
        sb.copy = copy;
        format::seal_superblock(sb);
        std::memcpy(block.data(), &sb, sizeof sb);
        device.write(block.data(), format::kBlock, format::superblock_offset(copy, sb.size));
    }
    device.sync();
    return sb;
}

}  // namespace kvfs::store
