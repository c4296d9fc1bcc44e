// Reading chains of frames, and looking for what lies beyond the place where one breaks off.
//
// Recovery follows a chain until no whole frame follows. For the log that has three causes, which look alike there:
//   1. the log ended: nothing was written after that;
//   2. a crash cut it: with a volatile write cache, frames that no flush followed may be torn or missing while later
//      ones are whole. Nobody was promised anything of what is beyond the cut;
//   3. the medium lost a frame that was there once: what fsync promised is gone, and the state before it must not pass
//      for the newest one.
// Every frame says which of the frames before it were known to be on the medium (FrameHeader::unflushed). So the third
// case is told from the second by any later frame that is whole and counts on one that cannot be read. Later frames are
// certain to be later: their uuid, generation, sequence and offset are those of their place. They are looked for in the
// rest of the segment where the chain broke off, and in every segment whose header names a log of a later generation,
// wherever that segment lies (a swapped one is not where its header says).
//
// What cannot be known: damage to the last frames, after which nothing whole was written, looks like the first case or
// the second. A volume that was closed in order has no such frames, its checkpoint holds everything and says where it
// ends.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "format/records.hpp"
#include "store/segments.hpp"
#include "uring/buffers.hpp"
#include "uring/plain.hpp"

namespace kvfs::store {

// A forward-moving window over one segment, read with few large requests.
class SegmentReader {
public:
    // Bytes read into the buffer, fewer where the device ends or fails; -ETIMEDOUT: it may still write into the buffer.
    using Read =
        std::function<ssize_t(const std::shared_ptr<uring::Buffer>& buffer, std::size_t bytes, std::uint64_t offset)>;

    SegmentReader(Read read, const format::Superblock& superblock, SegmentId segment);
    // `io` has to outlive it.
    SegmentReader(const uring::PlainIo& io, const format::Superblock& superblock, SegmentId segment);

    // At least `bytes` from `offset` on, fewer at the segment's end; empty on an I/O error.
    std::span<const std::byte> at(std::uint64_t offset, std::uint64_t bytes);
    [[nodiscard]] std::uint64_t size() const { return size_; }

private:
    void fill(std::uint64_t offset, std::uint64_t bytes);

    Read read_;
    std::uint64_t base_;
    std::uint64_t size_;
    std::shared_ptr<uring::Buffer> buffer_;
    std::uint64_t start_ = 0;
    std::uint64_t length_ = 0;
};

// `payload` is the reader's until its next call.
struct WholeFrame {
    format::FrameHeader header{};
    std::span<const std::byte> payload;
};

// The frame at its place, when there is one and it is whole.
std::optional<WholeFrame> read_frame(SegmentReader& reader, const format::FramePlace& place);

// A frame begins there, by its header, that is not whole: torn, or damaged.
bool is_broken_frame(SegmentReader& reader, const format::FramePlace& place);

// The first whole frame of the generation at or after `from` whose sequence is at least `least`.
std::optional<WholeFrame> find_frame(SegmentReader& reader, const format::Uuid& uuid, std::uint64_t generation,
                                     std::uint64_t from, std::uint64_t least);

struct FoundSegment {
    SegmentId segment = 0;  // where it lies
    std::uint64_t generation = 0;
};

// Segments of the class with a later generation than `after`, by generation. Reads every segment's header.
std::vector<FoundSegment> find_segments(const uring::PlainIo& io, const format::Superblock& superblock,
                                        format::SegmentClass kind, std::uint64_t after);

}  // namespace kvfs::store
