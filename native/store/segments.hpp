// Segments: who uses which, how full they are with live data, and handing out space.
//
// A data segment is open (being filled), sealed (full or given up) or free. It becomes free when nothing in it is live,
// nobody reads from it, and the log records that killed the last of its data are durable: until then a crash
// would bring the old owner back. Guarded by the store's mutex.
//
// A sealed segment that is partly dead can be opened once more, for its gaps (see survey.cpp): the same conditions
// then hold for the blocks of each gap. Its generation stays: what lies between the gaps is found by it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "format/format.hpp"

namespace kvfs::store {

using SegmentId = std::uint32_t;

enum class SegmentState : std::uint8_t { kFree, kOpen, kSealed, kMetadata, kTrimming };

// Whose data: what was written by clients dies together, what outlived a cleaning lives on. Each has segments of its
// own as long as there are enough.
enum class Stream : std::uint8_t { kClients, kMoved };

struct Segment {
    std::uint64_t generation = 0;
    std::uint64_t dead_lsn = 0;  // durable log position that makes the last dead data unreachable
    std::uint64_t written = 0;   // when the last of its data came, in blocks that the store had taken in all
    std::uint32_t used = 0;      // blocks handed out, the header included; all of them where only gaps are open
    std::uint32_t live = 0;      // blocks that some file, committed or not, refers to
    std::uint32_t surveyed = 0;  // what `live` is once the gaps that the last survey found are full; 0: none was made
    std::uint32_t readers = 0;   // device requests under way, either way: it must not be reused under them
    std::uint32_t waiting = 0;   // of those, places of writers who wait for more space: they end only after that
    std::uint32_t leases = 0;    // files being written into it
    SegmentState state = SegmentState::kFree;
    Stream stream = Stream::kClients;
    bool recycled = false;     // open for its gaps
    bool was_idle = false;     // had no readers at some instant since its gaps were found
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

// Blocks of a segment that nothing on the way to any live byte touches.
struct Gap {
    std::uint32_t block = 0;
    std::uint32_t blocks = 0;
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
    // Copies that a cleaner has not finished are not counted: nobody who asks for space is to be refused for them.
    [[nodiscard]] std::uint64_t live_blocks() const { return live_ - copies_; }
    // That many blocks of Stream::kMoved are in use now, or given up.
    void end_copies(std::uint64_t blocks) { copies_ -= blocks; }
    // Blocks that have died since the mount.
    [[nodiscard]] std::uint64_t deaths() const { return deaths_; }
    // Segments that data never fills: room for the cleaner, for the log to grow and for the next checkpoint.
    [[nodiscard]] std::uint64_t reserve() const;
    // Below this many free ones the cleaner gets to work, early enough to be done before writers have to wait.
    [[nodiscard]] std::uint64_t low() const;
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
    // Nothing when that would leave fewer than `floor` free segments. A gap takes all of it, or whole checksummed
    // units: cutting smaller would cost more memory per file than the gap is worth.
    std::optional<Allocation> allocate(std::uint32_t blocks, std::optional<SegmentId>& lease, std::uint64_t floor,
                                       Stream stream = Stream::kClients);
    void end_lease(std::optional<SegmentId>& lease);
    // One for the log or a checkpoint; its generation is set.
    std::optional<SegmentId> take_for_metadata();
    void release_metadata(SegmentId id, std::uint64_t lsn);

    void add_live(SegmentId id, std::uint32_t blocks);
    // `lsn`: the log position of the record that no longer refers to them (0: none ever did).
    void remove_live(SegmentId id, std::uint32_t blocks, std::uint64_t lsn);

    // What is dead there already is unreachable only from this log position on.
    void died_by(SegmentId id, std::uint64_t lsn) { table_[id].dead_lsn = std::max(table_[id].dead_lsn, lsn); }
    // A request there is through.
    void end_request(SegmentId id) {
        if (--table_[id].readers == 0) table_[id].was_idle = true;
    }

