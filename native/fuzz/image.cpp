#include "fuzz/image.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace kvfs::fuzz {
namespace {

constexpr std::uint64_t kLogSegment = 0, kCheckpointSegment = 1, kDataSegment = 2;
constexpr std::uint64_t kLogGeneration = 1, kCheckpointGeneration = 2, kDataGeneration = 3;
constexpr std::uint8_t kInodes = 12;  // numbers that records mostly speak of

[[noreturn]] void die(const char* what) {
    std::perror(what);
    std::abort();
}

}  // namespace

Image::Image() {
    fd_ = memfd_create("kvfs-fuzz", MFD_CLOEXEC);
    if (fd_ < 0) die("memfd_create");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
}

Image::~Image() { ::close(fd_); }

void Image::write(const void* data, std::size_t size, std::uint64_t offset) {
    if (offset > kSize || size > kSize - offset) return;  // what lies outside is not there to be read either
    if (pwrite(fd_, data, size, static_cast<off_t>(offset)) != static_cast<ssize_t>(size)) die("pwrite");
}

std::uint64_t Image::place(std::uint64_t segment, std::uint64_t offset) {
    return segment < kSegments && offset <= kSegment ? format::kFirstSegment + segment * kSegment + offset : kSize;
}

void Image::build(Input& input) {
    if (ftruncate(fd_, 0) != 0 || ftruncate(fd_, kSize) != 0) die("ftruncate");
    next_block_ = 1;
    sb_ = {};
    sb_.uuid = {1, 2, 3};
    sb_.store_uuid = sb_.uuid;
    sb_.size = kSize;
    sb_.segment_size = kSegment;
    sb_.segment_count = kSegments;
    sb_.first_segment = format::kFirstSegment;
    sb_.sequence = 2;
    sb_.incompat = format::kKnownIncompat;
    sb_.epoch = 1;
    sb_.flags = format::kClean;
    sb_.namespace_count = 1;
    sb_.checkpoint_segment = format::kNoSegment;
    sb_.log_segment = kLogSegment;
    sb_.log_generation = kLogGeneration;
    sb_.log_offset = format::kBlock;
    sb_.log_sequence = 1;
    const auto shape = input.take<std::uint8_t>();
    if ((shape & 1) != 0) {
        sb_.checkpoint_segment = kCheckpointSegment;
        sb_.checkpoint_generation = kCheckpointGeneration;
        segment_ = kCheckpointSegment;
        at_ = {sb_.uuid, kCheckpointGeneration, 1, format::kBlock};
        stream(input, true);
    }
    segment_ = kLogSegment;
    at_ = {sb_.uuid, kLogGeneration, 1, format::kBlock};
    stream(input, false);
    if ((shape & 2) != 0) superblocks(input);
    for (std::uint32_t copy = 0; copy < 3; ++copy) {
        sb_.copy = copy;
        format::seal_superblock(sb_);
        write(&sb_, sizeof sb_, format::superblock_offset(copy, kSize));
    }
    if ((shape & 4) != 0) {  // and some bytes of it are wrong
        for (int count = 0; count < 8 && !input.empty(); ++count) {
            const auto offset = input.take<std::uint32_t>() % kSize;
            const auto value = input.take<std::uint8_t>();
            write(&value, 1, offset);
        }
    }
}

// Any field of it may say anything.
void Image::superblocks(Input& input) {
    for (int count = 0; count < 4 && !input.empty(); ++count) {
        const auto offset = input.take<std::uint8_t>() % (offsetof(format::Superblock, label) / 4) * 4;
        if (offset >= offsetof(format::Superblock, uuid) && offset < offsetof(format::Superblock, size)) continue;
        const std::uint64_t value = input.number(4);
        const std::size_t size = offset % 8 == 0 ? 8 : 4;
        std::memcpy(reinterpret_cast<std::byte*>(&sb_) + offset, &value, size);
    }
}

void Image::stream(Input& input, bool checkpoint) {
    while (!input.empty() && record(input)) {
    }
    end_frame(checkpoint ? format::kCheckpointEnd : 0);
}

bool Image::record(Input& input) {
    const auto kind = input.take<std::uint8_t>();
    switch (kind % 16) {
        case 0:
            inode(input);
            break;
        case 1:
            frame_.inode_delete(input.number(kInodes));
            break;
        case 2:
        case 3: {
            const auto parent = input.number(4);
            frame_.name_set(parent, input.name(), input.number(kInodes));
            break;
        }
        case 4: {
            const auto parent = input.number(4);
            frame_.name_delete(parent, input.name());
            break;
        }
        case 5: {
            static constexpr const char* kKeys[] = {"user.a",        "user.kvfs.quota.bytes", "user.kvfs.quota.files",
                                                    "user.kvfs.pin", "user.kvfs.evictable",   "user.kvfs.ttl"};
            const auto ino = input.number(kInodes);
            const auto key = input.take<std::uint8_t>();
            const std::string name = key < 0xf0 ? kKeys[key % std::size(kKeys)] : "user." + input.name();
            frame_.xattr_set(ino, name, key % 2 == 0 ? input.name() : std::to_string(input.number(100)));
            break;
        }
        case 6: {
            const auto ino = input.number(kInodes);
            frame_.xattr_delete(ino, "user." + input.name());
            break;
        }
        case 7: {
            const auto ino = input.number(kInodes);
            frame_.symlink(ino, input.name());
            break;
        }
        case 8: {
            format::SegmentOpenBody body{};
            body.segment = input.number(kSegments + 1);
            body.generation = input.number(8);
            body.segment_class = input.take<std::uint8_t>() % 5;
            frame_.segment_open(body);
            break;
        }
        case 9: {
            const auto segment = input.number(kSegments + 1);
            const auto generation = input.number(8);
            frame_.next(segment, generation);
            if ((kind & 16) == 0) go_on_in(segment, generation);
            break;
        }
        case 10: {
            const auto ino = input.number(kInodes);
            frame_.atime(ino, static_cast<std::int64_t>(input.number(100)));
            break;
        }
        case 11:
            end_frame(0);
            break;
        case 12:
        case 13:
            file_with_data(input);
            break;
        default:
            return false;
    }
    return true;
}

