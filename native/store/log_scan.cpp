#include "store/log_scan.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "format/superblock.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kReadAhead = std::size_t{4} << 20;
constexpr unsigned kHeaderReaders = 8;  // requests at a time: headers lie a segment apart

std::shared_ptr<uring::Buffer> heap(std::size_t size) {
    return std::make_shared<uring::Buffer>(uring::Buffer::heap(size));
}

}  // namespace

SegmentReader::SegmentReader(Read read, const format::Superblock& superblock, SegmentId segment)
    : read_(std::move(read)),
      base_(superblock.first_segment + segment * superblock.segment_size),
      size_(superblock.segment_size),
      buffer_(heap(kReadAhead)) {}

SegmentReader::SegmentReader(const uring::PlainIo& io, const format::Superblock& superblock, SegmentId segment)
    : SegmentReader(
          [&io](const std::shared_ptr<uring::Buffer>& buffer, std::size_t bytes, std::uint64_t offset) {
              std::size_t done = 0;
              while (done < bytes) {
                  const ssize_t got = io.read(buffer->data() + done, bytes - done, offset + done);
                  if (got < 0 && errno == EINTR) continue;
                  if (got <= 0) break;
                  done += static_cast<std::size_t>(got);
              }
              return static_cast<ssize_t>(done);
          },
          superblock, segment) {}

std::span<const std::byte> SegmentReader::at(std::uint64_t offset, std::uint64_t bytes) {
    if (offset >= size_) return {};
    bytes = std::min(bytes, size_ - offset);
    if (offset >= start_ && offset + bytes <= start_ + length_) {
        return {buffer_->data() + (offset - start_), start_ + length_ - offset};
    }
    fill(offset, std::min(std::max<std::uint64_t>(bytes, kReadAhead), size_ - offset));
    if (length_ < bytes) fill(offset, bytes);  // one bad sector fails a large request as a whole
    return {buffer_->data(), length_};
}

void SegmentReader::fill(std::uint64_t offset, std::uint64_t bytes) {
    if (bytes > buffer_->size()) buffer_ = heap(bytes);
    start_ = offset;
    const ssize_t got = read_(buffer_, bytes, base_ + offset);
    length_ = got > 0 ? static_cast<std::uint64_t>(got) : 0;
    if (got == -ETIMEDOUT) buffer_ = heap(kReadAhead);  // the other one is the device's now
}

std::optional<WholeFrame> read_frame(SegmentReader& reader, const format::FramePlace& place) {
    std::uint64_t needs = 0;
    auto data = reader.at(place.offset, format::kBlock);
    auto header = format::parse_frame(place, data, &needs);
    if (!header && needs > data.size()) {
        data = reader.at(place.offset, needs);
        header = format::parse_frame(place, data, &needs);
    }
    if (!header) return std::nullopt;
    return WholeFrame{*header, data.subspan(sizeof(format::FrameHeader), header->payload_bytes)};
}

bool is_broken_frame(SegmentReader& reader, const format::FramePlace& place) {
    const auto data = reader.at(place.offset, format::kBlock);
    format::FrameHeader header{};
    if (data.size() < sizeof header) return false;
    std::memcpy(&header, data.data(), sizeof header);
    return header.magic == format::kFrameMagic && header.uuid == place.uuid && header.generation == place.generation &&
           header.sequence == place.sequence && header.offset == place.offset && !read_frame(reader, place);
}

std::optional<WholeFrame> find_frame(SegmentReader& reader, const format::Uuid& uuid, std::uint64_t generation,
                                     std::uint64_t from, std::uint64_t least) {
    for (std::uint64_t offset = from; offset + format::kBlock <= reader.size(); offset += format::kBlock) {
        const auto data = reader.at(offset, format::kBlock);
        format::FrameHeader header{};
        if (data.size() < sizeof header) continue;  // a block that cannot be read does not hide those behind it
        std::memcpy(&header, data.data(), sizeof header);
        if (header.magic != format::kFrameMagic || header.sequence < least) continue;
        if (auto frame = read_frame(reader, {uuid, generation, header.sequence, offset})) return frame;
    }
    return std::nullopt;
}

std::vector<FoundSegment> find_segments(const uring::PlainIo& io, const format::Superblock& superblock,
                                        format::SegmentClass kind, std::uint64_t after) {
    std::vector<FoundSegment> out;
    std::mutex mutex;
    std::atomic<std::uint64_t> next{0};
    const auto work = [&] {
        const uring::Buffer block = uring::Buffer::heap(format::kBlock);
        for (auto id = next.fetch_add(1); id < superblock.segment_count; id = next.fetch_add(1)) {
            const std::uint64_t offset = superblock.first_segment + id * superblock.segment_size;
            if (io.read(block.data(), format::kBlock, offset) != static_cast<ssize_t>(format::kBlock)) continue;
            format::SegmentHeader header{};
            std::memcpy(&header, block.data(), sizeof header);
            if (header.generation <= after || header.segment_class != static_cast<std::uint32_t>(kind)) continue;
            // whole, and of this volume; that it lies elsewhere than it says is no objection
            if (!format::check_segment_header(header, superblock.uuid, header.segment, header.generation).empty()) {
                continue;
            }
            const std::lock_guard guard(mutex);
            out.push_back({static_cast<SegmentId>(id), header.generation});
        }
    };
    {
        std::vector<std::jthread> readers;
        const auto wanted = std::min<std::uint64_t>(kHeaderReaders, superblock.segment_count / 32 + 1);
        for (unsigned i = 1; i < wanted; ++i) readers.emplace_back(work);
        work();
    }
    std::sort(out.begin(), out.end(),
              [](const FoundSegment& a, const FoundSegment& b) { return a.generation < b.generation; });
    return out;
}

}  // namespace kvfs::store
