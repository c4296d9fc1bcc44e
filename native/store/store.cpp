#include "store/store.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include "format/superblock.hpp"
#include "store/checkpoint.hpp"
#include "store/recovery.hpp"
#include "store/scrub.hpp"
#include "store/volume.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kIoBuffer = std::size_t{1} << 20;
constexpr std::size_t kReadBuffer = kIoBuffer + 2 * format::kBlock;  // an unaligned 1 MiB request touches 257 blocks
constexpr std::size_t kSmallBuffer = (std::size_t{128} << 10) + 2 * format::kBlock;
constexpr std::size_t kDefaultBuffers = std::size_t{64} << 20;
constexpr std::size_t kDefaultCache = std::size_t{16} << 20;
constexpr std::size_t kGranuleBytes = format::kGranuleBlocks * format::kBlock;
constexpr unsigned kRingDepth = 256;
constexpr unsigned kMostRings = 8;

}  // namespace

std::int64_t Store::now_ns() {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    const std::int64_t ns = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
    return ns / TimeCode::kTick * TimeCode::kTick;
}

Store::Store(const std::string& path, const Options& options) {
    read_only_ = options.read_only || !options.exclusive;
    Device device(path, !read_only_, options.tap);
    device.lock(!read_only_);
    if (!read_only_ && options.on_locked) options.on_locked(device.fd());
    sb_ = device.choose_superblock(&superblock_damage_);
    for (const Damage& damage : superblock_damage_) {
        say(30, path + ": " + damage.where + ": " + damage.detail + "; the newest of the others serves");
    }
    if (sb_.ro_compat != 0 && !read_only_) {
        throw OpenError(EROFS, path + ": the volume has features that this version can only read: mount it read-only");
    }
    block_device_ = device.is_block_device();
    checksum_ = format::DataChecksum(sb_.uuid);
    fd_ = device.release();
    io_ = uring::PlainIo(fd_, options.tap);
    try {
        if (!read_only_) check_owner(path, options);
        is_behind_ = read_only_ && (sb_.compat & format::kOwnedByHost) != 0 && (sb_.flags & format::kClean) == 0 &&
                     sb_.host_uuid != options.host;
        segments_.configure(sb_.segment_count, sb_.segment_size / format::kBlock, holding_.epoch);
        const auto started = std::chrono::steady_clock::now();
        Recovery recovery(*this);
        recovery.run(!superblock_damage_.empty());
        metadata_damage_ = recovery.damage();
        if (!metadata_damage_.empty() && !options.salvage) {
            const Damage& first = metadata_damage_.front();
            throw OpenError(EUCLEAN, path + ": " + first.where + ": " + first.detail + "; run `kvfsctl fsck --repair " +
                                         path + "`");
        }
        recovered_frames_ = recovery.frames();
        cut_frames_ = recovery.cut_frames();
        recovery_ns_ = static_cast<std::uint64_t>(
            std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - started).count());
        expect_metadata();
        if (!options.exclusive) return;  // a checker looks at what was recovered and does its own reading

        const std::size_t buffers = options.buffer_bytes != 0 ? options.buffer_bytes : kDefaultBuffers;
        const std::size_t cache = (options.cache_bytes != 0 ? options.cache_bytes : kDefaultCache) / kGranuleBytes;
        const std::size_t pool = std::max<std::size_t>(4, buffers / 4 / kReadBuffer);
        const std::size_t requests = 2 * pool;
        const std::size_t small = std::max<std::size_t>(8, buffers / 8 / kSmallBuffer);
        arena_ = std::make_unique<uring::BufferArena>(pool * (kIoBuffer + kReadBuffer) + requests * kReadBuffer +
                                                      small * kSmallBuffer + cache * kGranuleBytes);
        // who is still in line when the store has closed was given up, and is not missed
        const auto resume = [this](std::coroutine_handle<> handle) {
            if (rings_) rings_->here().post(handle);
        };
        write_pool_ = std::make_unique<uring::BufferPool>(*arena_, pool, kIoBuffer, resume);
        read_pool_ = std::make_unique<uring::BufferPool>(*arena_, pool, kReadBuffer, resume);
        small_pool_ = std::make_unique<uring::BufferPool>(*arena_, small, kSmallBuffer, resume);
        request_pool_ = std::make_unique<uring::BufferPool>(*arena_, requests, kReadBuffer, resume);
        cache_ = std::make_unique<GranuleCache>(arena_->cut(cache * kGranuleBytes), kGranuleBytes);
        const unsigned rings =
            options.rings != 0 ? options.rings : std::clamp(std::thread::hardware_concurrency(), 1U, kMostRings);
        rings_ = std::make_unique<uring::Rings>(fd_, options.tap, rings, kRingDepth, arena_->memory());
        if (options.io_timeout.count() > 0) patience_ = std::make_unique<uring::Patience>(*rings_, options.io_timeout);
        scrubber_ = std::make_unique<Scrubber>(*this);
        if (read_only_) return;
        check_owner(path, options);
        recovery.take_over(options.owner);
        {
            std::unique_lock guard(mutex_);
            Checkpoint checkpoint(*this);
            // so few are free only after crash on crash: they are for the checkpoint that gives the logs' segments back
            const bool is_short = segments_.free_count() <= 2 && checkpoint.gives_space();
            // the log of a host that may still write to it is no part of the volume from here on
            if (is_inherited_ || is_short) checkpoint.run(guard, false);
            commit_now_ = checkpoint.is_due();
        }
        owns_ = true;
        policy_ = policy::make_policy(policy::names().front(), eviction_host_,
                                      {.capacity_bytes = segments_.data_capacity() * format::kBlock});
        admit_recovered();
        evicts_ = options.evict;
        sweep_after_ns_ = options.sweep_after_ns;
        owner_.last_look = OwnerClock::now();
        threads_ = 3U + (options.evict ? 1U : 0U) + (owner_.is_watched ? 1U : 0U);
        const auto start = [this](void (Store::*work)()) {
            return std::thread([this, work] {
                (this->*work)();
                const std::lock_guard guard(mutex_);
                if (--threads_ == 0) threads_done_.notify_all();
            });
        };
        committer_ = start(&Store::committer);
        cleaner_ = start(&Store::cleaner);
        sweeper_ = start(&Store::sweeper);
        if (evicts_) evictor_ = start(&Store::evictor);
        if (owner_.is_watched) owner_watch_ = start(&Store::owner_watch);
    } catch (const std::system_error& failure) {
        patience_.reset();
        rings_.reset();
        ::close(fd_);
        throw OpenError(failure.code().value(), path + ": " + failure.what());
    } catch (...) {
        patience_.reset();
        rings_.reset();
        ::close(fd_);
        throw;
    }
}

