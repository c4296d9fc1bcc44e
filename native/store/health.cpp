#include "store/health.hpp"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <optional>

#include "format/superblock.hpp"
#include "store/checkpoint.hpp"
#include "store/granule.hpp"
#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::uint64_t kVerifyBlocks = 1024;  // read at a time by recover()

std::string text_of(int error) {
    if (error == -ETIMEDOUT) return "the device has not answered in time";
    if (error == -ESTALE) return "another host has written to it since";
    return std::strerror(-error);
}

}  // namespace

// waiting for the device on a thread of the store's -------------------------------------------

// The task owns all that it uses: when it is not through in time it goes on without this thread.
int Store::wait_for(Async<int> task) {
    if (patience_ == nullptr) return uring::block_on(std::move(task));
    struct State {
        std::mutex mutex;
        std::condition_variable done;
        std::optional<int> result;
    };
    const auto state = std::make_shared<State>();
    uring::detach(std::move(task), [state](int rc) {
        const std::lock_guard guard(state->mutex);
        state->result = rc;
        state->done.notify_one();
    });
    std::unique_lock guard(state->mutex);
    state->done.wait_for(guard, patience_->limit(), [&] { return state->result.has_value(); });
    return state->result.value_or(-ETIMEDOUT);
}

Async<int> Store::send_read(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset) {
    uring::Batch batch(rings_->here());
    batch.add(uring::OpKind::kRead, data->data(), size, offset);
    const int rc = co_await batch;
    co_return rc;
}

int Store::read_device(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset) {
    return wait_for(send_read(std::move(data), size, offset));
}

Async<int> Store::send_write(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset) {
    uring::Batch batch(rings_->here());
    batch.add(uring::OpKind::kWrite, data->data(), size, offset);
    const int rc = co_await batch;
    co_return rc;
}

Async<int> Store::send_sync() {
    uring::Batch batch(rings_->here());
    batch.add(uring::OpKind::kSync, nullptr, 0, 0);
    const int rc = co_await batch;
    co_return rc;
}

int Store::write_device(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset) {
    if (is_fenced()) return -EROFS;
    const int rc = wait_for(send_write(data, size, offset));
    if (rc == -EBADE) is_refused_ = true;
    if (rc != -ENOSPC || !owns_) return rc;
    const int trimmed = wait_for(make_physical_room());
    return trimmed != 0 ? trimmed : wait_for(send_write(std::move(data), size, offset));
}

int Store::device_sync() { return wait_for(send_sync()); }

// Makes durable what the device has been sent. The mutex is held, but not while it waits.
int Store::flush_device(std::unique_lock<std::mutex>& guard) {
    const std::vector<SegmentId> sent = std::exchange(unflushed_, {});
    for (const SegmentId id : sent) segments_.at(id).unflushed = false;
    data_unflushed_ = false;
    guard.unlock();
    const int rc = device_sync();
    guard.lock();
    if (rc != 0) {
        data_unflushed_ = true;
        suspect_segments_.insert(suspect_segments_.end(), sent.begin(), sent.end());
    }
    return rc;
}

// The mutex is held.
void Store::note_unflushed(SegmentId segment) {
    data_unflushed_ = true;
    if (!std::exchange(segments_.at(segment).unflushed, true)) unflushed_.push_back(segment);
}

// a device without space -----------------------------------------------------------------------

// Awaits the moment when the cleaner has told the device of every free segment.
struct Store::TrimPass {
    Store& store;
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) {
        const std::lock_guard guard(store.mutex_);
        if (store.cleaner_has_ended_) return false;
        store.trim_waiters_.push_back(waiter);
        store.cleaner_wake_.notify_one();
        return true;
    }
    void await_resume() const {}
};

Async<int> Store::make_physical_room() {
    counters_.device_full.fetch_add(1, std::memory_order_relaxed);
    co_await TrimPass{*this};
    co_return 0;
}

// The cleaner's thread.
void Store::trim_everything(std::unique_lock<std::mutex>& guard) {
    segments_.collect(lsn_durable_);
    while (trim_one(guard, 0)) {
    }
    const auto waiters = std::exchange(trim_waiters_, {});
    guard.unlock();
    for (const auto handle : waiters) uring::Turn::next(handle);
    guard.lock();
}

// failure ------------------------------------------------------------------------------------------

void Store::fail_log(int error) {
    if (error == -EBADE || is_refused_) fence(kRefusedByTarget);
    if (log_error_ != 0) return;
    log_error_ = -EIO;
    read_only_ = true;
    checkpoint_done_.notify_all();
    health_.condition = Condition::kReadOnly;
    health_.error = error;
    health_.since_ns = now_ns();
    health_.reason = "metadata cannot be written: " + text_of(error);
    health_.last_answer.clear();
    ++health_.failures;
    say(50, health_.reason +
                ": the volume is read-only from here on; nothing that was fsynced is lost; once the device is well "
                "again: kvfsctl recover");
}

