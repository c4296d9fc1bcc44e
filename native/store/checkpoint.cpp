#include "store/checkpoint.hpp"

#include <algorithm>
#include <cerrno>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kPiece = std::size_t{512} << 10;  // serialised per hold of the mutex: well under a millisecond
constexpr std::uint64_t kLogEnd = 4 * format::kBlock;   // frame headers, and the frame that points on
constexpr std::uint64_t kDirectoryBytes = 128;          // a record of its times

}  // namespace

// Crash after crash leaves a log segment each. Where space is short they are what a checkpoint gives back, while
// cleaning has nothing to gain and writers wait.
bool Checkpoint::gives_space() const {
    const Segments& segments = store_.segments_;
    const std::size_t held = store_.log_segments_.size();
    return (held > 2 && segments.free_count() <= segments.reserve() + 2) ||
           (held > 1 && segments.free_count() <= store_.kept_for_metadata());
}

// The log goes on while a checkpoint is written, and what it cannot write turns the store read-only.
bool Checkpoint::log_has_room(std::uint64_t bytes) const {
    const std::uint64_t pending = store_.log_.bytes() + store_.touched_directories_.size() * kDirectoryBytes;
    return store_.segments_.free_count() > 0 ||
           store_.log_position_.offset + pending + bytes <= store_.sb_.segment_size;
}

bool Checkpoint::is_due() const {
    // before the limit: clients go on while it is written
    return store_.checkpoint_wanted_ || store_.log_bytes_since_checkpoint_ > store_.log_limit() / 4 * 3 ||
           store_.log_segments_.size() > 6 + store_.checkpoint_segments_.size() || gives_space();
}

int Checkpoint::next_segment(std::unique_lock<std::mutex>& guard) {
    const auto id = store_.segments_.take_for_metadata();
    if (!id) return -ENOSPC;
    segments_.push_back(*id);
    if (!log_has_room(store_.sb_.segment_size / 2)) return -ENOSPC;  // the last one is the log's, unless it needs none
    const std::uint64_t generation = store_.segments_.at(*id).generation;
    guard.unlock();
    const int rc = store_.write_segment_header(*id, format::SegmentClass::kCheckpoint);
    guard.lock();
    position_.segment = *id;
    position_.generation = generation;
    position_.offset = format::kBlock;
    return rc;
}

int Checkpoint::write_frame(std::unique_lock<std::mutex>& guard, std::string_view payload, std::uint32_t records,
                            std::uint32_t flags) {
    const std::uint64_t need = format::frame_bytes(payload.size());
    auto buffer = std::make_shared<Buffer>(Buffer::heap(need));
    const std::uint64_t offset = store_.device_offset(static_cast<SegmentId>(position_.segment), 0) + position_.offset;
    guard.unlock();
    format::write_frame({store_.sb_.uuid, position_.generation, position_.sequence, position_.offset}, payload, records,
                        flags, {buffer->data(), need});
    const int rc = store_.write_device(std::move(buffer), need, offset);
    guard.lock();
    position_.offset += need;
    ++position_.sequence;
    bytes_ += need;
    return rc;
}

int Checkpoint::write_frames(std::unique_lock<std::mutex>& guard, LogBuffer& records, bool end) {
    const std::size_t limit = store_.sb_.segment_size - 4 * format::kBlock;
    while (!records.empty()) {
        const LogBuffer::Chunk chunk = records.take(limit);
        if (position_.offset + format::frame_bytes(chunk.payload.size()) + format::kBlock > store_.sb_.segment_size) {
            const LogPosition full = position_;
            int rc = next_segment(guard);
            if (rc != 0) return rc;
            const LogPosition fresh = position_;
            format::RecordWriter writer;
            writer.next(fresh.segment, fresh.generation);
            position_ = full;
            rc = write_frame(guard, writer.bytes(), writer.count(), 0);
            if (rc != 0) return rc;
            const std::uint64_t sequence = position_.sequence;
            position_ = fresh;
            position_.sequence = sequence;
        }
        const std::uint32_t flags = end && chunk.last ? format::kCheckpointEnd : 0U;
        const int rc = write_frame(guard, chunk.payload, chunk.records, flags);
        if (rc != 0) return rc;
    }
    return 0;
}

