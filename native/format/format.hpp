// KVFS1, the on-disk format: every size and offset is spelled out here and in kvfs/store/format.py,
// and tests/t0_format holds golden bytes for both.
//
//   0            4 KiB        64 KiB                1 MiB                                   size - 4 KiB
//   | superblock A | ...      | superblock B | ...  | segment 0 | segment 1 | ... | (slack) | superblock end |
//                  between A and B: 8 KiB the owner's beat, 12 KiB the claim of whoever takes the volume over
//
//   segment:   | header 4 KiB | payload ........................................................ |
//   data       payload = 4 KiB blocks of file data, each run covered by seeded XXH3-64 checksums
//   log        payload = frames, one after the other; the last one names the segment that follows
//   checkpoint payload = frames of the same records, describing the whole state at one instant
//
// All integers are little-endian. A volume is self-contained: its superblocks, its log, its data.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace kvfs::format {

static_assert(std::endian::native == std::endian::little, "KVFS1 structures are mapped as they lie on disk");

inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::uint64_t kBlock = 4096;
inline constexpr std::uint64_t kSuperblockA = 0;
inline constexpr std::uint64_t kHostBeat = 8 * 1024;
inline constexpr std::uint64_t kHostClaim = 12 * 1024;
inline constexpr std::uint64_t kSuperblockB = 64 * 1024;
inline constexpr std::uint64_t kFirstSegment = 1024 * 1024;
inline constexpr std::uint64_t kMinSegment = 1024 * 1024;
inline constexpr std::uint64_t kMaxSegment = 256 * 1024 * 1024;
inline constexpr std::uint64_t kMinSegments = 12;    // log, checkpoint, their successors, the cleaner's reserve, data
inline constexpr std::uint64_t kGranuleBlocks = 64;  // 256 KiB: one checksum covers at most this much
inline constexpr std::uint64_t kNoSegment = ~std::uint64_t{0};
inline constexpr std::size_t kOwnerMax = 2048;
inline constexpr std::size_t kLabelMax = 64;
inline constexpr std::size_t kHostNameMax = 64;
inline constexpr std::size_t kNameMax = 255;

using Uuid = std::array<std::uint8_t, 16>;

inline constexpr char kSuperblockMagicBytes[8] = {'K', 'V', 'F', 'S', 'S', 'B', '1', '\0'};
inline constexpr char kSegmentMagicBytes[8] = {'K', 'V', 'F', 'S', 'S', 'E', 'G', '\0'};
inline constexpr char kHostMarkMagicBytes[8] = {'K', 'V', 'F', 'S', 'O', 'W', 'N', '\0'};
inline constexpr std::uint32_t kFrameMagic = 0x464c564b;  // "KVLF"

// Features that a reader must know. Set by the first writable mount of a build that has them.
enum IncompatBits : std::uint64_t {
    kHoleExtents = 1,  // ExtentBody may describe a hole
};
inline constexpr std::uint64_t kKnownIncompat = kHoleExtents;

enum CompatBits : std::uint64_t {
    kOwnedByHost = 1,  // host_uuid names a host that every mount of it goes by; without: a number made for one mount
};

enum SuperblockFlags : std::uint32_t { kClean = 1 };  // closed in order: nothing to recover