Store::~Store() { close(); }

// On a device that does not answer every wait here ends after a while. Tasks that still wait for it are left behind:
// without the rings nobody resumes them, so they keep what they own for ever. A thread that still waits keeps all of
// this.
int Store::close() {
    {
        const std::lock_guard guard(mutex_);
        if (closed_) return 0;
        closed_ = true;
    }
    int rc = 0;
    const auto wait = [&](auto& condition, auto& guard, auto is_over) {
        constexpr int kMostWaits = 20;  // a discard is none of the requests whose age is known
        if (patience_ == nullptr) condition.wait(guard, is_over);
        for (int i = 0; i < kMostWaits && !is_over(); ++i) {
            condition.wait_for(guard, patience_->limit(), is_over);
            if (i > 0 && patience_->statistics().oldest > patience_->limit()) break;
        }
        const bool is_in_time = is_over();
        if (!is_in_time) rc = -ETIMEDOUT;
        return is_in_time;
    };
    const auto settle = [&] {
        std::unique_lock guard(background_mutex_);
        wait(background_done_, guard, [this] { return background_ == 0; });
    };
    if (scrubber_) scrubber_->stop();
    if (owns_) {
        // publish what is complete: nobody can reopen these files, the mount is gone
        uring::block_on(sync());
        settle();
        std::unique_lock guard(mutex_);
        stop_ = true;
        committer_wake_.notify_all();
        cleaner_wake_.notify_all();
        sweeper_wake_.notify_all();
        evictor_wake_.notify_all();
        owner_wake_.notify_all();
        // the committer ends with a checkpoint and the clean flag
        if (!wait(threads_done_, guard, [this] { return threads_ == 0; })) {
            abandoned_ = true;
            sweeper_.detach();
            if (evictor_.joinable()) evictor_.detach();
            if (owner_watch_.joinable()) owner_watch_.detach();
            cleaner_.detach();
            committer_.detach();
            return rc;
        }
        if (rc == 0 && log_error_ != 0) rc = -EIO;
        guard.unlock();
        sweeper_.join();
        if (evictor_.joinable()) evictor_.join();
        if (owner_watch_.joinable()) owner_watch_.join();
        cleaner_.join();
        committer_.join();
    }
    if (rc == 0) settle();
    patience_.reset();
    rings_.reset();
    if (fd_ >= 0) ::close(fd_);  // drops the lock as well
    fd_ = -1;
    return rc;
}