void Image::inode(Input& input) {
    static constexpr std::uint32_t kTypes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, 0};
    format::InodeBody body{};
    body.ino = input.number(kInodes);
    const auto type = input.take<std::uint8_t>();
    body.mode = kTypes[type % std::size(kTypes)] | static_cast<std::uint32_t>(input.number(64) << 3 & 0xffff0fff);
    body.nlink = type;
    body.uid = body.gid = input.take<std::uint8_t>();
    body.size = input.number(200) * 1000;
    body.mtime_ns = static_cast<std::int64_t>(input.number(100));
    body.map_kind = input.take<std::uint8_t>() % 5;
    body.keep_blocks = input.number(8);
    std::vector<format::ExtentView> extents(input.take<std::uint8_t>() % 4);
    const std::vector<std::uint64_t> sums(8);
    for (auto& extent : extents) {
        auto& e = extent.body;
        e.logical = input.number(16);
        e.generation = input.number(8);
        e.segment = static_cast<std::uint32_t>(input.number(kSegments + 1));
        e.block = static_cast<std::uint32_t>(input.number(240));
        e.blocks = static_cast<std::uint32_t>(input.number(8));
        e.skip = static_cast<std::uint32_t>(input.number(4));
        e.run_blocks =
            input.take<std::uint8_t>() % 4 == 0 ? static_cast<std::uint32_t>(input.number(255)) : e.skip + e.blocks;
        const std::uint64_t granules = format::round_up(e.run_blocks, format::kGranuleBlocks) / format::kGranuleBlocks;
        extent.checksums = std::span(sums).first(std::min<std::uint64_t>(granules, sums.size()));
    }
    frame_.inode(body, extents);
}

// One as a writer leaves it: what follows can then damage something that is whole.
void Image::file_with_data(Input& input) {
    const auto ino = input.number(kInodes);
    const std::uint32_t blocks = 1 + input.take<std::uint8_t>() % 70;
    if (next_block_ + blocks > kSegment / format::kBlock) return;
    const std::string data(blocks * format::kBlock, static_cast<char>('A' + ino % 26));
    const format::DataChecksum checksum(sb_.uuid);
    std::vector<std::uint64_t> sums;
    for (std::uint32_t at = 0; at < blocks; at += format::kGranuleBlocks) {
        const auto n = std::min<std::uint32_t>(format::kGranuleBlocks, blocks - at);
        sums.push_back(checksum(std::as_bytes(std::span(data)).subspan(at * format::kBlock, n * format::kBlock),
                                kDataSegment, kDataGeneration, next_block_ + at));
    }
    write(data.data(), data.size(), place(kDataSegment, next_block_ * format::kBlock));
    if (next_block_ == 1) {
        format::SegmentHeader header{};
        header.uuid = sb_.uuid;
        header.segment = kDataSegment;
        header.generation = kDataGeneration;
        header.segment_class = static_cast<std::uint32_t>(format::SegmentClass::kData);
        format::seal_segment_header(header);
        write(&header, sizeof header, place(kDataSegment, 0));
    }
    frame_.segment_open({kDataSegment, kDataGeneration, static_cast<std::uint32_t>(format::SegmentClass::kData), 0});
    format::InodeBody body{};
    body.ino = ino;
    body.mode = S_IFREG | 0644;
    body.size = data.size() - input.take<std::uint8_t>();
    body.map_kind = static_cast<std::uint32_t>(format::MapKind::kFull);
    format::ExtentView extent{};
    extent.body.generation = kDataGeneration;
    extent.body.segment = kDataSegment;
    extent.body.block = next_block_;
    extent.body.blocks = extent.body.run_blocks = blocks;
    extent.checksums = sums;
    frame_.inode(body, std::span(&extent, 1));
    frame_.name_set(1, input.name(), ino);
    next_block_ += blocks;
}

void Image::end_frame(std::uint32_t flags) {
    const std::uint32_t count = frame_.count();
    const std::string payload = frame_.release();
    std::string out(format::frame_bytes(payload.size()), '\0');
    format::write_frame(at_, payload, count, flags, std::as_writable_bytes(std::span(out)));
    if (at_.offset + out.size() <= kSegment) write(out.data(), out.size(), place(segment_, at_.offset));
    at_.offset += out.size();
    ++at_.sequence;
}

void Image::go_on_in(std::uint64_t segment, std::uint64_t generation) {
    end_frame(0);
    segment_ = segment;
    at_.generation = generation;
    at_.offset = format::kBlock;
}

}  // namespace kvfs::fuzz
