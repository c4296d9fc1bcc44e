// The cleaner's thread: space comes back.
//
// What it does, in this order, and why:
//   1. Segments that died as a whole and wait only for the log are freed; where it is scarce the committer is asked for
//      a flush.
//   2. Below Segments::low() free segments it looks for gaps (survey.cpp), which writers then fill before they
//      take a free segment. Nothing is moved for that. One survey finds what has died since the last, enough
//      for a while; the next one is due when half of it is used up.
//   3. Versions of pool files that were written over are let go of, when somebody waits.
//   4. When gaps run short too (what died lies in pieces too small, or within checksummed units that are still partly
//      alive), or when free segments themselves run short (the log and checkpoints need whole ones), it empties
//      segments by moving what is live (moving.cpp).
//   5. With nothing to do it trims what is free.
//
// Writers and the cleaner. A writer that finds neither a gap nor a free segment above Segments::reserve() leaves its
// coroutine in space_waiters_ and says in space_wanted_ how large a piece it needs. The cleaner makes a round and
// resumes all of them; they try again, and may come back. A round that found nothing while no more than the reserve is
// free sets cleaner_stuck_: those who waited for it then take from the reserve what they were promised when their
// bytes were accepted, and fail with ENOSPC beyond that. To make that rare the cleaner starts early:
// is_space_due() is asked whenever space is handed out.
//
// Committer and cleaner. The committer never waits for the cleaner. The cleaner waits for the flush of step 1, for 100
// ms at most (the committer calls collect() after every flush and notifies when that freed something), and, before it
// says that there is no space, for a checkpoint (shorten_log), which ends in any case: it is made, or there is no room
// for it, or the device fails in time.
//
// Eviction (whoever removes files to make room) needs nothing from here: what it removes dies as if a client had
// removed it, and the next collect() or survey finds it.
#include <algorithm>
#include <cerrno>
#include <chrono>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kStock = (std::uint64_t{64} << 20) / format::kBlock;  // of gaps, on a store of ordinary size
constexpr std::uint64_t kLeastStock = 256;
constexpr std::uint32_t kMostBusyRounds = 1000;  // of a millisecond or more

}  // namespace

// Blocks of gaps that are to lie ready: a fraction of a second of writing, for few walks over the inodes.
std::uint64_t Store::wanted_stock() const {
    const std::uint64_t all = segments_.count() * segments_.blocks();
    return std::min(all / 32, std::max(kStock, all / 1024));
}

bool Store::is_space_due() const {
    if (segments_.free_count() >= segments_.low() || segments_.deaths() < quiet_until_) return false;
    return segments_.stock() < wanted_stock() / 2 || segments_.free_count() < segments_.reserve();
}