// sb_ is changed by one thread at a time: the constructor's, then the committer's.
int Store::write_superblock() {
    if (const int rc = owns_ ? confirm_owner({}) : 0; rc != 0) return rc;
    const std::lock_guard guard(superblock_mutex_);
    ++sb_.sequence;
    sb_.written_ns = now_ns();
    const auto primary = static_cast<std::uint32_t>(sb_.sequence % 2);
    // the copy at the end goes last: a crash in between leaves it older, never the only good one being rewritten
    const int rc = write_superblock_copy(primary);
    return rc != 0 ? rc : write_superblock_copy(kEndCopy);
}

int Store::write_superblock_copy(std::uint32_t copy) {
    sb_.copy = copy;
    format::seal_superblock(sb_);
    auto block = std::make_shared<Buffer>(Buffer::heap(format::kBlock));
    std::memcpy(block->data(), &sb_, sizeof sb_);
    const int rc = write_device(std::move(block), format::kBlock, format::superblock_offset(copy, sb_.size));
    return rc != 0 ? rc : device_sync();
}

int Store::write_segment_header(SegmentId id, format::SegmentClass kind) {
    auto block = std::make_shared<Buffer>(Buffer::heap(format::kBlock));
    fill_segment_header(id, kind, block->data());
    return write_device(std::move(block), format::kBlock, device_offset(id, 0));
}

void Store::fill_segment_header(SegmentId id, format::SegmentClass kind, std::byte* out) const {
    format::SegmentHeader header{};
    header.uuid = sb_.uuid;
    header.segment = id;
    header.generation = segments_.at(id).generation;
    header.host_uuid = sb_.host_uuid;
    header.epoch = sb_.epoch;
    header.segment_class = static_cast<std::uint32_t>(kind);
    header.opened_ns = now_ns();
    format::seal_segment_header(header);
    std::memcpy(out, &header, sizeof header);
}

void Store::set_wakeup(std::function<void()> wakeup) {
    const std::lock_guard guard(events_mutex_);
    wakeup_ = std::move(wakeup);
    if (!events_.empty() && wakeup_) wakeup_();
}

void Store::set_inode_hook(std::function<void(std::uint64_t ino)> hook) {
    const std::lock_guard guard(mutex_);
    inode_hook_ = std::move(hook);
}

std::vector<Event> Store::take_events() {
    const std::lock_guard guard(events_mutex_);
    return std::exchange(events_, {});
}

void Store::raise(Event event) {
    constexpr std::size_t kMost = 10'000;  // a store whose every page is bad must not fill memory with complaints
    const std::lock_guard guard(events_mutex_);
    if (events_.size() >= kMost) return;
    events_.push_back(std::move(event));
    if (wakeup_) wakeup_();
}

void Store::say(int level, std::string text) { raise(LogEvent{level, std::move(text)}); }

void Store::in_background(Async<int> task) {
    {
        const std::lock_guard guard(background_mutex_);
        ++background_;
    }
    uring::detach(std::move(task), [this](int) {
        // notified under the lock: this may be destroyed as soon as it is released
        const std::lock_guard guard(background_mutex_);
        if (--background_ == 0) background_done_.notify_all();
    });
}

// files with state ------------------------------------------------------------------

std::shared_ptr<File> Store::find_file(InodeNumber ino) {
    const auto it = files_.find(ino);
    return it == files_.end() ? nullptr : it->second;
}

std::shared_ptr<File> Store::file_of(InodeNumber ino) {
    auto& file = files_[ino];
    if (!file) {
        file = std::make_shared<File>(ino);
        const Inode& inode = *inodes_.find(ino);
        file->committed_size = inode.size;
        file->charged = inodes_.mapped_blocks(inode);
    }
    return file;
}

void Store::mark_dirty(File& file) {
    if (file.dirty) return;
    file.dirty = true;
    file.dirty_since_ns = now_ns();
}

void Store::drop_file_if_idle(InodeNumber ino) {
    const auto it = files_.find(ino);
    if (it != files_.end()) {
        File& file = *it->second;
        if (file.handles != 0 || file.users != 0 || file.tail || file.in_flight != 0 || file.lock.is_held()) return;
        const Inode* inode = inodes_.find(ino);
        if (file.dirty && inode != nullptr && inode->nlink != 0) return;
        if (inode != nullptr && inode->nlink == 0) release_replaced(file, log_.appended());
        segments_.end_lease(file.lease);
        settle_charge(file);
        files_.erase(it);
    }
    free_if_unused(ino);
}

