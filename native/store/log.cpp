#include "store/log.hpp"

#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>

#include "store/checkpoint.hpp"
#include "store/durable.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

using namespace std::chrono_literals;

constexpr auto kCommitInterval = 500ms;
constexpr std::size_t kCommitBytes = std::size_t{1} << 20;
constexpr std::size_t kFrameBytes = std::size_t{4} << 20;

}  // namespace

std::uint64_t LogBuffer::commit() {
    const std::size_t bytes = writer_.bytes().size();
    if (ends_.empty() ? bytes == 0 : ends_.back().bytes == bytes) return appended_;  // nothing was written
    ends_.push_back({bytes, writer_.count()});
    return ++appended_;
}

LogBuffer::Chunk LogBuffer::take(std::size_t limit) {
    Chunk chunk;
    std::size_t n = 1;
    while (n < ends_.size() && ends_[n].bytes <= limit) ++n;
    const End end = ends_[n - 1];
    chunk.records = end.records;
    chunk.lsn = appended_ - (ends_.size() - n);
    chunk.last = n == ends_.size();
    if (chunk.last) {
        chunk.payload = writer_.release();
        ends_.clear();
        return chunk;
    }
    chunk.payload = writer_.bytes().substr(0, end.bytes);
    writer_.drop_front(end.bytes, end.records);
    ends_.erase(ends_.begin(), ends_.begin() + static_cast<std::ptrdiff_t>(n));
    for (End& later : ends_) {
        later.bytes -= end.bytes;
        later.records -= end.records;
    }
    return chunk;
}

void Store::wake_committer() {
    commit_now_ = true;
    committer_wake_.notify_one();
}

bool Store::Durable::await_suspend(std::coroutine_handle<> waiter) {
    const std::lock_guard guard(store.mutex_);
    if (store.lsn_durable_ >= lsn || store.log_error_ != 0 || store.read_only_) return false;
    store.durable_waiters_.emplace_back(lsn, waiter);
    store.wake_committer();
    return true;
}

int Store::Durable::await_resume() const {
    const std::lock_guard guard(store.mutex_);
    return store.lsn_durable_ >= lsn ? 0 : store.log_error_;
}

Store::Durable Store::durable(std::uint64_t lsn) { return Durable{*this, lsn}; }

// What a frame at this position says of those before it (FrameHeader::unflushed). Only the committer moves either.
std::uint32_t Store::unflushed_frames(const LogPosition& at) const {
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>(at.sequence - log_flushed_ + 1, std::numeric_limits<std::uint32_t>::max()));
}

// Committer thread, mutex held; let go of during I/O. Changes appended meanwhile wait for the next chunk.
int Store::write_frame(std::unique_lock<std::mutex>& guard, const LogBuffer::Chunk& chunk) {
    const std::uint64_t need = format::frame_bytes(chunk.payload.size());
    if (log_position_.offset + need + format::kBlock >
        sb_.segment_size) {  // one block stays for the frame that points on
        if (segments_.free_count() == 0 && segments_.would_collect(lsn_durable_)) {
            if (const int rc = flush_log(guard); rc != 0) return rc;
        }
        if (segments_.free_count() == 0) segments_.collect(lsn_durable_);
        const auto next = segments_.take_for_metadata();
        if (!next) return -ENOSPC;
        const std::uint64_t generation = segments_.at(*next).generation;
        format::RecordWriter writer;
        writer.segment_open({*next, generation, static_cast<std::uint32_t>(format::SegmentClass::kLog), 0});
        writer.next(*next, generation);
        const LogPosition at = log_position_;
        guard.unlock();
        auto pointer = std::make_shared<Buffer>(Buffer::heap(format::kBlock));
        format::write_frame({sb_.uuid, at.generation, at.sequence, at.offset, unflushed_frames(at)}, writer.bytes(),
                            writer.count(), 0, {pointer->data(), format::kBlock});
        int rc = write_segment_header(*next, format::SegmentClass::kLog);
        if (rc == 0) {
            rc = write_device(std::move(pointer), format::kBlock,
                              device_offset(static_cast<SegmentId>(at.segment), 0) + at.offset);
        }
        guard.lock();
        if (rc != 0) {
            given_up_metadata_.push_back(*next);
            return rc;
        }
        log_position_ = {*next, generation, format::kBlock, at.sequence + 1};
        log_segments_.push_back(*next);
    }
    const LogPosition at = log_position_;
    guard.unlock();
    auto frame = std::make_shared<Buffer>(Buffer::heap(need));
    format::write_frame({sb_.uuid, at.generation, at.sequence, at.offset, unflushed_frames(at)}, chunk.payload,
                        chunk.records, 0, {frame->data(), need});
    const int rc =
        write_device(std::move(frame), need, device_offset(static_cast<SegmentId>(at.segment), 0) + at.offset);
    guard.lock();
    if (rc != 0) return rc;
    log_position_.offset += need;
    ++log_position_.sequence;
    log_bytes_since_checkpoint_ += need;
    counters_.log_frames.fetch_add(1, std::memory_order_relaxed);
    counters_.log_bytes.fetch_add(need, std::memory_order_relaxed);
    return 0;
}

// All frames written so far are durable after it.
int Store::flush_log(std::unique_lock<std::mutex>& guard) {
    const std::uint64_t written = lsn_written_;
    const int rc = flush_device(guard);
    if (rc != 0) return rc;
    lsn_durable_ = std::max(lsn_durable_, written);
    log_flushed_ = log_position_.sequence;
    return 0;
}