void Store::cleaner() {
    std::unique_lock guard(mutex_);
    while (!stop_) {
        cleaner_wake_.wait_for(
            guard, 1s, [this] { return stop_ || !space_waiters_.empty() || !trim_waiters_.empty() || is_space_due(); });
        if (stop_) break;
        if (!trim_waiters_.empty() || physical_level() != PhysicalLevel::kPlenty) trim_everything(guard);
        const bool waited_for = !space_waiters_.empty();
        bool progress = false;
        if (segments_.free_count() < segments_.low() && log_error_ == 0) {
            progress = make_space(guard);
        } else {
            progress = trim_one(guard);
        }
        if (!progress) quiet_until_ = segments_.deaths() + std::max(16U, segments_.blocks() / 16);
        // a round that nobody waited for does not do all that can be done
        cleaner_stuck_ = waited_for && !progress && segments_.free_count() <= segments_.reserve();
        if (!space_waiters_.empty()) {
            const auto waiters = std::exchange(space_waiters_, {});
            space_wanted_ = 0;
            guard.unlock();
            for (const auto handle : waiters) uring::Turn::next(handle);
            guard.lock();
            cleaner_stuck_ = false;  // it was true for them: whoever comes later may find more to let go of
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

// One round. False when nothing can be gained, now or soon.
bool Store::make_space(std::unique_lock<std::mutex>& guard) {
    bool progress = segments_.collect(lsn_durable_);
    const auto flush = [&] {
        if (!segments_.would_collect(lsn_durable_)) return;
        flush_wanted_ = log_.appended();
        wake_committer();
        cleaner_wake_.wait_for(guard, 100ms, [&] { return stop_ || log_error_ != 0 || lsn_durable_ >= flush_wanted_; });
        flush_wanted_ = kNoFlush;
        segments_.collect(lsn_durable_);
        progress = true;
    };
    const bool waited_for = !space_waiters_.empty();
    const auto is_served = [&] {
        return segments_.free_count() > segments_.reserve() || (waited_for && segments_.has_gap(space_wanted_));
    };
    if (waited_for && !is_served()) flush();
    if (waited_for && is_served()) {
        busy_rounds_ = 0;
        return true;
    }
    if (waited_for) {
        progress = commit_replaced() || progress;
        segments_.close_gaps(space_wanted_);
    }
    if (segments_.stock() < wanted_stock() / 2 && survey(guard, wanted_stock(), waited_for ? space_wanted_ : 0)) {
        progress = true;
        flush();
        if (waited_for && is_served()) return true;
    }
    const bool short_of_gaps = !progress && segments_.stock() < std::max(kLeastStock, wanted_stock() / 64);
    if (segments_.free_count() < segments_.reserve() || short_of_gaps || waited_for) {
        bool cleaned = clean_some(guard);
        // the log and checkpoints need whole segments, however many gaps there are
        if (!progress && !cleaned && segments_.free_count() < segments_.reserve() && segments_.close_gaps(0)) {
            segments_.collect(lsn_durable_);
            cleaned = clean_some(guard);
        }
        // they come once their readers are through; a segment that is read without a pause never has such an instant
        const bool busy = segments_.has_busy_gaps() || segments_.has_busy_dead();
        busy_rounds_ = waited_for && busy ? busy_rounds_ + 1 : 0;
        progress = progress || cleaned || (busy_rounds_ > 0 && busy_rounds_ < kMostBusyRounds);
        flush();
        if (waited_for && !progress) progress = shorten_log(guard);
    }
    // what is awaited needs the mutex to arrive: writes that land, readers that are through
    if (waited_for && progress && !is_served()) cleaner_wake_.wait_for(guard, 1ms, [this] { return stop_; });
    return progress;
}

// Before a writer is told that there is no space: the log may hold segments that a checkpoint gives back, and one that
// is under way holds its own beside those of the last. False when nothing comes of that.
bool Store::shorten_log(std::unique_lock<std::mutex>& guard) {
    if (log_segments_.size() < 2 && !checkpoint_under_way_) return false;
    const auto before = segments_.metadata_count();
    const auto is_over = [&] { return segments_.metadata_count() < before || log_error_ != 0 || stop_; };
    for (int i = 0; i < 2 && !is_over(); ++i) {  // one that is under way may have begun in the first of the log's
        await_checkpoint(guard, is_over);
    }
    segments_.collect(lsn_durable_);
    return segments_.metadata_count() < before;
}

// Tells the device (or the file system that a store file lies on) about one free segment.
bool Store::trim_one(std::unique_lock<std::mutex>& guard, std::size_t keep) {
    if (is_fenced()) return false;
    const auto id = segments_.start_trim(keep);
    if (!id) return false;
    ++trims_under_way_;
    guard.unlock();
    const std::uint64_t from = device_offset(*id, 0);
    const int rc = block_device_ ? io_.discard(from, sb_.segment_size) : io_.punch(from, sb_.segment_size);
    const bool done = rc == 0;
    guard.lock();
    --trims_under_way_;
    segments_.finish_trim(*id);
    if (done) counters_.trimmed_segments.fetch_add(1, std::memory_order_relaxed);
    return done;
}

}  // namespace kvfs::store