void Store::release_replaced(File& file, std::uint64_t lsn) {
    for (const auto& [logical, extent] : file.replaced.all()) {
        segments_.remove_live(extent.segment, extent.blocks, lsn);
    }
    file.replaced = ExtentMap{};
}

bool Store::has_space(std::uint64_t blocks) {
    wake_evictor_when_low(blocks);
    if (segments_.live_blocks() + reserved_blocks_ + blocks > segments_.data_capacity()) return false;
    if (blocks <= physical_blocks_left()) return true;
    ++physical_.refusals;
    return false;
}

// The log may grow to this many bytes, what is to be written included, before a checkpoint makes it short again.
std::uint64_t Store::log_limit() const {
    constexpr std::uint64_t kMost = std::uint64_t{64} << 20;
    return std::max(std::min(kMost, sb_.segment_count * sb_.segment_size / 32), sb_.checkpoint_bytes);
}

// Free segments that no data takes, not even the cleaner's: the log's next, without which the store turns read-only,
// and those of a checkpoint, which gives back the log's. The cleaner has at least one beyond them.
std::uint64_t Store::kept_for_metadata() const {
    return std::min(2 + sb_.checkpoint_bytes / sb_.segment_size, segments_.reserve() - 1);
}

// Whoever changes names faster than the log is written and made short waits here, before anything is looked at: the
// segments that the log would take beyond its limit are promised to nobody. The committer, which ends the wait, needs
// nothing of those who wait. When a checkpoint cannot be made (there is no room, the device fails) they go on to
// where they are told so.
void Store::wait_for_log(std::unique_lock<std::mutex>& guard) {
    const auto is_short = [this] {
        return log_bytes_since_checkpoint_ + log_.bytes() <= log_limit() || read_only_ || log_error_ != 0 || stop_;
    };
    // the one that is under way may have begun before the log was long
    for (int i = 0; i < 2 && !is_short(); ++i) await_checkpoint(guard, is_short);
}

// Names cost log and checkpoint space, which data must not have taken when they need it: the reserve grows with
// them, and where it cannot grow any more there are no further names.
void Store::expect_metadata() {
    constexpr std::uint64_t kInodeBytes = 200;  // an inode's record with one extent, and its name's without the text
    const std::uint64_t checkpoint = (inodes_.count() + 1) * kInodeBytes + names_.bytes() + inodes_.xattr_bytes;
    segments_.expect_metadata(2 * checkpoint + std::max(log_limit(), checkpoint));
}

bool Store::has_metadata_space() {
    expect_metadata();
    return segments_.has_room_for_metadata(reserved_blocks_);
}

Store::Space Store::space() {
    const std::lock_guard guard(mutex_);
    const std::uint64_t capacity = segments_.data_capacity();
    const std::uint64_t used = std::min(capacity, segments_.live_blocks() + reserved_blocks_);
    // names have no quota of their own; what bounds them is the log and checkpoint space they need
    const std::uint64_t files_free = std::min(inodes_.capacity() - inodes_.count(), (capacity - used) * 8);
    return {capacity, std::min(capacity - used, physical_blocks_left()), inodes_.count() + files_free, files_free};
}

Store::Gauges Store::gauges() {
    const std::lock_guard guard(mutex_);
    Gauges out{};
    out.files = inodes_.count();
    out.names = names_.count();
    out.open_files = files_.size();
    out.segments = segments_.count();
    out.segments_free = segments_.free_count();
    out.segments_metadata = segments_.metadata_count();
    out.live_blocks = segments_.live_blocks();
    out.reserved_blocks = reserved_blocks_;
    out.capacity_blocks = segments_.data_capacity();
    out.log_pending_bytes = log_.bytes();
    out.lsn_appended = log_.appended();
    out.lsn_durable = lsn_durable_;
    out.recovery_ns = recovery_ns_;
    out.recovered_frames = recovered_frames_;
    out.cut_frames = cut_frames_;
    out.damaged_superblocks = superblock_damage_.size();
    for (const auto* pool : {write_pool_.get(), read_pool_.get(), small_pool_.get(), request_pool_.get()}) {
        out.buffers += pool->count();
        out.buffers_idle += pool->idle();
    }
    return out;
}

}  // namespace kvfs::store
