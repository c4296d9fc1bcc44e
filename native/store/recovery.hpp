// Bringing a volume back: the newest checkpoint, then every whole frame of the log that follows it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "format/records.hpp"
#include "store/inodes.hpp"
#include "store/log.hpp"
#include "store/segments.hpp"

namespace kvfs::store {

class Store;

class Recovery final : private format::RecordVisitor {
public:
    explicit Recovery(Store& store) : store_(store) {}
    // Fills the store's tables; writes nothing. Throws OpenError(EUCLEAN) when the checkpoint is damaged.
    void run();
    // Makes the volume this mount's own: epoch, owner, a log segment of its own behind the old log's end.
    void take_over(const std::string& owner);
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

    Store& store_;
    LogPosition position_;
    bool jump_ = false;  // a NEXT record was seen in this frame
    LogPosition jump_to_;
    std::uint64_t frames_ = 0;
    std::unordered_set<InodeNumber> damaged_;  // parts of their maps were left out
    std::vector<std::string> problems_;
    std::uint64_t problem_count_ = 0;
};

}  // namespace kvfs::store