// Writes all that is pending now; under clients that never pause there is always more, and the committer has
// checkpoints to make as well. With sync_after, or when somebody waits, makes it durable too.
int Store::write_pending(std::unique_lock<std::mutex>& guard, bool sync_after) {
    int rc = 0;
    for (const InodeNumber ino : touched_directories_) {
        const Inode* inode = inodes_.find(ino);
        if (inode != nullptr && inode->is_directory() && inode->nlink != 0) {
            log_.writer().inode(body_of(ino, *inode), {});
        }
    }
    touched_directories_.clear();
    const std::uint64_t wanted = log_.commit();
    while (lsn_written_ < wanted && !log_.empty()) {
        const std::size_t limit = std::min<std::size_t>(kFrameBytes, sb_.segment_size - 4 * format::kBlock);
        const LogBuffer::Chunk chunk = log_.take(limit);
        const std::uint64_t lsn = chunk.lsn;
        const auto headers_are_written = [this] { return headers_in_flight_ == 0; };
        if (patience_ == nullptr) {
            headers_done_.wait(guard, headers_are_written);
        } else if (!headers_done_.wait_for(guard, patience_->limit(), headers_are_written)) {
            rc = -ETIMEDOUT;
            break;
        }
        if (owner_.is_watched && OwnerClock::now() - owner_.last_look > kLease) {
            guard.unlock();
            rc = confirm_owner(kLease);
            guard.lock();
            if (rc != 0) break;
        }
        if (data_unflushed_) {
            rc = flush_log(guard);
            if (rc != 0) break;
        }
        rc = write_frame(guard, chunk);
        if (rc != 0) break;
        lsn_written_ = lsn;
    }
    if (rc == 0 && (sync_after || !durable_waiters_.empty()) && lsn_durable_ < lsn_written_) {
        rc = flush_log(guard);
    }
    if (rc != 0) fail_log(rc);
    wake_durable(guard);
    return rc;
}

// Whoever waits for what is durable by now, or never will be.
void Store::wake_durable(std::unique_lock<std::mutex>& guard) {
    std::vector<std::coroutine_handle<>> ready;
    std::erase_if(durable_waiters_, [&](const auto& waiter) {
        if (waiter.first > lsn_durable_ && log_error_ == 0) return false;
        ready.push_back(waiter.second);
        return true;
    });
    if (!ready.empty()) {
        guard.unlock();
        for (const auto handle : ready) uring::Turn::next(handle);
        guard.lock();
    }
}

// Asks for a checkpoint and waits until the next one has been made or given up, or until is_over(). One that was under
// way already is the next.
void Store::await_checkpoint(std::unique_lock<std::mutex>& guard, const std::function<bool()>& is_over) {
    checkpoint_wanted_ = true;
    wake_committer();
    const auto tried = checkpoint_attempts_;
    checkpoint_done_.wait(guard, [&] { return checkpoint_attempts_ != tried || is_over(); });
}

void Store::committer() {
    std::unique_lock guard(mutex_);
    bool trim_due = true;
    for (;;) {
        committer_wake_.wait_for(guard, kCommitInterval, [this] {
            return commit_now_ || stop_ || health_.is_recovery_wanted ||
                   (log_error_ == 0 && log_.bytes() > kCommitBytes);
        });
        committer_is_busy_ = true;
        const bool stopping = stop_;
        const bool idle = log_.empty() && !stopping;
        // space that only waits for the log to be durable is worth a flush once it is scarce
        const bool scarce = segments_.free_count() <= 2 * segments_.reserve() && segments_.would_collect(lsn_durable_);
        const bool sync_after = std::exchange(commit_now_, false) || scarce || stopping;
        if (log_error_ == 0) write_pending(guard, sync_after);
        if (is_fenced()) wake_durable(guard);  // it may have been another thread that found the volume lost
        if (health_.is_recovery_wanted || (stopping && log_error_ != 0)) try_to_recover(guard);
        if (segments_.collect(lsn_durable_) || lsn_durable_ >= flush_wanted_) cleaner_wake_.notify_one();
        settle_tails(guard, now_ns());
        Checkpoint checkpoint(*this);
        if (log_error_ == 0 && (stopping || checkpoint.is_due())) {
            checkpoint_under_way_ = true;
            const int rc = checkpoint.run(guard, stopping);
            checkpoint_under_way_ = false;
            checkpoint_wanted_ = false;
            ++checkpoint_attempts_;
            checkpoint_done_.notify_all();
            if (rc != 0 && rc != -ENOSPC) fail_log(rc);
            if (rc == -ENOSPC && !no_room_was_said_) {
                say(30, "no room for a checkpoint: recovery will read a longer log");
            }
            no_room_was_said_ = rc == -ENOSPC;
            segments_.collect(lsn_durable_);
        }
        committer_is_busy_ = false;
        if (stopping && (log_.empty() || log_error_ != 0)) return;
        // what a burst of frames and requests leaves in the allocator's hands goes back once it is over: memory per
        // file is a promise, and the allocator keeps what it once had
        if (idle && trim_due) {
            guard.unlock();
            malloc_trim(0);
            guard.lock();
        }
        trim_due = !idle;
    }
}

}  // namespace kvfs::store
