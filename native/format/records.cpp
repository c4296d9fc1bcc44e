#include "format/records.hpp"

#include "format/checksum.hpp"

namespace kvfs::format {
namespace {

// Reads fixed-size values off the front of a record's body; `ok` turns false at the first shortage.
class Cursor {
public:
    explicit Cursor(std::span<const std::byte> data) : data_(data) {}
    template <typename T>
    T take() {
        T value{};
        if (data_.size() < sizeof(T)) {
            ok_ = false;
            data_ = {};
            return value;
        }
        std::memcpy(&value, data_.data(), sizeof(T));
        data_ = data_.subspan(sizeof(T));
        return value;
    }
    std::string_view text(std::size_t size) {
        if (data_.size() < size) {
            ok_ = false;
            return {};
        }
        std::string_view out(reinterpret_cast<const char*>(data_.data()), size);
        data_ = data_.subspan(size);
        return out;
    }
    std::string_view rest() { return text(data_.size()); }
    [[nodiscard]] bool ok() const { return ok_; }
    [[nodiscard]] std::size_t left() const { return data_.size(); }

private:
    std::span<const std::byte> data_;
    bool ok_ = true;
};

bool read_inode(Cursor& in, RecordVisitor& visitor) {
    const auto body = in.take<InodeBody>();
    if (!in.ok() || body.extent_count > in.left() / sizeof(ExtentBody)) return false;
    std::vector<ExtentView> extents(body.extent_count);
    std::vector<std::vector<std::uint64_t>> sums(body.extent_count);
    for (std::size_t i = 0; i < extents.size(); ++i) {
        extents[i].body = in.take<ExtentBody>();
        const ExtentBody& e = extents[i].body;
        const std::uint64_t granules = round_up(e.run_blocks, kGranuleBlocks) / kGranuleBlocks;
        if (!in.ok() || e.blocks == 0 || granules > in.left() / 8) return false;
        const bool plausible = e.segment == kHoleSegment ? (e.block | e.skip | e.run_blocks | e.generation) == 0
                                                         : std::uint64_t{e.skip} + e.blocks <= e.run_blocks;
        if (!plausible) return false;
        sums[i].resize(granules);
        for (auto& sum : sums[i]) sum = in.take<std::uint64_t>();
        extents[i].checksums = sums[i];
    }
    if (in.left() != 0) return false;
    visitor.inode(body, extents);
    return true;
}

bool read_one(RecordType type, Cursor in, RecordVisitor& visitor) {
    switch (type) {
        case RecordType::kInode:
            return read_inode(in, visitor);
        case RecordType::kInodeDelete: {
            const auto ino = in.take<std::uint64_t>();
            if (in.ok()) visitor.inode_delete(ino);
            break;
        }
        case RecordType::kNameSet: {
            const auto parent = in.take<std::uint64_t>();
            const auto ino = in.take<std::uint64_t>();
            const auto name = in.rest();
            if (!in.ok() || name.empty() || name.size() > kNameMax) return false;
            visitor.name_set(parent, name, ino);
            break;
        }
        case RecordType::kNameDelete: {
            const auto parent = in.take<std::uint64_t>();
            const auto name = in.rest();
            if (!in.ok() || name.empty() || name.size() > kNameMax) return false;
            visitor.name_delete(parent, name);
            break;
        }
        case RecordType::kXattrSet: {
            const auto ino = in.take<std::uint64_t>();
            const auto name_bytes = in.take<std::uint32_t>();
            const auto name = in.text(name_bytes);
            const auto value = in.rest();
            if (in.ok()) visitor.xattr_set(ino, name, value);
            break;
        }
        case RecordType::kXattrDelete: {
            const auto ino = in.take<std::uint64_t>();
            const auto name = in.rest();
            if (in.ok()) visitor.xattr_delete(ino, name);
            break;
        }
        case RecordType::kSymlink: {
            const auto ino = in.take<std::uint64_t>();
            const auto target = in.rest();
            if (in.ok()) visitor.symlink(ino, target);
            break;
        }
        case RecordType::kSegmentOpen: {
            const auto body = in.take<SegmentOpenBody>();
            if (in.ok()) visitor.segment_open(body);
            break;
        }
        case RecordType::kNext: {
            const auto segment = in.take<std::uint64_t>();
            const auto generation = in.take<std::uint64_t>();
            if (in.ok()) visitor.next(segment, generation);
            break;
        }
        case RecordType::kAtime: {
            const auto ino = in.take<std::uint64_t>();
            const auto atime = in.take<std::int64_t>();
            if (in.ok()) visitor.atime(ino, atime);
            break;
        }
        default:
            return false;
    }
    return in.ok();
}

}  // namespace

std::size_t RecordWriter::begin(RecordType type) {
    const std::size_t start = bytes_.size();
    put(RecordHeader{static_cast<std::uint16_t>(type), 0, 0});
    return start;
}

void RecordWriter::end(std::size_t start) {
    const auto body = static_cast<std::uint32_t>(bytes_.size() - start - sizeof(RecordHeader));
    std::memcpy(bytes_.data() + start + offsetof(RecordHeader, body_bytes), &body, sizeof body);
    ++count_;
}

std::string RecordWriter::release() {
    count_ = 0;
    return std::exchange(bytes_, {});
}

void RecordWriter::drop_front(std::size_t bytes, std::uint32_t records) {
    bytes_.erase(0, bytes);
    count_ -= records;
}

void RecordWriter::inode(const InodeBody& body, std::span<const ExtentView> extents) {
    const auto start = begin(RecordType::kInode);
    InodeBody copy = body;
    copy.extent_count = static_cast<std::uint32_t>(extents.size());
    put(copy);
    for (const auto& extent : extents) {
        put(extent.body);
        for (const std::uint64_t sum : extent.checksums) put(sum);
    }
    end(start);
}

void RecordWriter::inode_delete(std::uint64_t ino) {
    const auto start = begin(RecordType::kInodeDelete);
    put(ino);
    end(start);
}

void RecordWriter::name_set(std::uint64_t parent, std::string_view name, std::uint64_t ino) {
    const auto start = begin(RecordType::kNameSet);
    put(parent);
    put(ino);
    bytes_.append(name);
    end(start);
}

void RecordWriter::name_delete(std::uint64_t parent, std::string_view name) {
    const auto start = begin(RecordType::kNameDelete);
    put(parent);
    bytes_.append(name);
    end(start);
}

void RecordWriter::xattr_set(std::uint64_t ino, std::string_view name, std::string_view value) {
    const auto start = begin(RecordType::kXattrSet);
    put(ino);
    put(static_cast<std::uint32_t>(name.size()));
    bytes_.append(name);
    bytes_.append(value);
    end(start);
}

void RecordWriter::xattr_delete(std::uint64_t ino, std::string_view name) {
    const auto start = begin(RecordType::kXattrDelete);
    put(ino);
    bytes_.append(name);
    end(start);
}

void RecordWriter::symlink(std::uint64_t ino, std::string_view target) {
    const auto start = begin(RecordType::kSymlink);
    put(ino);
    bytes_.append(target);
    end(start);
}

void RecordWriter::segment_open(const SegmentOpenBody& body) {
    const auto start = begin(RecordType::kSegmentOpen);
    put(body);
    end(start);
}

void RecordWriter::next(std::uint64_t segment, std::uint64_t generation) {
    const auto start = begin(RecordType::kNext);
    put(segment);
    put(generation);
    end(start);
}

void RecordWriter::atime(std::uint64_t ino, std::int64_t atime_ns) {
    const auto start = begin(RecordType::kAtime);
    put(ino);
    put(atime_ns);
    end(start);
}

bool read_records(std::span<const std::byte> payload, RecordVisitor& visitor) {
    while (!payload.empty()) {
        if (payload.size() < sizeof(RecordHeader)) return false;
        RecordHeader header{};
        std::memcpy(&header, payload.data(), sizeof header);
        payload = payload.subspan(sizeof header);
        if (header.body_bytes > payload.size()) return false;
        if (!read_one(static_cast<RecordType>(header.type), Cursor(payload.first(header.body_bytes)), visitor)) {
            return false;
        }
        payload = payload.subspan(header.body_bytes);
    }
    return true;
}

void write_frame(const FramePlace& place, std::string_view payload, std::uint32_t record_count, std::uint32_t flags,
                 std::span<std::byte> out) {
    FrameHeader header{};
    header.magic = kFrameMagic;
    header.payload_bytes = static_cast<std::uint32_t>(payload.size());
    header.record_count = record_count;
    header.uuid = place.uuid;
    header.generation = place.generation;
    header.sequence = place.sequence;
    header.offset = place.offset;
    header.flags = flags;
    header.unflushed = place.unflushed;
    std::memcpy(out.data(), &header, sizeof header);
    std::memcpy(out.data() + sizeof header, payload.data(), payload.size());
    const std::size_t used = sizeof header + payload.size();
    std::memset(out.data() + used, 0, frame_bytes(payload.size()) - used);
    header.crc = crc32c(out.first(used));
    std::memcpy(out.data() + offsetof(FrameHeader, crc), &header.crc, sizeof header.crc);
}

std::optional<FrameHeader> parse_frame(const FramePlace& place, std::span<const std::byte> data, std::uint64_t* needs) {
    *needs = 0;
    FrameHeader header{};
    if (data.size() < sizeof header) {
        *needs = sizeof header;
        return std::nullopt;
    }
    std::memcpy(&header, data.data(), sizeof header);
    if (header.magic != kFrameMagic || header.uuid != place.uuid || header.generation != place.generation ||
        header.sequence != place.sequence || header.offset != place.offset || header.payload_bytes > kMaxSegment) {
        return std::nullopt;
    }
    const std::size_t used = sizeof header + header.payload_bytes;
    if (data.size() < used) {
        *needs = frame_bytes(header.payload_bytes);
        return std::nullopt;
    }
    FrameHeader blank = header;
    blank.crc = 0;
    std::uint32_t crc = crc32c(std::as_bytes(std::span(&blank, 1)));
    crc = crc32c(data.subspan(sizeof header, header.payload_bytes), crc);
    if (crc != header.crc) return std::nullopt;
    return header;
}

}  // namespace kvfs::format
