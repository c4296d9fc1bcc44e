// Writing and reading log records and frames. The layout is in format.hpp.
#pragma once

#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format/format.hpp"

namespace kvfs::format {

// A run of checksummed blocks and the part of it that a file uses, as it goes into a record.
struct ExtentView {
    ExtentBody body;
    std::span<const std::uint64_t> checksums;  // ceil(run_blocks / 64)
};

// Appends records to a byte string. Not thread safe; the caller's lock orders records.
class RecordWriter {
public:
    void inode(const InodeBody& body, std::span<const ExtentView> extents);
    void inode_delete(std::uint64_t ino);
    void name_set(std::uint64_t parent, std::string_view name, std::uint64_t ino);
    void name_delete(std::uint64_t parent, std::string_view name);
    void xattr_set(std::uint64_t ino, std::string_view name, std::string_view value);
    void xattr_delete(std::uint64_t ino, std::string_view name);
    void symlink(std::uint64_t ino, std::string_view target);
    void segment_open(const SegmentOpenBody& body);
    void next(std::uint64_t segment, std::uint64_t generation);
    void atime(std::uint64_t ino, std::int64_t atime_ns);

    [[nodiscard]] const std::string& bytes() const { return bytes_; }
    [[nodiscard]] std::uint32_t count() const { return count_; }
    [[nodiscard]] bool empty() const { return count_ == 0; }
    // Hands the bytes over and starts anew, without keeping their memory.
    std::string release();
    // Forgets the first `bytes` bytes, which hold `records` whole records.
    void drop_front(std::size_t bytes, std::uint32_t records);

private:
    std::size_t begin(RecordType type);
    void end(std::size_t start);
    template <typename T>
    void put(const T& value) {
        bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }

    std::string bytes_;
    std::uint32_t count_ = 0;
};

// What a reader of records does with each. The default of every call is to ignore the record.
class RecordVisitor {
public:
    virtual ~RecordVisitor() = default;
    virtual void inode(const InodeBody& /*body*/, std::span<const ExtentView> /*extents*/) {}
    virtual void inode_delete(std::uint64_t /*ino*/) {}
    virtual void name_set(std::uint64_t /*parent*/, std::string_view /*name*/, std::uint64_t /*ino*/) {}
    virtual void name_delete(std::uint64_t /*parent*/, std::string_view /*name*/) {}
    virtual void xattr_set(std::uint64_t /*ino*/, std::string_view /*name*/, std::string_view /*value*/) {}
    virtual void xattr_delete(std::uint64_t /*ino*/, std::string_view /*name*/) {}
    virtual void symlink(std::uint64_t /*ino*/, std::string_view /*target*/) {}
    virtual void segment_open(const SegmentOpenBody& /*body*/) {}
    virtual void next(std::uint64_t /*segment*/, std::uint64_t /*generation*/) {}
    virtual void atime(std::uint64_t /*ino*/, std::int64_t /*atime_ns*/) {}
};

// Feeds every record of a frame's payload to the visitor. False when the payload is not well formed (a frame whose
// checksum holds but whose records do not parse: a writer's bug or a newer format); nothing after the fault is fed.
bool read_records(std::span<const std::byte> payload, RecordVisitor& visitor);

struct FramePlace {
    Uuid uuid;
    std::uint64_t generation;
    std::uint64_t sequence;
    std::uint64_t offset;
    std::uint32_t unflushed = 0;  // of a frame to be written (FrameHeader)
};

// Header and payload, padded to whole blocks, into `out` (which has room: frame_bytes(payload.size())).
void write_frame(const FramePlace& place, std::string_view payload, std::uint32_t record_count, std::uint32_t flags,
                 std::span<std::byte> out);

constexpr std::uint64_t frame_bytes(std::uint64_t payload_bytes) {
    return round_up(sizeof(FrameHeader) + payload_bytes, kBlock);
}

// The frame's header when `data` starts with a valid frame for this place (and holds all of it). `needs` says how
// many bytes are required when the header is plausible but `data` ends before it does.
std::optional<FrameHeader> parse_frame(const FramePlace& place, std::span<const std::byte> data, std::uint64_t* needs);

}  // namespace kvfs::format
