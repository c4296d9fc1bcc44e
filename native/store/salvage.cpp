// Recovery of a volume whose metadata is damaged: what of it may still be used, and a new beginning for repair.
//
// A mount refuses such a volume (EUCLEAN): half of it served in silence would make an older state win where fsync
// promised a newer one. fsck shows what is left, `fsck --repair` keeps it:
//   - a damaged checkpoint costs the inodes that its unreadable frames describe. The log is whole, so every file that
//   is
//     left is as new as it ever was. Files known in part go. A directory that is lost, with names in it that are not,
//     comes back as /lost+found/#<inode>; files without a name go, because nobody would look a page up by number.
//   - a damaged log costs everything after the damage: the volume goes back to the instant before it. Later frames
//     are not applied: what the lost ones said about the same files is not known. Files that the log changed in part go
//     too, because the checkpoint they were changed over may be newer than that instant (see checkpoint.hpp).
// Either way data that was overwritten since fails its checksum, and goes when it is read.
//
// Repair keeps the order of the log: nothing that a second attempt would read is written to before the new checkpoint
// is complete and a superblock names it. Killed before that, it leaves the volume as damaged as it was.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <unordered_set>
#include <utility>

#include "store/checkpoint.hpp"
#include "store/log_scan.hpp"
#include "store/recovery.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

std::string place_text(const LogPosition& at) {
    return "segment " + std::to_string(at.segment) + " byte " + std::to_string(at.offset);
}

std::string time_text(std::int64_t ns) {
    const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
    std::tm utc{};
    gmtime_r(&seconds, &utc);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return text;
}

}  // namespace

void Recovery::damage(std::string kind, std::string where, std::string detail) {
    damage_.push_back({std::move(kind), std::move(where), std::move(detail)});
}

// A checkpoint describes each inode in one place, so a frame of it that is lost takes the inodes in it along and no
// others; the log, which is replayed over it, says what became of the rest. What is left is as new as it ever was, and
// may be used. Files of which only a part is known are not (see inode()).
void Recovery::read_checkpoint() {
    const format::Superblock& sb = store_.sb_;
    position_ = {sb.checkpoint_segment, sb.checkpoint_generation, format::kBlock, 1};
    while (!replay(store_.checkpoint_segments_)) {
        const LogPosition broken = position_;
        lossy_ = true;
        if (undescribed_ != 0) incomplete_.insert(std::exchange(undescribed_, 0));
        if (!skip_broken_frames()) {
            damage("checkpoint", place_text(broken),
                   "the checkpoint is damaged: expected frame " + std::to_string(broken.sequence) +
                       " and those up to its last one, found none that is whole");
            return;
        }
        damage("checkpoint", place_text(broken),
               "the checkpoint is damaged: expected frame " + std::to_string(broken.sequence) + ", found frame " +
                   std::to_string(position_.sequence) + " as the next one that is whole");
    }
}

// Moves position_ on to the next whole frame of the checkpoint, wherever it lies. False when there is none.
bool Recovery::skip_broken_frames() {
    const format::Superblock& sb = store_.sb_;
    const auto look = [&](SegmentId id, std::uint64_t generation, std::uint64_t from) {
        SegmentReader reader(store_.io_, sb, id);
        const auto frame = find_frame(reader, sb.uuid, generation, from, position_.sequence);
        if (!frame) return false;
        position_ = {id, generation, frame->header.offset, frame->header.sequence};
        return true;
    };
    if (position_.segment < sb.segment_count &&
        look(static_cast<SegmentId>(position_.segment), position_.generation, position_.offset + format::kBlock)) {
        return true;
    }
    // a checkpoint's segments follow each other by generation, all of one mount's epoch; the present one may have moved
    for (const auto& [id, generation] :
         find_segments(store_.io_, sb, format::SegmentClass::kCheckpoint, position_.generation - 1)) {
        if (generation >> 32 != position_.generation >> 32) break;
        if (look(id, generation, format::kBlock)) return true;
    }
    return false;
}

