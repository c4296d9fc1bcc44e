// Getting space back: segments that are mostly dead are emptied by moving what is still live, and free segments are
// trimmed.
//
// Moving is copy-on-write like everything else: read and verify, write elsewhere, then, under the mutex and only if
// the file still maps exactly those blocks, point it at the copy and log that. A file that changed meanwhile keeps its
// change, and the copy is dead on arrival. The old place is reused once the log is durable (Segments::collect).
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "store/granule.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::size_t kVictims = 4;         // per walk over the inodes
constexpr std::uint32_t kLeastGain = 64;    // a victim gives back at least this fraction of a segment
constexpr std::uint64_t kMoveBlocks = 256;  // 1 MiB per request

struct Move {
    InodeNumber ino;
    std::uint64_t logical;
    Extent extent;
};

}  // namespace

void Store::cleaner() {
    std::unique_lock guard(mutex_);
    while (!stop_) {
        const auto wanted = [this] { return stop_ || !space_waiters_.empty() || !trim_waiters_.empty(); };
        cleaner_wake_.wait_for(guard, 1s, wanted);
        if (stop_) break;
        if (!trim_waiters_.empty() || physical_level() != PhysicalLevel::kPlenty) trim_everything(guard);
        const std::uint64_t low = segments_.reserve() + std::max<std::uint64_t>(2, segments_.count() / 32);
        bool progress = false;
        if (segments_.free_count() < low && log_error_ == 0) {
            if (segments_.would_collect(lsn_durable_)) {
                wake_committer();
                cleaner_wake_.wait_for(guard, 100ms);  // the committer notifies when it has freed something
                progress = true;
            }
            progress = segments_.collect(lsn_durable_) || progress;
            if (segments_.free_count() < low) progress = clean_some(guard) || progress;
        } else {
            progress = trim_one(guard);
        }
        cleaner_stuck_ = !progress && segments_.free_count() <= segments_.reserve();
        if (!space_waiters_.empty()) {
            const auto waiters = std::exchange(space_waiters_, {});
            guard.unlock();
            for (const auto handle : waiters) uring::Turn::next(handle);
            guard.lock();
        }
    }
    auto waiters = std::exchange(space_waiters_, {});
    waiters.insert(waiters.end(), trim_waiters_.begin(), trim_waiters_.end());
    trim_waiters_.clear();
    cleaner_stuck_ = true;
    cleaner_has_ended_ = true;
    guard.unlock();
    for (const auto handle : waiters) uring::Turn::next(handle);
}

// One walk over the inodes for the emptiest few segments. False when nothing can be gained, now or soon.
bool Store::clean_some(std::unique_lock<std::mutex>& guard) {
    const auto usable = segments_.blocks() - 1;
    const auto victims = segments_.victims(kVictims, usable - usable / kLeastGain);
    if (victims.empty()) return false;
    std::vector<Move> moves;
    for (InodeNumber ino = kRoot; ino < inodes_.end(); ++ino) {
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular()) continue;
        inodes_.visit(*inode, 0, ~std::uint64_t{0}, [&](std::uint64_t logical, const Extent& extent) {
            if (std::find(victims.begin(), victims.end(), extent.segment) == victims.end()) return;
            for (std::uint32_t at = 0; at < extent.blocks; at += kMoveBlocks) {
                const std::uint64_t n = std::min<std::uint64_t>(kMoveBlocks, extent.blocks - at);
                moves.push_back({ino, logical + at, narrow(extent, at, n)});
            }
        });
    }
    bool moved = false;
    bool busy = false;
    std::optional<SegmentId> lease;
    for (const Move& move : moves) {
        if (stop_ || log_error_ != 0) break;
        if (move_extent(guard, move.ino, move.logical, move.extent, lease, &busy)) moved = true;
    }
    segments_.end_lease(lease);
    counters_.cleaned_segments.fetch_add(victims.size(), std::memory_order_relaxed);
    wake_committer();
    return moved || busy;
}

