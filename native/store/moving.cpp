// Emptying segments: what is still live in them is moved.
//
// Moving is copy-on-write like everything else: read and verify, write elsewhere, then, under the mutex and only if
// the file still maps exactly those blocks, point it at the copy and log that. A file that changed meanwhile keeps its
// change, and the copy is dead on arrival. The old place is reused once the log is durable (Segments::collect).
//
// Blocks may also "move" to where they are: a part of a checksummed unit, the rest of which is dead, then has checksums
// of its own, and nobody who reads it needs the rest any more. What died there dies in the log with that.
//
// Several moves are under way at a time, as coroutines that the cleaner's thread starts and waits for. They stand back
// behind demand (Priority::kPrefetch), unless a writer waits for the space.
#include "store/moving.hpp"

#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include "store/granule.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::size_t kVictims = 4;         // per walk over the inodes
constexpr std::uint32_t kLeastGain = 64;    // a victim gives back at least this fraction of a segment
constexpr std::uint64_t kMoveBlocks = 256;  // 1 MiB per request
constexpr unsigned kUnderWay = 4;           // moves at a time
constexpr unsigned kUnderWayUrgent = 16;    // while somebody waits for the space

}  // namespace

// One walk over the inodes for a few segments. False when nothing can be gained, now or soon.
bool Store::clean_some(std::unique_lock<std::mutex>& guard) {
    const bool urgent = !space_waiters_.empty();
    const auto usable = segments_.blocks() - 1;
    // where little is free, what one victim gives back is what the next one needs
    const std::size_t count = segments_.free_count() <= segments_.reserve() ? 1 : kVictims;
    // a victim that cannot be emptied for want of room gives nothing back
    const std::uint64_t floor = kept_for_metadata();
    const std::uint64_t spare = segments_.free_count() > floor ? (segments_.free_count() - floor) * usable : 0;
    const auto limit = std::min<std::uint64_t>(usable - usable / kLeastGain, spare + segments_.room(Stream::kMoved));
    const auto victims = segments_.victims(count, static_cast<std::uint32_t>(limit), urgent);
    if (victims.empty()) return false;
    std::vector<Move> moves;
    std::unordered_map<SegmentId, std::uint64_t> held;  // blocks of versions that are replaced, but not in the log yet
    const auto note = [&](InodeNumber ino, std::uint64_t logical, const Extent& extent, bool replaced) {
        if (std::find(victims.begin(), victims.end(), extent.segment) == victims.end()) return;
        if (replaced) {
            held[extent.segment] += extent.blocks;
            return;
        }
        for (std::uint32_t at = 0; at < extent.blocks;) {
            // whole checksummed units, so that none is read twice
            const std::uint64_t most = kMoveBlocks - (extent.skip + at) % format::kGranuleBlocks;
            const auto n = static_cast<std::uint32_t>(std::min<std::uint64_t>(most, extent.blocks - at));
            moves.push_back({ino, logical + at, narrow(extent, at, n), urgent});
            at += n;
        }
    };
    if (!walk_extents(guard, note)) return !stop_;
    // a commit will empty much of these
    std::erase_if(moves, [&](const Move& move) {
        const auto it = held.find(move.extent.segment);
        return it != held.end() && 2 * it->second > segments_.at(it->first).live;
    });
    run_moves(guard, moves);
    counters_.cleaned_segments.fetch_add(victims.size(), std::memory_order_relaxed);
    wake_committer();
    return std::any_of(moves.begin(), moves.end(), [](const Move& move) { return move.result != Moved::kNo; });
}

// All of them, unless the store is closed or fails meanwhile. Their results are set.
void Store::run_moves(std::unique_lock<std::mutex>& guard, std::vector<Move>& moves) {
    MoveRun run;
    for (Move& move : moves) {
        const unsigned most = space_waiters_.empty() ? kUnderWay : kUnderWayUrgent;
        cleaner_wake_.wait(guard, [&] { return run.under_way < most; });
        if (stop_ || log_error_ != 0) break;
        ++run.under_way;
        guard.unlock();
        uring::detach(move_extent(move, run), [this, &run, &move](Moved moved) {
            const std::lock_guard lock(mutex_);
            move.result = moved;
            --run.under_way;
            cleaner_wake_.notify_one();
        });
        guard.lock();
    }
    cleaner_wake_.wait(guard, [&] { return run.under_way == 0; });
    segments_.end_lease(run.lease);
}

