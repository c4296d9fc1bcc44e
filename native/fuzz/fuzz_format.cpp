// The parsers of what lies on the device: superblock, segment header, frame, records, whose the volume is; and of what
// users set by extended attributes.
//
//   input: | kind (1 byte) | the structure |
//
// The mutator puts magic, lengths and checksums right most of the time: a parser behind a checksum is reached only by
// what has a valid one. What the parser of records accepts, the writer has to write back so that it reads the same.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "format/checksum.hpp"
#include "format/records.hpp"
#include "format/superblock.hpp"
#include "fuzz/input.hpp"
#include "store/ownership.hpp"
#include "store/settings.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

using namespace kvfs::format;

enum Kind : std::uint8_t { kSuperblock, kSegmentHeader, kFrame, kRecords, kSetting, kOwner, kKinds };

constexpr FramePlace kPlace{{1, 2, 3}, 7, 5, 2 * kBlock};

// Writes again what it is told.
class Copy final : public RecordVisitor {
public:
    RecordWriter writer;

    void inode(const InodeBody& body, std::span<const ExtentView> extents) override { writer.inode(body, extents); }
    void inode_delete(std::uint64_t ino) override { writer.inode_delete(ino); }
    void name_set(std::uint64_t parent, std::string_view name, std::uint64_t ino) override {
        writer.name_set(parent, name, ino);
    }
    void name_delete(std::uint64_t parent, std::string_view name) override { writer.name_delete(parent, name); }
    void xattr_set(std::uint64_t ino, std::string_view name, std::string_view value) override {
        writer.xattr_set(ino, name, value);
    }
    void xattr_delete(std::uint64_t ino, std::string_view name) override { writer.xattr_delete(ino, name); }
    void symlink(std::uint64_t ino, std::string_view target) override { writer.symlink(ino, target); }
    void segment_open(const SegmentOpenBody& body) override { writer.segment_open(body); }
    void next(std::uint64_t segment, std::uint64_t generation) override { writer.next(segment, generation); }
    void atime(std::uint64_t ino, std::int64_t atime_ns) override { writer.atime(ino, atime_ns); }
};

void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "violated: %s\n", what);
    std::abort();
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

void records(std::span<const std::byte> payload) {
    Copy first;
    if (!read_records(payload, first)) return;
    Copy second;
    expect(read_records(bytes_of(first.writer.bytes()), second), "what was read can be written and read");
    expect(first.writer.bytes() == second.writer.bytes(), "records survive writing and reading");
    expect(first.writer.count() == second.writer.count(), "no record is lost");
}

void frame(std::span<const std::byte> data) {
    std::uint64_t needs = 0;
    const auto header = parse_frame(kPlace, data, &needs);
    if (!header) {
        expect(needs == 0 || needs > data.size(), "more is asked for only where there is less");
        expect(needs <= kMaxSegment + kBlock, "a frame fits into a segment");
        return;
    }
    const auto payload = data.subspan(sizeof(FrameHeader), header->payload_bytes);
    std::string out(frame_bytes(payload.size()), '\1');
    write_frame(kPlace, {reinterpret_cast<const char*>(payload.data()), payload.size()}, header->record_count,
                header->flags, std::as_writable_bytes(std::span(out)));
    expect(parse_frame(kPlace, bytes_of(out), &needs).has_value(), "a frame that is written can be read");
    records(payload);
}

void superblock(std::span<const std::byte> data) {
    Superblock sb{};
    std::memcpy(&sb, data.data(), std::min(data.size(), sizeof sb));
    if (check_superblock(sb).fault != Fault::kValid) return;
    // who opens it computes these places
    expect(sb.first_segment + sb.segment_count * sb.segment_size <= sb.size - kBlock, "segments lie within the volume");
    expect(sb.size >= kBlock && superblock_offset(2, sb.size) < sb.size, "the copy at the end has a place");
    expect(sb.log_segment < sb.segment_count, "the log has a segment");
    expect(sb.log_offset % kBlock == 0 && sb.log_offset <= sb.segment_size, "the log starts within its segment");
    expect(sb.owner_bytes <= kOwnerMax, "the owner's text has an end");
}

void segment_header(std::span<const std::byte> data) {
    SegmentHeader header{};
    std::memcpy(&header, data.data(), std::min(data.size(), sizeof header));
    const std::string fault = check_segment_header(header, kPlace.uuid, 3, 9);
    expect(!fault.empty() || (header.segment == 3 && header.generation == 9), "a header is of its own segment");
}