// Blocking: runs on the cleaner thread. True when the file now uses the copy; `busy` when it may another time.
bool Store::move_extent(std::unique_lock<std::mutex>& guard, InodeNumber ino, std::uint64_t logical,
                        const Extent& extent, std::optional<SegmentId>& lease, bool* busy) {
    const auto still_there = [&]() -> Inode* {
        Inode* inode = inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular()) return nullptr;
        std::uint64_t same = 0;
        inodes_.visit(*inode, logical, logical + extent.blocks, [&](std::uint64_t at, const Extent& now) {
            const std::uint64_t from = std::max(at, logical);
            const std::uint64_t to = std::min(at + now.blocks, logical + extent.blocks);
            if (now.segment == extent.segment &&
                now.block + now.skip + (from - at) == extent.block + extent.skip + (from - logical)) {
                same += to - from;
            }
        });
        return same == extent.blocks ? inode : nullptr;
    };
    Inode* inode = still_there();
    if (inode == nullptr) return false;
    // writes that the device has not finished keep their segment busy: what they bring must not be read yet
    if (segments_.at(extent.segment).readers != 0) {
        *busy = true;
        return false;
    }
    Plan plan;
    plan_read(*inode, logical, logical + extent.blocks, plan);
    guard.unlock();
    const Buffer data = Buffer::heap(extent.blocks * kBlock);
    int rc = uring::block_on(read_granules(ino, std::move(plan), logical, data.data(), uring::Priority::kPrefetch));
    guard.lock();
    if (rc != 0) return false;

    Places places;
    if (!take_places(extent.blocks, lease, kept_for_metadata(), places)) rc = -ENOSPC;
    guard.unlock();
    open_segments(places);
    Pieces pieces;
    if (rc == 0) {
        checksum_places(places, logical, data.data(), pieces);
        rc = uring::block_on(write_places(places, data.data()));
    }
    guard.lock();
    inode = rc == 0 ? still_there() : nullptr;
    if (inode == nullptr) {
        give_up_places(places);
        return false;
    }
    finish_places(places);
    // what the log knows of these blocks moves with them; what it does not know yet stays unknown to it
    const auto file = find_file(ino);
    std::vector<Piece> known;
    for (const Piece& piece : pieces) {
        const std::uint64_t end = piece.logical + piece.extent.blocks;
        if (!file || !file->dirty) {
            known.push_back(piece);
            continue;
        }
        for (const auto& [a, b] : file->changed.missing(piece.logical, end)) {
            known.push_back({a, narrow(piece.extent, a - piece.logical, b - a)});
        }
    }
    if (inode->has(kLogged)) log_moved(ino, *inode, known);
    const std::uint64_t lsn = log_.commit();
    for (const Piece& old : inodes_.carve(*inode, logical, logical + extent.blocks)) {
        segments_.remove_live(old.extent.segment, old.extent.blocks, lsn);
    }
    for (Piece& piece : pieces) inodes_.insert(*inode, piece.logical, std::move(piece.extent));
    inodes_.compact(*inode);
    counters_.moved_blocks.fetch_add(extent.blocks, std::memory_order_relaxed);
    return true;
}

// Tells the device (or the file system that a store file lies on) about one free segment.
bool Store::trim_one(std::unique_lock<std::mutex>& guard, std::size_t keep) {
    const auto id = segments_.start_trim(keep);
    if (!id) return false;
    guard.unlock();
    const std::uint64_t from = device_offset(*id, 0);
    const int rc = block_device_ ? io_.discard(from, sb_.segment_size) : io_.punch(from, sb_.segment_size);
    const bool done = rc == 0;
    guard.lock();
    segments_.finish_trim(*id);
    if (done) counters_.trimmed_segments.fetch_add(1, std::memory_order_relaxed);
    return done;
}

}  // namespace kvfs::store