// `may_count`: one of the writes may be still to come, or the superblock may name it after all. recover() frees the
// segments when it knows better.
void Checkpoint::give_up(bool may_count) {
    for (const SegmentId id : segments_) {
        if (may_count) {
            store_.given_up_metadata_.push_back(id);
        } else {
            store_.segments_.release_metadata(id, 0);
        }
    }
    segments_.clear();
}

int Checkpoint::run(std::unique_lock<std::mutex>& guard, bool final) {
    Store& s = store_;
    int rc = s.write_pending(guard, true);
    if (rc != 0) return rc;
    const LogPosition start = s.log_position_;  // all before it is in memory, and so in what is serialised from here on
    const std::uint64_t log_bytes_before = s.log_bytes_since_checkpoint_;
    position_ = {};
    position_.sequence = 1;
    rc = next_segment(guard);
    const std::uint64_t first_segment = position_.segment;
    const std::uint64_t first_generation = position_.generation;

    LogBuffer records;
    for (SegmentId id = 0; rc == 0 && id < s.segments_.count(); ++id) {
        const Segment& segment = s.segments_.at(id);
        if (segment.state != SegmentState::kOpen && segment.state != SegmentState::kSealed) continue;
        records.writer().segment_open(
            {id, segment.generation, static_cast<std::uint32_t>(format::SegmentClass::kData), 0});
        records.commit();
    }
    for (InodeNumber ino = kRoot; rc == 0 && ino < s.inodes_.end(); ++ino) {
        s.serialise_committed(records, ino);
        if (records.bytes() < kPiece) continue;
        rc = write_frames(guard, records, false);
        // whoever waits for an fsync must not wait for the whole checkpoint
        if (rc == 0 && s.commit_now_) {
            if (!log_has_room(kLogEnd)) rc = -ENOSPC;
            s.commit_now_ = rc != 0;
            if (rc == 0) rc = s.write_pending(guard, true);
        }
    }
    if (rc == 0) {
        records.writer().atime(kRoot, s.inodes_.atime(*s.inodes_.find(kRoot)));  // the last frame must exist
        records.commit();
        rc = write_frames(guard, records, true);
    }
    // The pieces are of different instants, and only what the log says of the time between them makes one state of them
    // (a rename may have come after the file that it moved was written here and before the one that it replaced). So
    // all that they may know of is in the log before anybody can find them.
    if (rc == 0 && !log_has_room(kLogEnd)) rc = -ENOSPC;
    if (rc == 0) rc = s.write_pending(guard, false);
    if (rc == 0) rc = s.flush_log(guard);
    if (rc != 0) {
        give_up(rc == -ETIMEDOUT);
        return rc;
    }
    const format::Superblock before = s.sb_;
    s.sb_.checkpoint_segment = first_segment;
    s.sb_.checkpoint_generation = first_generation;
    s.sb_.checkpoint_bytes = bytes_;
    s.sb_.log_segment = start.segment;
    s.sb_.log_generation = start.generation;
    s.sb_.log_offset = start.offset;
    s.sb_.log_sequence = start.sequence;
    if (final) s.sb_.flags |= format::kClean;
    guard.unlock();
    rc = s.write_superblock();
    guard.lock();
    if (rc != 0) {
        s.sb_ = before;  // the next one goes to the same copy again, which may be torn
        give_up(true);
        return -EIO;
    }
    for (const SegmentId id : s.checkpoint_segments_) s.segments_.release_metadata(id, 0);
    s.checkpoint_segments_ = std::move(segments_);
    const auto keep = std::find(s.log_segments_.begin(), s.log_segments_.end(), static_cast<SegmentId>(start.segment));
    for (auto it = s.log_segments_.begin(); it != keep; ++it) s.segments_.release_metadata(*it, 0);
    s.log_segments_.erase(s.log_segments_.begin(), keep);
    s.log_bytes_since_checkpoint_ -= log_bytes_before;
    s.counters_.checkpoints.fetch_add(1, std::memory_order_relaxed);
    s.counters_.checkpoint_bytes.fetch_add(bytes_, std::memory_order_relaxed);
    return 0;
}

}  // namespace kvfs::store