// The chain of the log breaks off at position_. Was that its end? See log_scan.hpp.
void Recovery::judge_end_of_log() {
    const format::Superblock& sb = store_.sb_;
    const std::uint64_t expected = position_.sequence;
    std::uint64_t durable = 0;  // frames below this one were on the medium
    std::uint64_t witness = 0;  // the frame that says so
    const auto look = [&](SegmentId id, std::uint64_t generation, std::uint64_t from) {
        SegmentReader reader(store_.io_, sb, id);
        bool found = false;
        while (const auto frame = find_frame(reader, sb.uuid, generation, from, expected + 1)) {
            const format::FrameHeader& header = frame->header;
            found = true;
            ++cut_frames_;
            last_sequence_ = std::max(last_sequence_, header.sequence);
            if (header.unflushed != 0 && header.sequence + 1 - header.unflushed > durable) {
                durable = header.sequence + 1 - header.unflushed;
                witness = header.sequence;
            }
            from = header.offset + format::frame_bytes(header.payload_bytes);
        }
        return found;
    };
    last_sequence_ = expected;
    if (position_.segment < sb.segment_count) {
        const auto id = static_cast<SegmentId>(position_.segment);
        look(id, position_.generation, position_.offset + format::kBlock);
        SegmentReader reader(store_.io_, sb, id);
        is_torn_ = is_broken_frame(reader, {sb.uuid, position_.generation, expected, position_.offset});
    }
    for (const auto& [id, generation] :
         find_segments(store_.io_, sb, format::SegmentClass::kLog, position_.generation - 1)) {
        if (id == position_.segment && generation == position_.generation) continue;  // looked at above
        if (look(id, generation, format::kBlock)) beyond_.push_back(id);
    }
    if (durable <= expected) {
        beyond_.clear();
        return;
    }
    damage("log", place_text(position_),
           "the metadata log is damaged: expected frame " + std::to_string(expected) +
               ", which was on the device before frame " + std::to_string(witness) + " was written, found none; " +
               std::to_string(cut_frames_) + " later frame" + (cut_frames_ == 1 ? " is" : "s are") +
               " whole, but without those before them what they say cannot be trusted; the last state that is known " +
               (newest_ns_ == 0 ? std::string("is an empty volume") : "is that of " + time_text(newest_ns_)));
}

// Which files are known in part only, once a frame has been skipped: those that lay across the gap (a map of many
// extents is several records; the name comes last), and those that the log changes without having been told of. A full
// map makes a file known again. Files that the log changes in part are also kept apart: they must go when the log
// itself is damaged, because a checkpoint may be newer than the part of the log that can be read (checkpoint.hpp).
void Recovery::judge_completeness(const format::InodeBody& body, bool is_new) {
    const auto ino = static_cast<InodeNumber>(body.ino);
    const auto kind = static_cast<format::MapKind>(body.map_kind);
    if (S_ISREG(body.mode)) {
        if (kind == format::MapKind::kFull) {
            incomplete_.erase(ino);
        } else if (is_new && lossy_) {
            incomplete_.insert(ino);
        }
        if (in_log_ && kind == format::MapKind::kDelta) changed_in_part_.insert(ino);
        if (!in_log_) undescribed_ = ino;
    } else if (S_ISLNK(body.mode) && is_new) {
        incomplete_.insert(ino);  // until its target is known
    } else if (is_new) {
        incomplete_.erase(ino);
    }
}

// What is not known whole must not be shown: a hole where there was data would be wrong bytes.
void Recovery::leave_out_incomplete() {
    const bool is_log_damaged =
        std::any_of(damage_.begin(), damage_.end(), [](const Damage& each) { return each.kind == "log"; });
    if (is_log_damaged) incomplete_.insert(changed_in_part_.begin(), changed_in_part_.end());
    // nor what lies where the log or a checkpoint was written since
    for (InodeNumber ino = kRoot; ino < store_.inodes_.end(); ++ino) {
        const Inode* inode = store_.inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular()) continue;
        store_.inodes_.visit(*inode, 0, ~std::uint64_t{0}, [&](std::uint64_t, const Extent& extent) {
            if (store_.segments_.at(extent.segment).state == SegmentState::kMetadata) incomplete_.insert(ino);
        });
    }
    std::uint64_t files = 0;
    for (const InodeNumber ino : incomplete_) {
        const Inode* inode = store_.inodes_.find(ino);
        if (inode == nullptr || inode->is_directory()) continue;
        store_.inodes_.release(ino);
        ++files;
    }
    if (files > 0) {
        damage("log", "files", std::to_string(files) + " files are known in part only and are left out");
    }
}