Health Store::health() {
    Health out;
    if (patience_) {
        const auto waits = patience_->statistics();
        out.answers_given_up = waits.given_up;
        out.still_unanswered = waits.still_going;
        out.oldest_request_ns = waits.oldest.count();
    }
    const std::lock_guard guard(mutex_);
    out.state = health_;
    return out;
}

int Store::recover() {
    const std::lock_guard guard(mutex_);
    if (!owns_ || closed_ || is_fenced()) return -EROFS;
    if (log_error_ == 0) return -EINVAL;
    if (health_.condition == Condition::kRecovering || health_.is_recovery_wanted) return -EALREADY;
    health_.is_recovery_wanted = true;
    health_.last_answer.clear();
    committer_wake_.notify_one();
    return 0;
}

// The committer's thread, here and below; the mutex is held, but not while it waits.
void Store::try_to_recover(std::unique_lock<std::mutex>& guard) {
    if (is_fenced()) return;
    // whoever closes the store waits for no device that is silent
    if (!health_.is_recovery_wanted && rings_->changes_in_flight() != 0) return;
    health_.condition = Condition::kRecovering;
    std::string step;
    const int rc = recover_now(guard, step);
    health_.is_recovery_wanted = false;
    if (is_fenced()) return;
    if (rc != 0) {
        health_.condition = Condition::kReadOnly;
        if (rc == -ESTALE) health_.error = rc;  // whatever it was before, that is why now
        health_.last_answer = step + ": " + text_of(rc);
        ++health_.failed_recoveries;
        say(40, "the volume stays read-only: " + health_.last_answer);
        return;
    }
    log_error_ = 0;
    read_only_ = false;
    health_.condition = Condition::kHealthy;
    health_.reason.clear();
    health_.error = 0;
    ++health_.recoveries;
    say(20, "the volume is writable again");
}

int Store::recover_now(std::unique_lock<std::mutex>& guard, std::string& step) {
    step = "the device still has writes that it has not answered";
    int rc = settle_changes(guard);
    if (rc != 0) return rc;
    if (owner_.is_watched) {
        step = "who owns the volume cannot be read";
        guard.unlock();
        rc = confirm_owner({});
        guard.lock();
    } else {
        step = "the volume cannot be taken up again";
        rc = look_for_another_host(guard);
    }
    if (rc != 0) return rc;
    step = "the device cannot be flushed";
    rc = flush_device(guard);
    if (rc != 0) return rc;
    step = "what was written last cannot be read";
    rc = verify_unflushed(guard);
    if (rc != 0) return rc;
    step = "a segment's header cannot be written";
    while (!failed_headers_.empty()) {
        const SegmentId id = failed_headers_.back();
        guard.unlock();
        rc = write_segment_header(id, format::SegmentClass::kData);
        guard.lock();
        if (rc != 0) return rc;
        failed_headers_.pop_back();
    }
    step = "no new log can be started";
    rc = start_log(guard);
    if (rc != 0) return rc;
    step = "no checkpoint can be written";
    const std::uint64_t known = log_.appended();  // start_log() has left nothing pending: memory is all of it
    Checkpoint checkpoint(*this);
    rc = checkpoint.run(guard, false);
    if (rc != 0) return rc;
    lsn_written_ = std::max(lsn_written_, known);
    lsn_durable_ = std::max(lsn_durable_, known);
    for (const SegmentId id : std::exchange(given_up_metadata_, {})) segments_.release_metadata(id, 0);
    segments_.collect(lsn_durable_);
    return 0;
}

// Of a volume that no named host has mounted, so that nothing is watched (ownership.hpp).
// -ESTALE when the device has a superblock of a later mount, which has a later epoch, or only another volume's. One
// that is not whole says nothing: this mount's own write may have been torn.
int Store::look_for_another_host(std::unique_lock<std::mutex>& guard) {
    const auto block = std::make_shared<Buffer>(Buffer::heap(kBlock));
    bool is_foreign = false;
    bool is_ours = false;
    for (const std::uint32_t copy : {0U, 1U}) {
        guard.unlock();
        const int rc = read_device(block, kBlock, format::superblock_offset(copy, sb_.size));
        guard.lock();
        if (rc != 0) return rc;
        format::Superblock found{};
        std::memcpy(&found, block->data(), sizeof found);
        if (format::check_superblock(found).fault != format::Fault::kValid) continue;
        (found.uuid == sb_.uuid ? is_ours : is_foreign) = true;
        if (found.uuid == sb_.uuid && found.epoch > sb_.epoch) return -ESTALE;
    }
    return is_foreign && !is_ours ? -ESTALE : 0;
}

// Nobody starts new changes, the volume is read-only: those under way end, or the device is silent.
int Store::settle_changes(std::unique_lock<std::mutex>& guard) {
    if (rings_->changes_in_flight() == 0) return 0;
    const auto begin = std::chrono::steady_clock::now();
    const auto limit = patience_ ? patience_->limit() : std::chrono::nanoseconds(std::chrono::seconds(30));
    while (!stop_ && std::chrono::steady_clock::now() - begin < limit) {
        committer_wake_.wait_for(guard, std::chrono::milliseconds(20));
        if (rings_->changes_in_flight() == 0) return 0;
    }
    return -ETIMEDOUT;
}