    // Frees what can be freed now, gaps included. True when something was.
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

    // Sealed segments to empty, best first, that hold at most `limit` live blocks. `now`: those with the least to move;
    // else the least to move for what is gained, the longer nothing was written to it the better: what is young there
    // will die by itself (LFS, Rosenblum and Ousterhout 1991, 3.6).
    [[nodiscard]] std::vector<SegmentId> victims(std::size_t count, std::uint32_t limit, bool now) const;

    // Blocks left in what is open for a stream, gaps apart.
    [[nodiscard]] std::uint64_t room(Stream stream) const;

    // Sealed segments in which gaps are to be looked for, the deadest first, until together they have `blocks` dead
    // ones; at least `deaths` of them since the last look. Nobody has a request under way in any of them, so that all
    // that they hold is mapped.
    [[nodiscard]] std::vector<SegmentId> worth_a_survey(std::uint64_t blocks, std::size_t most,
                                                        std::uint32_t deaths) const;
    // The result for one of them. The gaps are handed out once the log is durable up to all that died in it, and
    // those who read there now are through.
    void recycle(SegmentId id, const std::vector<Gap>& gaps);
    // Blocks in gaps that can be handed out, now or soon.
    [[nodiscard]] std::uint64_t stock() const { return stock_; }
    // Some gap takes `blocks` now.
    [[nodiscard]] bool has_gap(std::uint32_t blocks) const;
    // Gaps that wait for readers to be through.
    [[nodiscard]] bool has_busy_gaps() const;
    // Segments that are free as soon as requests there are through.
    [[nodiscard]] bool has_busy_dead() const;
    // Closes what is open for gaps of which none takes `blocks`: they grow with what dies next to them. 0: all of it,
    // since what is open is nobody's victim. False when nothing was.
    bool close_gaps(std::uint32_t blocks);

private:
    struct Recycled {
        std::multimap<std::uint32_t, std::uint32_t> gaps;  // size, block
        std::uint64_t blocks = 0;                          // in them
        std::uint64_t lsn = 0;                             // durable before any of them is handed out
        std::uint32_t misses = 0;                          // requests that found no gap since the last that did
    };

    void seal(SegmentId id);
    void close_if_dead(SegmentId id);
    std::optional<SegmentId> take_free();
    std::optional<SegmentId> choose(std::uint32_t blocks, std::uint64_t floor, Stream stream, bool& opened);
    std::optional<SegmentId> open_recycled(std::uint32_t blocks);
    [[nodiscard]] std::uint32_t fit(SegmentId id, std::uint32_t blocks) const;
    [[nodiscard]] bool is_ready(SegmentId id, const Recycled& recycled) const;
    std::uint32_t take_gap(Recycled& recycled, std::uint32_t blocks);

    std::vector<Segment> table_;
    std::deque<SegmentId> free_;  // those that the device still backs first
    std::vector<SegmentId> open_;
    std::vector<SegmentId> candidates_;  // sealed with nothing live: waiting for readers or for the log
    std::unordered_map<SegmentId, Recycled> recycled_;
    std::deque<SegmentId> waiting_;  // of the recycled ones, those that are not in open_ yet
    std::uint32_t blocks_ = 0;
    std::uint64_t least_reserve_ = 0;
    std::uint64_t metadata_ = 0;
    std::uint64_t metadata_expected_ = 0;
    std::uint64_t live_ = 0;
    std::uint64_t copies_ = 0;  // of them, on their way for the cleaner
    std::uint64_t deaths_ = 0;
    std::uint64_t taken_ = 0;  // blocks since the mount
    std::uint64_t stock_ = 0;
    std::uint64_t durable_ = 0;  // as of the last collect()
    std::size_t untrimmed_ = 0;  // of the free ones
    std::uint64_t epoch_ = 0;
    std::uint64_t generation_counter_ = 0;
    std::size_t max_open_ = 1;
};

}  // namespace kvfs::store