// The file's inode while it maps exactly these blocks there. The mutex is held.
Inode* Store::still_there(const Move& move) {
    Inode* inode = inodes_.find(move.ino);
    if (inode == nullptr || !inode->is_regular()) return nullptr;
    std::uint64_t same = 0;
    const Extent& extent = move.extent;
    const std::uint64_t end = move.logical + extent.blocks;
    inodes_.visit(*inode, move.logical, end, [&](std::uint64_t at, const Extent& now) {
        const std::uint64_t from = std::max(at, move.logical);
        const std::uint64_t to = std::min(at + now.blocks, end);
        if (now.segment == extent.segment &&
            now.block + now.skip + (from - at) == extent.block + extent.skip + (from - move.logical)) {
            same += to - from;
        }
    });
    return same == extent.blocks ? inode : nullptr;
}

Async<Moved> Store::move_extent(const Move& move, MoveRun& run) {
    const auto priority = move.urgent ? uring::Priority::kDemand : uring::Priority::kPrefetch;
    const Extent& from = move.extent;
    const std::uint32_t blocks = from.blocks;
    Plan plan;
    Places places;
    {
        const std::lock_guard guard(mutex_);
        const Inode* inode = still_there(move);
        if (inode == nullptr) co_return Moved::kNo;
        // writes that the device has not finished: what they bring must not be read yet
        if (const auto file = find_file(move.ino); file && is_on_its_way(*file, move.logical, move.logical + blocks)) {
            co_return Moved::kNotNow;
        }
        plan_read(*inode, move.logical, move.logical + blocks, plan);
        if (move.in_place) {
            Segment& segment = segments_.at(from.segment);
            ++segment.readers;
            places.push_back({from.segment, from.block + from.skip, blocks, segment.generation});
        }
    }
    const Buffer data = Buffer::heap(blocks * kBlock);
    int rc = co_await read_granules(move.ino, std::move(plan), move.logical, data.data(), priority);
    Pieces pieces;
    if (rc == 0 && !move.in_place) {
        {
            const std::lock_guard guard(mutex_);
            if (!take_places(blocks, run.lease, kept_for_metadata(), places, Stream::kMoved)) rc = -ENOSPC;
        }
        open_segments(places);
    }
    if (rc == 0) checksum_places(places, move.logical, data.data(), pieces);
    if (rc == 0 && !move.in_place) rc = co_await write_places(places, data.data(), priority);
    const std::lock_guard guard(mutex_);
    Inode* const inode = rc == 0 ? still_there(move) : nullptr;
    if (!move.in_place) {
        for (const Place& place : places) segments_.end_copies(place.blocks);
    }
    if (move.in_place) {
        segments_.end_request(from.segment);
    } else if (inode == nullptr) {
        give_up_places(places);
    } else {
        finish_places(places);
    }
    if (inode == nullptr) co_return Moved::kNo;
    // what the log knows of these blocks moves with them; what it does not know yet stays unknown to it
    const auto file = find_file(move.ino);
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
    if (inode->has(kLogged)) log_moved(move.ino, *inode, known);
    const std::uint64_t lsn = log_.commit();
    for (const Piece& old : inodes_.carve(*inode, move.logical, move.logical + blocks)) {
        if (move.in_place) {
            segments_.died_by(from.segment, lsn);
        } else {
            segments_.remove_live(old.extent.segment, old.extent.blocks, lsn);
        }
    }
    for (Piece& piece : pieces) inodes_.insert(*inode, piece.logical, std::move(piece.extent));
    inodes_.compact(*inode);
    (move.in_place ? counters_.cut_blocks : counters_.moved_blocks).fetch_add(blocks, std::memory_order_relaxed);
    co_return Moved::kYes;
}

}  // namespace kvfs::store