namespace {

struct Suspect {
    InodeNumber ino;
    std::uint64_t logical;
    std::uint64_t blocks;
};

}  // namespace

// Reads what the plan covers from the device itself. 0, -EILSEQ when it is not what was written, or the device's error.
Async<int> Store::verify_plan(Plan plan) {
    std::uint64_t blocks = 0;
    for (const Granule& granule : plan) blocks += granule.blocks;
    const Buffer data = Buffer::heap(std::max<std::uint64_t>(blocks, 1) * kBlock);
    uring::Batch batch(rings_->here(), uring::Priority::kPrefetch);
    std::byte* at = data.data();
    for (const Granule& granule : plan) {
        batch.add(uring::OpKind::kRead, at, granule.blocks * kBlock, device_offset(granule.segment, granule.block));
        at += granule.blocks * kBlock;
    }
    int rc = co_await batch;
    at = data.data();
    for (const Granule& granule : plan) {
        if (rc == 0 && !verify(granule, at)) rc = -EILSEQ;
        at += granule.blocks * kBlock;
    }
    const std::lock_guard guard(mutex_);
    unpin(plan);
    co_return rc;
}

// Of the segments whose flush has failed once: that one flush succeeds later says nothing about them.
int Store::verify_unflushed(std::unique_lock<std::mutex>& guard) {
    std::vector<Suspect> suspects;
    std::vector<bool> is_suspect(segments_.count());
    for (const SegmentId id : suspect_segments_) is_suspect[id] = true;
    for (InodeNumber ino = kRoot; !suspect_segments_.empty() && ino < inodes_.end(); ++ino) {
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular() || inode->nlink == 0) continue;
        inodes_.visit(*inode, 0, ~std::uint64_t{0}, [&](std::uint64_t logical, const Extent& extent) {
            if (!is_suspect[extent.segment]) return;
            for (std::uint64_t at = 0; at < extent.blocks; at += kVerifyBlocks) {
                suspects.push_back({ino, logical + at, std::min<std::uint64_t>(kVerifyBlocks, extent.blocks - at)});
            }
        });
    }
    for (const Suspect& each : suspects) {
        Inode* inode = inodes_.find(each.ino);
        if (inode == nullptr || !inode->is_regular() || inode->nlink == 0) continue;
        // what could not be written at all is the file's error already, and no part of its committed version
        if (const auto file = find_file(each.ino); file && file->error != 0) continue;
        Plan plan;
        plan_read(*inode, each.logical, each.logical + each.blocks, plan);
        guard.unlock();
        const int rc = wait_for(verify_plan(std::move(plan)));
        guard.lock();
        health_.verified_blocks += each.blocks;
        if (rc == -ETIMEDOUT) return rc;
        if (rc == -EILSEQ) drop_lost(each.ino);
    }
    suspect_segments_.clear();
    return 0;
}

// The device took it, and lost it before a flush. The mutex is held.
void Store::drop_lost(InodeNumber ino) {
    Inode* inode = inodes_.find(ino);
    if (inode == nullptr || inode->nlink == 0) return;
    counters_.checksum_errors.fetch_add(1, std::memory_order_relaxed);
    counters_.files_dropped.fetch_add(1, std::memory_order_relaxed);
    say(40, "inode " + std::to_string(ino) +
                ": the device lost what was written to it before a flush that failed; file dropped: " +
                std::string(names_.at(inode->name).view()));
    if (inode_hook_) inode_hook_(ino);
    while (inode->nlink > 0) {
        const NameId id = inode->name;
        const Name& entry = names_.at(id);
        const InodeNumber parent = entry.parent;
        raise(DropEvent{parent, std::string(entry.view())});
        lose_link(ino, id, now_ns());
        touch_directory(parent, now_ns());
    }
    log_.commit();
    drop_file_if_idle(ino);
}

// A log in a segment of its own, with nothing pending. What the old one consists of stays as it is until the checkpoint
// that makes it superfluous.
int Store::start_log(std::unique_lock<std::mutex>& guard) {
    const auto fresh = segments_.take_for_metadata();
    if (!fresh) return -ENOSPC;
    guard.unlock();
    const int rc = write_segment_header(*fresh, format::SegmentClass::kLog);
    guard.lock();
    if (rc != 0) {
        given_up_metadata_.push_back(*fresh);
        return rc;
    }
    given_up_metadata_.insert(given_up_metadata_.end(), log_segments_.begin(), log_segments_.end());
    log_segments_ = {*fresh};
    log_position_ = {*fresh, segments_.at(*fresh).generation, kBlock, log_position_.sequence + 1};
    log_flushed_ = log_position_.sequence;  // nothing lies in front of its first frame
    log_bytes_since_checkpoint_ = 0;
    log_.discard();
    return 0;
}

}  // namespace kvfs::store
