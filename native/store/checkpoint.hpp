// Checkpoints: the committed state of the volume, written while work goes on.
//
// The position L0 of the log is noted first; the tables are then walked in pieces, so the checkpoint is a blur of
// states at and after L0. Recovery replays the log from L0 over it. Every record sets absolute state, so whatever was
// touched after L0 ends as its last record says, and whatever was not is in the checkpoint as it is. An inode's names
// are written with the inode, because directories' lists change order while they are walked. Files with uncommitted
// changes are written as the log knows them, new files that it does not know are left out.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "store/log.hpp"
#include "store/segments.hpp"

namespace kvfs::store {

class Store;

class Checkpoint {
public:
    explicit Checkpoint(Store& store) : store_(store) {}
    // The log has grown to more than recovery should have to read, or takes space that is needed. The mutex is held.
    [[nodiscard]] bool is_due() const;
    [[nodiscard]] bool gives_space() const;
    // Committer thread, mutex held (let go of during I/O). `final` marks the volume clean. 0 or -errno; on failure the
    // previous checkpoint stays in force.
    int run(std::unique_lock<std::mutex>& guard, bool final);

private:
    int write_frames(std::unique_lock<std::mutex>& guard, LogBuffer& records, bool end);
    void give_up(bool may_count);
    [[nodiscard]] bool log_has_room(std::uint64_t bytes) const;
    int next_segment(std::unique_lock<std::mutex>& guard);
    int write_frame(std::unique_lock<std::mutex>& guard, std::string_view payload, std::uint32_t records,
                    std::uint32_t flags);

    Store& store_;
    LogPosition position_;
    std::vector<SegmentId> segments_;
    std::uint64_t bytes_ = 0;
};

}  // namespace kvfs::store