void Recovery::salvage() {
    if (Inode& root = *store_.inodes_.find(kRoot); !root.has(kLogged)) {
        found_directory(kRoot);
        store_.inodes_.set_owner(root, {geteuid(), getegid()});
        damage("checkpoint", "root directory", "its owner and mode are lost and as in a new volume");
    }
    leave_out_incomplete();
    find_lost_directories();
}

// Directories that are not there, or have no name, but hold names of what is there.
void Recovery::find_lost_directories() {
    constexpr std::string_view kLostFound = "lost+found";
    std::unordered_set<InodeNumber> named{kRoot};
    std::unordered_set<InodeNumber> parents;
    store_.names_.for_each([&](NameId id) {
        const Name& name = store_.names_.at(id);
        const Inode* inode = store_.inodes_.find(name.ino);
        if (inode == nullptr) return;
        if (inode->is_directory()) named.insert(name.ino);
        parents.insert(name.parent);
    });
    std::vector<InodeNumber> lost;
    for (const InodeNumber ino : parents) {
        const Inode* inode = store_.inodes_.find(ino);
        if (inode == nullptr ? store_.inodes_.claim(ino, S_IFDIR | 0700) == nullptr : !inode->is_directory()) continue;
        if (inode == nullptr) found_directory(ino);
        if (!named.contains(ino)) lost.push_back(ino);
    }
    if (lost.empty()) return;
    std::sort(lost.begin(), lost.end());
    std::string name(kLostFound);
    InodeNumber home = 0;
    for (int attempt = 1; home == 0; ++attempt) {
        const NameId id = store_.names_.find(kRoot, name);
        if (id == 0) {
            home = store_.inodes_.end();
            if (store_.inodes_.claim(home, S_IFDIR | 0700) == nullptr) return;
            found_directory(home);
            store_.names_.insert(kRoot, name, home);
        } else if (const Inode* there = store_.inodes_.find(store_.names_.at(id).ino);
                   there != nullptr && there->is_directory()) {
            home = store_.names_.at(id).ino;
        } else {
            name = std::string(kLostFound) + '.' + std::to_string(attempt);
        }
    }
    for (const InodeNumber ino : lost) store_.names_.insert(home, '#' + std::to_string(ino), ino);
    damage(
        "checkpoint", "directories",
        std::to_string(lost.size()) + " directories have lost their names; with what is in them they are in /" + name);
}

void Recovery::found_directory(InodeNumber ino) {
    Inode& inode = *store_.inodes_.find(ino);
    inode.set(kLogged);
    const std::int64_t now = Store::now_ns();
    store_.inodes_.set_times(inode, {now, now, now});
    store_.inodes_.set_owner(inode, {0, 0});
}

// The end of take_over() for a repair. The new log is not linked to the old one: it counts once the superblock says so.
void Recovery::start_over(SegmentId log_segment, std::uint64_t generation) {
    Store& s = store_;
    s.log_position_ = {log_segment, generation, format::kBlock, std::max(s.log_position_.sequence, last_sequence_) + 1};
    // what lies beyond the damage is kept until then as well
    if (!beyond_.empty()) s.log_segments_.insert(s.log_segments_.begin(), beyond_.begin(), beyond_.end());
    s.log_segments_.push_back(log_segment);
    std::unique_lock guard(s.mutex_);
    const int rc = Checkpoint(s).run(guard, false);
    if (rc == -ENOSPC) throw OpenError(ENOSPC, "no room for a new checkpoint; format the volume anew");
    if (rc != 0) throw OpenError(-rc, std::string("cannot write a new checkpoint: ") + std::strerror(-rc));
    s.log_flushed_ = s.log_position_.sequence;
}

}  // namespace kvfs::store