// | superblock A | superblock B | beat | claim |, of which not all need to be there.
void owner(std::span<const std::byte> data) {
    using namespace kvfs::store;
    std::string device(kOwnerBytes, '\0');
    std::size_t at = 0;
    for (const std::uint64_t offset : {kSuperblockA, kSuperblockB, kHostBeat, kHostClaim}) {
        const std::size_t size = std::min<std::size_t>(kBlock, data.size() - at);
        std::memcpy(device.data() + offset, data.data() + at, size);
        at += size;
    }
    const OwnerRecord record = read_owner_record(bytes_of(device).data(), kPlace.uuid);
    for (const auto& mark : {record.beat, record.claim}) {
        expect(!mark || mark->uuid == kPlace.uuid, "a mark is of its own volume");
        expect(!mark || mark->owner_bytes <= kOwnerMax, "the owner's text has an end");
    }
    Holding mine;
    mine.uuid = kPlace.uuid;
    mine.epoch = 7;
    const std::string taker = who_took(record, mine);
    const bool is_claimed = record.claim && record.claim->epoch > mine.epoch;
    expect(!is_claimed || !taker.empty(), "who claims the volume has it");
    mine.epoch = ~std::uint64_t{0};
    mine.host = {9};
    expect(!record.superblocks[0] || !record.superblocks[1] || record.superblocks[0]->uuid == mine.uuid ||
               record.superblocks[1]->uuid == mine.uuid || !who_took(record, mine).empty(),
           "another volume's superblocks are noticed");
}

void setting(std::span<const std::byte> data) {
    if (data.empty()) return;
    const auto which = static_cast<kvfs::store::Setting>(static_cast<unsigned>(data[0]) % 5);
    const std::string_view value(reinterpret_cast<const char*>(data.data()) + 1, data.size() - 1);
    constexpr std::int64_t kNow = 1'800'000'000'000'000'000;
    const auto parsed = kvfs::store::parse_setting(which, value, kNow);
    kvfs::store::quoted(value);
    if (!parsed) return;
    const auto again = kvfs::store::parse_setting(which, parsed->text, kNow);
    expect(again.has_value() && again->text == parsed->text, "a setting's own text is a setting");
}

// Puts right what stands before the part of a parser that is worth getting to.
void repair(std::uint8_t* data, std::size_t size) {
    std::span<std::byte> body(reinterpret_cast<std::byte*>(data) + 1, size - 1);
    const auto kind = static_cast<Kind>(data[0] % kKinds);
    if (kind == kSuperblock && body.size() >= sizeof(Superblock)) {
        Superblock sb;
        std::memcpy(&sb, body.data(), sizeof sb);
        seal_superblock(sb);
        std::memcpy(body.data(), &sb, sizeof sb);
    } else if (kind == kSegmentHeader && body.size() >= sizeof(SegmentHeader)) {
        SegmentHeader header;
        std::memcpy(&header, body.data(), sizeof header);
        seal_segment_header(header);
        std::memcpy(body.data(), &header, sizeof header);
    } else if (kind == kOwner) {
        for (std::size_t at = 0; at + kBlock <= body.size(); at += kBlock) {
            const auto seal_as = [&]<typename T>(T block, void (*seal)(T&)) {
                std::memcpy(&block, body.data() + at, sizeof block);
                block.uuid = kPlace.uuid;
                seal(block);
                std::memcpy(body.data() + at, &block, sizeof block);
            };
            at < 2 * kBlock ? seal_as(Superblock{}, seal_superblock) : seal_as(HostMark{}, seal_host_mark);
        }
    } else if (kind == kFrame && body.size() >= sizeof(FrameHeader)) {
        const std::string payload(reinterpret_cast<const char*>(body.data()) + sizeof(FrameHeader),
                                  body.size() - sizeof(FrameHeader));
        std::string out(frame_bytes(payload.size()), '\0');
        write_frame(kPlace, payload, 1, 0, std::as_writable_bytes(std::span(out)));
        std::memcpy(body.data(), out.data(), body.size());
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size > 1 && seed % 8 != 0) repair(data, size);
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    // memory of its own that ends where the input ends: a sanitizer sees who reads on
    const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % kKinds) {
        case kSuperblock:
            superblock(bytes_of(body));
            break;
        case kSegmentHeader:
            segment_header(bytes_of(body));
            break;
        case kFrame:
            frame(bytes_of(body));
            break;
        case kSetting:
            setting(bytes_of(body));
            break;
        case kOwner:
            owner(bytes_of(body));
            break;
        default:
            records(bytes_of(body));
    }
    return 0;
}