struct Superblock {
    char magic[8];
    std::uint32_t version;
    std::uint32_t crc;        // crc32c of the 4096 bytes with this field zero
    std::uint64_t compat;     // unknown bits: ignore
    std::uint64_t ro_compat;  // unknown bits: mount read-only
    std::uint64_t incompat;   // unknown bits: refuse
    Uuid uuid;
    std::uint64_t size;          // bytes of the device that the volume uses, a multiple of kBlock
    std::uint64_t segment_size;  // bytes, a power of two
    std::uint64_t segment_count;
    std::uint64_t first_segment;  // bytes
    std::uint64_t sequence;       // of the valid copies of the highest epoch the newest wins
    std::uint64_t epoch;          // one more at each writable mount; the high half of every generation
    std::int64_t created_ns;
    std::int64_t written_ns;
    std::uint32_t flags;
    std::uint32_t copy;                // 0 A, 1 B, 2 end
    std::uint64_t checkpoint_segment;  // kNoSegment: none yet, the log describes everything
    std::uint64_t checkpoint_generation;
    std::uint64_t checkpoint_bytes;  // payload bytes of its frames, for the pace of the next one
    std::uint64_t log_segment;       // replay starts here
    std::uint64_t log_generation;
    std::uint64_t log_offset;       // bytes from the start of the segment
    std::uint64_t log_sequence;     // of the frame expected there
    std::uint32_t namespace_index;  // one of namespace_count volumes that make up a store
    std::uint32_t namespace_count;
    Uuid store_uuid;        // shared by all namespaces of a store; equals uuid when there is one
    Uuid host_uuid;         // owner of the segments that this mount writes
    char label[kLabelMax];  // UTF-8, zero-padded
    std::uint32_t owner_bytes;
    std::uint32_t reserved;
    char owner[kOwnerMax];  // JSON: who holds the volume, or held it last
    std::uint8_t zero[1752];
};
static_assert(offsetof(Superblock, crc) == 12);
static_assert(offsetof(Superblock, uuid) == 40);
static_assert(offsetof(Superblock, size) == 56);
static_assert(offsetof(Superblock, sequence) == 88);
static_assert(offsetof(Superblock, flags) == 120);
static_assert(offsetof(Superblock, checkpoint_segment) == 128);
static_assert(offsetof(Superblock, log_segment) == 152);
static_assert(offsetof(Superblock, namespace_index) == 184);
static_assert(offsetof(Superblock, store_uuid) == 192);
static_assert(offsetof(Superblock, label) == 224);
static_assert(offsetof(Superblock, owner_bytes) == 288);
static_assert(offsetof(Superblock, owner) == 296);
static_assert(sizeof(Superblock) == kBlock);

enum class HostState : std::uint32_t {
    kNone = 0,    // no mark has it
    kHolds = 1,   // of a beat: mounted for writing; of a claim: the volume is this host's
    kYields = 2,  // of a beat: this mount has seen that it lost the volume, and writes nothing any more
};

// A host's word about itself (store/ownership.hpp): the owner's beat, which it alone writes, and the claim of a host
// that takes the volume over, which anybody may write.
struct HostMark {
    char magic[8];
    std::uint32_t version;
    std::uint32_t crc;  // crc32c of the 4096 bytes with this field zero
    Uuid uuid;          // of the volume: what a former one left here says nothing
    Uuid host_uuid;
    std::uint64_t epoch;
    std::uint64_t count;  // of a beat: one more each time
    std::int64_t written_ns;
    HostState state;
    std::uint32_t owner_bytes;
    char host_name[kHostNameMax];  // UTF-8, zero-padded
    char owner[kOwnerMax];         // JSON, as the superblock's
    std::uint8_t zero[1904];
};
static_assert(offsetof(HostMark, uuid) == 16);
static_assert(offsetof(HostMark, epoch) == 48);
static_assert(offsetof(HostMark, state) == 72);
static_assert(offsetof(HostMark, host_name) == 80);
static_assert(offsetof(HostMark, owner) == 144);
static_assert(sizeof(HostMark) == kBlock);

enum class SegmentClass : std::uint32_t { kData = 1, kLog = 2, kCheckpoint = 3 };

// The first block of every segment in use. A generation is never repeated: (mount epoch << 32) | counter.
struct SegmentHeader {
    char magic[8];
    std::uint32_t version;
    std::uint32_t crc;  // crc32c of the 4096 bytes with this field zero
    Uuid uuid;
    std::uint64_t segment;
    std::uint64_t generation;
    Uuid host_uuid;
    std::uint64_t epoch;
    std::uint32_t segment_class;
    std::uint32_t reserved;
    std::int64_t opened_ns;
    std::uint8_t zero[4008];
};
static_assert(offsetof(SegmentHeader, segment) == 32);
static_assert(offsetof(SegmentHeader, segment_class) == 72);
static_assert(sizeof(SegmentHeader) == kBlock);

