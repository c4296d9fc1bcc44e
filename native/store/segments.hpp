// Segments: who uses which, how full they are with live data, and handing out space.
//
// A data segment is open (being filled), sealed (full or given up) or free. It becomes free when nothing in it is live,
// nobody reads from it, and the log records that killed the last of its data are durable: until then a crash
// would bring the old owner back. Guarded by the store's mutex.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "format/format.hpp"

namespace kvfs::store {

using SegmentId = std::uint32_t;

enum class SegmentState : std::uint8_t { kFree, kOpen, kSealed, kMetadata, kTrimming };

struct Segment {
    std::uint64_t generation = 0;
    std::uint64_t dead_lsn = 0;  // durable log position that makes the last dead data unreachable
    std::uint32_t used = 0;      // blocks handed out, the header included
    std::uint32_t live = 0;      // blocks that some file, committed or not, refers to
    std::uint32_t readers = 0;   // device requests under way, either way: it must not be reused under them
    std::uint32_t leases = 0;    // files being written into it
    SegmentState state = SegmentState::kFree;
    bool trimmed = false;      // free, and the device has been told
    bool was_trimmed = false;  // before it was taken into use: what is written there is new to the device
    bool unflushed = false;    // in the store's list of those
};

struct Allocation {
    SegmentId segment = 0;
    std::uint32_t block = 0;
    std::uint32_t blocks = 0;
    bool opened = false;  // this segment was opened just now: its header has to be written
};

class Segments {
public:
    void configure(std::uint64_t count, std::uint64_t blocks_per_segment, std::uint64_t epoch);

    Segment& at(SegmentId id) { return table_[id]; }
    [[nodiscard]] const Segment& at(SegmentId id) const { return table_[id]; }
    [[nodiscard]] std::uint64_t count() const { return table_.size(); }
    [[nodiscard]] std::uint32_t blocks() const { return blocks_; }
    [[nodiscard]] std::uint64_t free_count() const { return free_.size(); }
    // Of the free ones, those that the device still backs.
    [[nodiscard]] std::uint64_t untrimmed_count() const { return untrimmed_; }
    [[nodiscard]] std::uint64_t metadata_count() const { return metadata_; }
    [[nodiscard]] std::uint64_t live_blocks() const { return live_; }
    // Segments that data never fills: room for the cleaner, for the log to grow and for the next checkpoint.
    [[nodiscard]] std::uint64_t reserve() const;
    // Bytes that log and checkpoints may come to occupy together, those that they occupy now included.
    void expect_metadata(std::uint64_t bytes) {
        metadata_expected_ = bytes / (std::uint64_t{blocks_} * format::kBlock) + 3;
    }
    // That many fit beside the live data, however it is spread now: cleaning brings it together.
    // `reserved`: blocks that are promised to data.
    [[nodiscard]] bool has_room_for_metadata(std::uint64_t reserved) const;
    // Blocks that file data may occupy in all.
    [[nodiscard]] std::uint64_t data_capacity() const;

    std::uint64_t next_generation() { return epoch_ << 32 | ++generation_counter_; }

    // Up to `blocks` in one piece in the segment that `lease` names, or in another one, which then becomes the lease.
    // Nothing when that would leave fewer than `floor` free segments.
    std::optional<Allocation> allocate(std::uint32_t blocks, std::optional<SegmentId>& lease, std::uint64_t floor);
    void end_lease(std::optional<SegmentId>& lease);
    // One for the log or a checkpoint; its generation is set.
    std::optional<SegmentId> take_for_metadata();
    void release_metadata(SegmentId id, std::uint64_t lsn);

    void add_live(SegmentId id, std::uint32_t blocks);
    // `lsn`: the log position of the record that no longer refers to them (0: none ever did).
    void remove_live(SegmentId id, std::uint32_t blocks, std::uint64_t lsn);

    // Frees what can be freed now. True when something was.
    bool collect(std::uint64_t durable_lsn);
    // Something would become free if the log were made durable.
    [[nodiscard]] bool would_collect(std::uint64_t durable_lsn) const;

    // recovery
    void restore(SegmentId id, std::uint64_t generation, SegmentState state);
    void rebuild_after_recovery();

    // A free segment whose blocks the device may forget; it is kTrimming until finish_trim(). A few are left
    // untrimmed for the next writers: `keep`.
    std::optional<SegmentId> start_trim(std::size_t keep);
    void finish_trim(SegmentId id);

    // Sealed segments with the least live data, best first, that hold at most `limit` live blocks.
    [[nodiscard]] std::vector<SegmentId> victims(std::size_t count, std::uint32_t limit) const;

private:
    void seal(SegmentId id);
    std::optional<SegmentId> take_free();

    std::vector<Segment> table_;
    std::deque<SegmentId> free_;  // those that the device still backs first
    std::vector<SegmentId> open_;
    std::vector<SegmentId> candidates_;  // sealed with nothing live: waiting for readers or for the log
    std::uint32_t blocks_ = 0;
    std::uint64_t least_reserve_ = 0;
    std::uint64_t metadata_ = 0;
    std::uint64_t metadata_expected_ = 0;
    std::uint64_t live_ = 0;
    std::size_t untrimmed_ = 0;  // of the free ones
    std::uint64_t epoch_ = 0;
    std::uint64_t generation_counter_ = 0;
    std::size_t max_open_ = 1;
};

}  // namespace kvfs::store
