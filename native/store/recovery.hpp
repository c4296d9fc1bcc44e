// Bringing a volume back: the newest checkpoint, then every whole frame of the log that follows it. What happens when
// one of the two is damaged is in salvage.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "format/records.hpp"
#include "store/damage.hpp"
#include "store/inodes.hpp"
#include "store/log.hpp"
#include "store/segments.hpp"

namespace kvfs::store {

class Store;

class Recovery final : private format::RecordVisitor {
public:
    explicit Recovery(Store& store) : store_(store) {}
    // Fills the store's tables; writes nothing. With damage() they hold what is left, which only a repair may use.
    // `is_doubtful`: the superblocks do not bear each other out.
    void run(bool is_doubtful);
    // Makes the volume this mount's own: epoch, owner, a log segment of its own behind the old log's end; after damage
    // a new checkpoint as well.
    void take_over(const std::string& owner);
    // Of checkpoint and log: what fsync promised is missing, or may be.
    [[nodiscard]] const std::vector<Damage>& damage() const { return damage_; }
    // Whole frames beyond the log's end.
    [[nodiscard]] std::uint64_t cut_frames() const { return cut_frames_; }
    [[nodiscard]] std::uint64_t frames() const { return frames_; }
    // What was found wrong and left out, one line each; at most 100 are kept.
    [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }
    [[nodiscard]] std::uint64_t problem_count() const { return problem_count_; }

private:
    void inode(const format::InodeBody& body, std::span<const format::ExtentView> extents) override;
    void inode_delete(std::uint64_t ino) override;
    void name_set(std::uint64_t parent, std::string_view name, std::uint64_t ino) override;
    void name_delete(std::uint64_t parent, std::string_view name) override;
    void xattr_set(std::uint64_t ino, std::string_view name, std::string_view value) override;
    void xattr_delete(std::uint64_t ino, std::string_view name) override;
    void symlink(std::uint64_t ino, std::string_view target) override;
    void segment_open(const format::SegmentOpenBody& body) override;
    void next(std::uint64_t segment, std::uint64_t generation) override;
    void atime(std::uint64_t ino, std::int64_t atime_ns) override;

    // Reads frames from `position_` on until one is not valid; true when a frame had the end-of-checkpoint flag.
    bool replay(std::vector<SegmentId>& visited);
    void attach_names();
    // unreachable.cpp
    void drop_damaged();
    void drop_unreachable();
    void drop_name(NameId id);
    void drop_nameless();
    void count_live();
    void problem(std::string text);

    // salvage.cpp
    void damage(std::string kind, std::string where, std::string detail);
    void read_checkpoint();
    bool skip_broken_frames();
    void judge_end_of_log();
    void judge_completeness(const format::InodeBody& body, bool is_new);
    void salvage();
    void leave_out_incomplete();
    void find_lost_directories();
    void found_directory(InodeNumber ino);
    void start_over(SegmentId log_segment, std::uint64_t generation);

    Store& store_;
    LogPosition position_;
    bool jump_ = false;  // a NEXT record was seen in this frame
    LogPosition jump_to_;
    std::uint64_t frames_ = 0;
    std::unordered_set<InodeNumber> damaged_;  // parts of their maps were left out
    std::vector<std::string> problems_;
    std::uint64_t problem_count_ = 0;

    std::vector<Damage> damage_;
    bool in_log_ = false;                              // the checkpoint is read
    bool lossy_ = false;                               // a frame of the checkpoint was skipped
    bool is_torn_ = false;                             // the log's end looks like the beginning of a frame
    InodeNumber undescribed_ = 0;                      // the checkpoint's present inode, until its name came
    std::unordered_set<InodeNumber> incomplete_;       // not to be shown
    std::unordered_set<InodeNumber> changed_in_part_;  // by the log
    std::int64_t newest_ns_ = 0;                       // change of an inode that was seen
    std::uint64_t cut_frames_ = 0;
    std::uint64_t last_sequence_ = 0;  // of any frame of the log
    std::vector<SegmentId> beyond_;    // segments with frames beyond damage to the log
};

}  // namespace kvfs::store