// A frame is the atom of the log: it is replayed whole or not at all. It starts on a block boundary and is
// padded with zeros to one. The generation and offset inside make a stale or misplaced frame invalid.
struct FrameHeader {
    std::uint32_t magic;
    std::uint32_t crc;  // crc32c of header (this field zero) and payload, without the padding
    std::uint32_t payload_bytes;
    std::uint32_t record_count;
    Uuid uuid;
    std::uint64_t generation;  // of the segment that the frame lies in
    std::uint64_t sequence;    // one more than the frame before it, across segments
    std::uint64_t offset;      // bytes from the start of the segment
    std::uint32_t flags;       // FrameFlags
    // Of the log: 1 + how many of the frames right before this one were not known to be on the medium when this one was
    // written. When one of the others cannot be read later on, the medium has lost it: without this, a frame that was
    // damaged looks like the end of the log (see log_scan.hpp). 0: not said.
    std::uint32_t unflushed;
};
static_assert(offsetof(FrameHeader, generation) == 32);
static_assert(offsetof(FrameHeader, unflushed) == 60);
static_assert(sizeof(FrameHeader) == 64);

enum FrameFlags : std::uint32_t { kCheckpointEnd = 1 };

// Records: | type u16 | 0 u16 | body bytes u32 | body |, packed, no padding. Every record sets absolute state,
// so that replaying a log over a checkpoint that already holds part of it ends in the same state.
enum class RecordType : std::uint16_t {
    kInode = 1,        // InodeBody, then extent_count x (ExtentBody, checksums u64[])
    kInodeDelete = 2,  // ino u64
    kNameSet = 3,      // parent u64, ino u64, name
    kNameDelete = 4,   // parent u64, name
    kXattrSet = 5,     // ino u64, name bytes u32, name, value
    kXattrDelete = 6,  // ino u64, name
    kSymlink = 7,      // ino u64, target
    kSegmentOpen = 8,  // SegmentOpenBody
    kNext = 9,         // segment u64, generation u64: the stream goes on there
    kAtime = 10,       // ino u64, atime i64
};

struct RecordHeader {
    std::uint16_t type;
    std::uint16_t reserved;
    std::uint32_t body_bytes;
};
static_assert(sizeof(RecordHeader) == 8);

enum class MapKind : std::uint32_t {
    kNone = 0,   // attributes only, the extents stay as they are
    kFull = 1,   // these extents are all there are
    kDelta = 2,  // what lies at or after keep_blocks goes, then these extents are laid over the rest
};

struct InodeBody {
    std::uint64_t ino;
    std::uint32_t mode;
    std::uint32_t nlink;
    std::uint32_t uid;
    std::uint32_t gid;
    std::uint64_t size;
    std::int64_t atime_ns;
    std::int64_t mtime_ns;
    std::int64_t ctime_ns;
    std::uint32_t map_kind;
    std::uint32_t extent_count;
    std::uint64_t keep_blocks;
};
static_assert(sizeof(InodeBody) == 72);

// `blocks` blocks of the file from `logical` on are found `skip` blocks into a run of `run_blocks` blocks that starts
// at `block` of `segment`. The run is what the checksums cover, one per 64 blocks (the last may cover fewer): a file
// whose middle was overwritten keeps views of runs that are still verified as they were written.
// A hole (segment kHoleSegment, nothing else but logical and blocks set) unmaps these blocks: how a delta tells what
// was punched out of a map that is too large to be written whole.
inline constexpr std::uint32_t kHoleSegment = 0xffffffff;
struct ExtentBody {
    std::uint64_t logical;
    std::uint64_t generation;
    std::uint32_t segment;
    std::uint32_t block;
    std::uint32_t blocks;
    std::uint32_t skip;
    std::uint32_t run_blocks;
    std::uint32_t reserved;
};
static_assert(sizeof(ExtentBody) == 40);

struct SegmentOpenBody {
    std::uint64_t segment;
    std::uint64_t generation;
    std::uint32_t segment_class;
    std::uint32_t reserved;
};
static_assert(sizeof(SegmentOpenBody) == 24);

constexpr std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace kvfs::format
