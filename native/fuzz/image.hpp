// A small volume in memory, made from a fuzzer's bytes: everything has valid checksums, nothing needs to make sense.
#pragma once

#include <cstdint>
#include <string>

#include "format/checksum.hpp"
#include "format/records.hpp"
#include "format/superblock.hpp"
#include "fuzz/input.hpp"

namespace kvfs::fuzz {

class Image {
public:
    static constexpr std::uint64_t kSegment = format::kMinSegment;
    static constexpr std::uint64_t kSegments = format::kMinSegments;
    static constexpr std::uint64_t kSize = format::kFirstSegment + kSegments * kSegment + format::kBlock;

    Image();
    ~Image();
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;

    // Writes what `input` says over an empty volume.
    void build(Input& input);
    // Opens with O_DIRECT where the kernel's tmpfs can (Linux 6.6).
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    void superblocks(Input& input);
    void stream(Input& input, bool checkpoint);
    // Appends one record to the frame in hand. False: the stream ends here.
    bool record(Input& input);
    void inode(Input& input);
    void file_with_data(Input& input);
    void end_frame(std::uint32_t flags);
    void go_on_in(std::uint64_t segment, std::uint64_t generation);
    void write(const void* data, std::size_t size, std::uint64_t offset);
    [[nodiscard]] static std::uint64_t place(std::uint64_t segment, std::uint64_t offset);

    int fd_ = -1;
    std::string path_;
    format::Superblock sb_{};
    format::RecordWriter frame_;
    format::FramePlace at_{};
    std::uint64_t segment_ = 0;
    std::uint32_t next_block_ = 1;  // of the data segment that files with data lie in
};

}  // namespace kvfs::fuzz
