// Bytes on their way in: write -> tail buffer -> a run of blocks in a segment -> the device; flush -> the log.
//
// A file's `lock` is held across everything here that changes its bytes, so writes, truncations and flushes of one file
// follow each other; different files meet only at the mutex, the buffer pool and the ring.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/durable.hpp"
#include "store/granule.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::size_t kFullMapExtents = 64;  // files with more are logged by their changes
constexpr std::size_t kExtentsPerRecord = 64;
constexpr std::int64_t kPoolCommitAge = 30'000'000'000;  // as the kernel's dirty_expire

}  // namespace

// Ranges ------------------------------------------------------------------------

void Ranges::add(std::uint64_t from, std::uint64_t to) {
    if (from >= to) return;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second >= from) --it;
    while (it != ranges_.end() && it->first <= to) {
        from = std::min(from, it->first);
        to = std::max(to, it->second);
        it = ranges_.erase(it);
    }
    ranges_.emplace(from, to);
}

std::uint64_t Ranges::remove(std::uint64_t from, std::uint64_t to) {
    std::uint64_t removed = 0;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second > from) --it;
    while (it != ranges_.end() && it->first < to) {
        const auto [start, end] = *it;
        it = ranges_.erase(it);
        if (start < from) ranges_.emplace(start, from);
        if (end > to) ranges_.emplace(to, end);
        removed += std::min(end, to) - std::max(start, from);
    }
    return removed;
}

std::uint64_t Ranges::count(std::uint64_t from, std::uint64_t to) const {
    std::uint64_t total = 0;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second > from) --it;
    for (; it != ranges_.end() && it->first < to; ++it) total += std::min(it->second, to) - std::max(it->first, from);
    return total;
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> Ranges::missing(std::uint64_t from, std::uint64_t to) const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> out;
    auto it = ranges_.upper_bound(from);
    if (it != ranges_.begin() && std::prev(it)->second > from) --it;
    for (; it != ranges_.end() && it->first < to; ++it) {
        if (it->first > from) out.emplace_back(from, it->first);
        from = std::max(from, it->second);
    }
    if (from < to) out.emplace_back(from, to);
    return out;
}

// the map ------------------------------------------------------------------------

// Takes [from, to) out of the present map. What the log refers to stays live in `replaced` until the next commit.
void Store::unmap(Inode& inode, File& file, std::uint64_t from, std::uint64_t to) {
    release_promise(file, from, to);
    for (const Piece& piece : inodes_.carve(inode, from, to)) {
        const std::uint64_t end = piece.logical + piece.extent.blocks;
        std::uint64_t committed = 0;
        if (inode.has(kLogged)) {
            for (const auto& [a, b] : file.changed.missing(piece.logical, end)) {
                file.replaced.insert(a, narrow(piece.extent, a - piece.logical, b - a));
                committed += b - a;
            }
        }
        const auto uncommitted = static_cast<std::uint32_t>(piece.extent.blocks - committed);
        if (uncommitted > 0) segments_.remove_live(piece.extent.segment, uncommitted, log_.appended());
        file.changed.add(piece.logical, end);
    }
}

// Writes an inode with its extents as one record, or as several when there are many; the first one carries `kind`.
static void log_extents(LogBuffer& out, format::InodeBody body, format::MapKind kind, std::uint64_t keep_blocks,
                        const std::vector<Piece>& pieces, const Segments& segments) {
    std::size_t done = 0;
    do {
        const std::size_t n = std::min(kExtentsPerRecord, pieces.size() - done);
        std::vector<format::ExtentView> views(n);
        for (std::size_t i = 0; i < n; ++i) {
            const auto& [logical, extent] = pieces[done + i];
            if (extent.segment == format::kHoleSegment) {
                views[i].body = {logical, 0, extent.segment, 0, extent.blocks, 0, 0, 0};
                continue;
            }
            views[i].body = {logical,           segments.at(extent.segment).generation,
                             extent.segment,    extent.block,
                             extent.blocks,     extent.skip,
                             extent.run_blocks, 0};
            views[i].checksums = extent.checksums;
        }
        body.map_kind = static_cast<std::uint32_t>(done == 0 ? kind : format::MapKind::kDelta);
        body.keep_blocks = done == 0 ? keep_blocks : ~std::uint64_t{0};
        out.writer().inode(body, views);
        done += n;
        // a map too large for one frame cannot be atomic; its name, if it is new, still comes last
        if (done < pieces.size() && done % (16 * kExtentsPerRecord) == 0) out.commit();
    } while (done < pieces.size());
}

static std::vector<Piece> pieces_of(const Inodes& inodes, const Inode& inode) {
    std::vector<Piece> out;
    inodes.visit(inode, 0, ~std::uint64_t{0}, [&](std::uint64_t logical, const Extent& extent) {
        out.push_back({logical, extent});
    });
    return out;
}

// Appends what makes the log know the file's present version. The data is complete; the mutex is held.
void Store::commit(File& file) {
    Inode* inode = inodes_.find(file.ino);
    file.dirty = false;
    if (inode == nullptr || inode->nlink == 0) return;  // deleted meanwhile: the log has forgotten it already
    inodes_.compact(*inode);
    const format::InodeBody body = body_of(file.ino, *inode);
    const bool fresh = !inode->has(kLogged);
    if (fresh || inodes_.extent_count(*inode) <= kFullMapExtents) {
        log_extents(log_, body, format::MapKind::kFull, 0, pieces_of(inodes_, *inode), segments_);
    } else {
        std::vector<Piece> pieces;
        for (const auto& range : file.changed.all()) {
            const std::uint64_t from = range.first;
            const std::uint64_t to = range.second;
            std::uint64_t next = from;
            const auto hole_to = [&](std::uint64_t end) {
                // what lies at or after keep_blocks goes without being told
                end = std::min(end, file.keep_blocks);
                for (; next < end; next += pieces.back().extent.blocks) {
                    Extent hole;
                    hole.segment = format::kHoleSegment;
                    hole.blocks = static_cast<std::uint32_t>(std::min<std::uint64_t>(end - next, 1U << 31));
                    pieces.push_back({next, std::move(hole)});
                }
            };
            inodes_.visit(*inode, from, to, [&](std::uint64_t logical, const Extent& extent) {
                const std::uint64_t a = std::max(from, logical);
                const std::uint64_t b = std::min(to, logical + extent.blocks);
                hole_to(a);
                pieces.push_back({a, narrow(extent, a - logical, b - a)});
                next = b;
            });
            hole_to(to);
        }
        log_extents(log_, body, format::MapKind::kDelta, file.keep_blocks, pieces, segments_);
    }
    if (fresh) {
        inode->set(kLogged);
        if (inode->has(kHasXattrs)) {
            for (const auto& [name, value] : inodes_.xattrs[file.ino]) log_.writer().xattr_set(file.ino, name, value);
        }
        log_name(inode->name);
        if (const auto extra = inodes_.extra_names.find(file.ino); extra != inodes_.extra_names.end()) {
            for (const NameId id : extra->second) log_name(id);
        }
    }
    release_replaced(file, log_.commit());
    file.changed.clear();
    file.keep_blocks = ~std::uint64_t{0};
    file.committed_size = inode->size;
}

// The cleaner moved these committed blocks. The mutex is held; the caller ends the transaction.
void Store::log_moved(InodeNumber ino, const Inode& inode, const std::vector<Piece>& pieces) {
    if (pieces.empty()) return;
    log_extents(log_, body_of(ino, inode), format::MapKind::kDelta, ~std::uint64_t{0}, pieces, segments_);
}

// The committed version of an inode, for a checkpoint. The mutex is held.
void Store::serialise_committed(LogBuffer& out, InodeNumber ino) {
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr || !inode->has(kLogged) || inode->nlink == 0) return;
    const format::InodeBody body = body_of(ino, *inode);
    if (!inode->is_regular()) {
        out.writer().inode(body, {});
    } else {
        std::vector<Piece> pieces = pieces_of(inodes_, *inode);
        if (const auto file = find_file(ino); file && file->dirty) {
            std::vector<Piece> committed;
            for (const Piece& piece : pieces) {
                const std::uint64_t end = piece.logical + piece.extent.blocks;
                for (const auto& [a, b] : file->changed.missing(piece.logical, end)) {
                    committed.push_back({a, narrow(piece.extent, a - piece.logical, b - a)});
                }
            }
            for (const auto& [logical, extent] : file->replaced.all()) committed.push_back({logical, extent});
            pieces = std::move(committed);
        }
        log_extents(out, body, format::MapKind::kFull, 0, pieces, segments_);
    }
    if (inode->is_symlink()) out.writer().symlink(ino, *inode->target);
    if (inode->has(kHasXattrs)) {
        for (const auto& [name, value] : inodes_.xattrs[ino]) out.writer().xattr_set(ino, name, value);
    }
    if (ino != kRoot) {
        const Name& name = names_.at(inode->name);
        out.writer().name_set(name.parent, name.view(), ino);
        if (const auto extra = inodes_.extra_names.find(ino); extra != inodes_.extra_names.end()) {
            for (const NameId id : extra->second) {
                out.writer().name_set(names_.at(id).parent, names_.at(id).view(), ino);
            }
        }
    }
    out.commit();
}

// A write failed and the last handle is gone: the file is again what the log says, or gone if the log never knew it.
void Store::revert(File& file) {
    Inode* inode = inodes_.find(file.ino);
    discard_tail(file);
    if (inode == nullptr || inode->nlink == 0) return;
    if (!inode->has(kLogged)) {
        const Name& name = names_.at(inode->name);
        raise(DropEvent{name.parent, std::string(name.view())});
        while (inode->nlink > 0) lose_link(file.ino, inode->name, now_ns());
        file.dirty = false;
        return;
    }
    for (const auto& [from, to] : file.changed.all()) {
        for (const Piece& piece : inodes_.carve(*inode, from, to)) {
            segments_.remove_live(piece.extent.segment, piece.extent.blocks, log_.appended());
        }
    }
    for (const auto& [logical, extent] : file.replaced.all()) inodes_.insert(*inode, logical, extent);
    file.replaced = ExtentMap{};
    file.changed.clear();
    file.keep_blocks = ~std::uint64_t{0};
    inode->size = file.committed_size;
    file.dirty = false;
    file.error = 0;
}

// tails ----------------------------------------------------------------------------

void Store::discard_tail(File& file) {
    if (!file.tail) return;
    reserved_blocks_ -= (file.tail.end - file.tail.start + kBlock - 1) / kBlock;
    tails_.remove(file.ino);
    file.tail = Tail{};
}

// Every buffer is some file's tail: the oldest one goes to the device. The mutex is not held.
void Store::reclaim_tail() {
    std::shared_ptr<File> victim;
    {
        const std::lock_guard guard(mutex_);
        for (const InodeNumber ino : tails_) {
            const auto file = find_file(ino);
            if (file && !file->lock.is_held()) {
                victim = file;
                break;
            }
        }
    }
    if (!victim) return;  // all are being written to the device right now: a buffer comes back by itself
    const auto push = [](Store& store, std::shared_ptr<File> file) -> Async<int> {
        co_await file->lock.lock();
        const Held held(file);
        const int rc = co_await store.submit_tail(*file);
        co_return rc;
    };
    uring::detach(push(*this, std::move(victim)), [](int) {});
}

// Files that are kept open and changed in place for days must not lose days to a crash, nor hold the old
// versions' space. A file that is still being written for the first time is left alone: half a page is no page.
void Store::settle_tails(std::unique_lock<std::mutex>& guard, std::int64_t now) {
    std::vector<InodeNumber> aged;
    for (const auto& [ino, file] : files_) {
        if (file->dirty && file->in_place && now - file->dirty_since_ns > kPoolCommitAge) aged.push_back(ino);
    }
    if (aged.empty()) return;
    guard.unlock();
    for (const InodeNumber ino : aged) uring::detach(flush(ino), [](int) {});
    guard.lock();
}

struct WaitIdle {
    std::mutex& mutex;
    File& file;
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) {
        const std::lock_guard guard(mutex);
        if (file.in_flight == 0) return false;
        file.idle_waiters.push_back(waiter);
        return true;
    }
    void await_resume() const {}
};

Async<int> Store::wait_idle(File& file) {
    co_await WaitIdle{mutex_, file};
    co_return file.error;
}

// The present content of one block of the file: zeros where nothing is mapped.
Async<int> Store::load_block(File& file, std::uint64_t block, std::byte* out) {
    std::memset(out, 0, kBlock);
    std::vector<Granule> plan;
    const int rc = co_await wait_idle(file);
    if (rc != 0) co_return rc;
    {
        const std::lock_guard guard(mutex_);
        plan_read(*inodes_.find(file.ino), block, block + 1, plan);
    }
    if (plan.empty()) co_return 0;
    const int read = co_await read_granules(file.ino, std::move(plan), block, out);
    co_return read;
}

namespace {

struct SpaceWait {
    std::mutex& mutex;
    std::vector<std::coroutine_handle<>>& waiters;
    std::condition_variable& cleaner;
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
        const std::lock_guard guard(mutex);
        waiters.push_back(waiter);
        cleaner.notify_one();
    }
    void await_resume() const {}
};

}  // namespace

// Sends the tail on its way: pads it, places it, maps it, starts the write. Does not wait for the device.
Async<int> Store::submit_tail(File& file) {
    if (!file.tail) co_return 0;
    const std::uint64_t start = file.tail.start;
    const std::uint64_t length = file.tail.end - start;
    const std::uint64_t padded = format::round_up(length, kBlock);
    if (padded != length) {
        std::byte* const rest = file.tail.buffer.data() + length;
        std::uint64_t size = 0;
        {
            const std::lock_guard guard(mutex_);
            size = inodes_.find(file.ino)->size;
        }
        if (size > file.tail.end) {  // the block's remainder belongs to the file already
            Buffer old = Buffer::heap(kBlock);
            const int rc = co_await load_block(file, file.tail.end / kBlock, old.data());
            if (rc != 0) {
                const std::lock_guard guard(mutex_);
                file.error = rc;
                discard_tail(file);
                co_return rc;
            }
            std::memcpy(rest, old.data() + file.tail.end % kBlock, padded - length);
        } else {
            std::memset(rest, 0, padded - length);
        }
    }
    const std::uint64_t first = start / kBlock;
    const std::uint64_t blocks = padded / kBlock;
    std::vector<Allocation> places;
    for (std::uint64_t placed = 0; placed < blocks;) {
        {
            const std::lock_guard guard(mutex_);
            // this space was promised when the bytes were taken: once cleaning is at its end, the reserve keeps the
            // promise
            const std::uint64_t floor = cleaner_stuck_ ? 2 : segments_.reserve();
            const auto got = segments_.allocate(static_cast<std::uint32_t>(blocks - placed), file.lease, floor);
            if (got) {
                if (got->opened) {
                    ++headers_in_flight_;
                    log_.writer().segment_open({got->segment, segments_.at(got->segment).generation,
                                                static_cast<std::uint32_t>(format::SegmentClass::kData), 0});
                    log_.commit();
                }
                ++segments_.at(got->segment).readers;
                placed += got->blocks;
                places.push_back(*got);
                continue;
            }
            if (cleaner_stuck_ || read_only_) {
                counters_.enospc.fetch_add(1, std::memory_order_relaxed);
                file.error = read_only_ ? -EIO : -ENOSPC;
                for (const Allocation& place : places) {
                    segments_.remove_live(place.segment, place.blocks, 0);
                    --segments_.at(place.segment).readers;
                    if (place.opened) --headers_in_flight_;
                }
                headers_done_.notify_all();
                discard_tail(file);
                co_return file.error;
            }
        }
        co_await SpaceWait{mutex_, space_waiters_, cleaner_wake_};
    }
    std::vector<std::uint64_t> generations;
    {
        const std::lock_guard guard(mutex_);
        for (const Allocation& place : places) generations.push_back(segments_.at(place.segment).generation);
    }
    const std::byte* data = file.tail.buffer.data();
    std::vector<Piece> pieces;
    std::uint64_t logical = first;
    for (std::size_t i = 0; i < places.size(); ++i) {
        const Allocation& place = places[i];
        Extent extent{place.segment, place.block, place.blocks, 0, place.blocks, {}};
        for (std::uint32_t at = 0; at < place.blocks; at += format::kGranuleBlocks) {
            const std::uint32_t n = std::min<std::uint32_t>(format::kGranuleBlocks, place.blocks - at);
            extent.checksums.push_back(checksum_({data, n * kBlock}, place.segment, generations[i], place.block + at));
            data += n * kBlock;
        }
        pieces.push_back({logical, std::move(extent)});
        logical += place.blocks;
    }
    std::shared_ptr<File> self;
    Buffer buffer;
    {
        const std::lock_guard guard(mutex_);
        self = files_.at(file.ino);
        buffer = std::move(file.tail.buffer);
        file.tail = Tail{};
        Inode& inode = *inodes_.find(file.ino);
        if (inodes_.mapped_blocks(inode) > 0 && inode.has(kLogged)) {
            inodes_.visit(inode, first, first + blocks, [&](std::uint64_t, const Extent&) { file.in_place = true; });
        }
        unmap(inode, file, first, first + blocks);
        for (Piece& piece : pieces) inodes_.insert(inode, piece.logical, std::move(piece.extent));
        file.changed.add(first, first + blocks);
        reserved_blocks_ -= blocks;
        tails_.remove(file.ino);
        ++file.in_flight;
    }
    uring::detach(write_run(std::move(self), std::move(buffer), std::move(places)), [](int) {});
    co_return 0;
}

Async<int> Store::write_run(std::shared_ptr<File> file, Buffer buffer, std::vector<Allocation> places) {
    uring::Batch batch(*ring_);
    std::vector<Buffer> headers;
    std::byte* data = buffer.data();
    for (const Allocation& place : places) {
        if (place.opened) {
            Buffer& header = headers.emplace_back(Buffer::heap(kBlock));
            {
                const std::lock_guard guard(mutex_);
                fill_segment_header(place.segment, format::SegmentClass::kData, header.data());
            }
            batch.add(uring::OpKind::kWrite, header.data(), kBlock, device_offset(place.segment, 0));
        }
        batch.add(uring::OpKind::kWrite, data, place.blocks * kBlock, device_offset(place.segment, place.block));
        data += place.blocks * kBlock;
    }
    const int rc = co_await batch;
    buffer.reset();  // before anybody is woken who may want it
    std::vector<std::coroutine_handle<>> ready;
    {
        const std::lock_guard guard(mutex_);
        data_unflushed_ = true;
        for (const Allocation& place : places) --segments_.at(place.segment).readers;
        headers_in_flight_ -= static_cast<std::uint32_t>(headers.size());
        if (rc != 0) {
            counters_.write_errors.fetch_add(1, std::memory_order_relaxed);
            file->error = -EIO;
        }
        if (--file->in_flight == 0) ready.swap(file->idle_waiters);
        if (file->in_flight == 0 && file->handles == 0) drop_file_if_idle(file->ino);
    }
    if (!headers.empty()) headers_done_.notify_all();
    if (rc != 0) say(40, "a write to the device failed: " + std::string(std::strerror(-rc)));
    for (const auto handle : ready) handle.resume();
    co_return rc;
}

// calls ----------------------------------------------------------------------------

Async<std::int64_t> Store::write(std::uint64_t ino, std::uint64_t offset, std::span<const std::byte> data) {
    if (offset > kMaxFileBytes || data.size() > kMaxFileBytes - offset) co_return -EFBIG;
    std::shared_ptr<File> file;
    {
        const std::lock_guard guard(mutex_);
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr) co_return -ENOENT;
        if (!inode->is_regular()) co_return inode->is_directory() ? -EISDIR : -EINVAL;
        if (read_only_) co_return log_error_ != 0 ? -EIO : -EROFS;
        if (data.empty()) co_return 0;
        file = file_of(static_cast<InodeNumber>(ino));
    }
    co_await file->lock.lock();
    const Held held(file);
    if (file->error != 0) co_return file->error;
    // all of it or none: what does not fit must not leave half a page behind
    const auto fits = [&] {
        const std::uint64_t needed = blocks_needed(*file, offset, data.size());
        return needed == 0 || has_space(needed);  // what was promised is not asked for twice
    };
    bool has_room = false;
    {
        const std::lock_guard guard(mutex_);
        has_room = fits();
    }
    if (!has_room) {
        const int rc = co_await make_room(*file, fits);
        if (rc != 0) co_return rc;
    }
    const std::size_t capacity = write_pool_->size();
    std::uint64_t at = offset;
    for (std::size_t done = 0; done < data.size();) {
        Tail& tail = file->tail;
        if (tail && (at < tail.start || at > tail.end || at >= tail.start + capacity)) {
            const int rc = co_await submit_tail(*file);
            if (rc != 0) co_return rc;
        }
        if (!tail) {
            Buffer buffer = write_pool_->try_acquire();
            if (!buffer) {
                reclaim_tail();
                buffer = co_await write_pool_->acquire();
            }
            const std::uint64_t start = at / kBlock * kBlock;
            if (at != start) {
                const int rc = co_await load_block(*file, start / kBlock, buffer.data());
                if (rc != 0) co_return rc;
            }
            const std::lock_guard guard(mutex_);
            tail.buffer = std::move(buffer);
            tail.start = start;
            tail.end = at;
            reserved_blocks_ += (at - start + kBlock - 1) / kBlock;
            tails_.push_back(file->ino);
        }
        const std::size_t n = std::min<std::uint64_t>(data.size() - done, tail.start + capacity - at);
        std::memcpy(tail.buffer.data() + (at - tail.start), data.data() + done, n);
        {
            const std::lock_guard guard(mutex_);
            Inode& inode = *inodes_.find(ino);
            const std::uint64_t before = (tail.end - tail.start + kBlock - 1) / kBlock;
            tail.end = std::max(tail.end, at + n);
            reserved_blocks_ += (tail.end - tail.start + kBlock - 1) / kBlock - before;
            release_promise(*file, tail.start / kBlock, (tail.end + kBlock - 1) / kBlock);
            if (offset > inode.size) file->in_place = true;  // it leaves a hole: not a page written front to back
            inode.size = std::max(inode.size, at + n);
            inode.mtime_ns = inode.ctime_ns = now_ns();
            mark_dirty(*file);
        }
        at += n;
        done += n;
        if (tail.end == tail.start + capacity) {
            const int rc = co_await submit_tail(*file);
            if (rc != 0) co_return rc;
        }
    }
    counters_.writes.fetch_add(1, std::memory_order_relaxed);
    counters_.write_bytes.fetch_add(data.size(), std::memory_order_relaxed);
    co_return static_cast<std::int64_t>(data.size());
}

Async<std::int64_t> Store::write(std::uint64_t ino, std::uint64_t offset, Buffer buffer, std::size_t at,
                                 std::size_t size) {
    const std::int64_t rc = co_await write(ino, offset, std::span<const std::byte>(buffer.data() + at, size));
    co_return rc;
}

Async<int> Store::truncate(std::uint64_t ino, std::uint64_t size) {
    if (size > kMaxFileBytes) co_return -EFBIG;
    std::shared_ptr<File> file;
    {
        const std::lock_guard guard(mutex_);
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr) co_return -ENOENT;
        if (!inode->is_regular()) co_return inode->is_directory() ? -EISDIR : -EINVAL;
        if (read_only_) co_return -EROFS;
        file = file_of(static_cast<InodeNumber>(ino));
    }
    bool unused = false;
    {
        co_await file->lock.lock();
        const Held held(file);
        if (size == 0) {
            const std::lock_guard guard(mutex_);
            discard_tail(*file);
            file->error = 0;  // nothing of what failed is left
        }
        int rc = co_await submit_tail(*file);
        if (rc != 0) co_return rc;
        Buffer edge;
        std::uint64_t old = 0;
        {
            const std::lock_guard guard(mutex_);
            old = inodes_.find(ino)->size;
        }
        if (size < old && size % kBlock != 0) {
            // what lies behind the new end in its block must read as zeros if the file grows again
            edge = write_pool_->try_acquire();
            if (!edge) {
                reclaim_tail();
                edge = co_await write_pool_->acquire();
            }
            rc = co_await load_block(*file, size / kBlock, edge.data());
            if (rc != 0) co_return rc;
        }
        const std::lock_guard guard(mutex_);
        Inode& inode = *inodes_.find(ino);
        if (size < inode.size) {
            bool mapped = false;
            const std::uint64_t keep = size / kBlock;
            inodes_.visit(inode, keep, keep + 1, [&](std::uint64_t, const Extent&) { mapped = true; });
            unmap(inode, *file, keep, ~std::uint64_t{0});
            file->keep_blocks = std::min(file->keep_blocks, keep);
            if (edge && mapped) {
                file->tail.buffer = std::move(edge);
                file->tail.start = keep * kBlock;
                file->tail.end = size;
                ++reserved_blocks_;
                tails_.push_back(file->ino);
            }
        }
        if (size == inode.size) release_promise(*file, (size + kBlock - 1) / kBlock, ~std::uint64_t{0});
        if (size != 0 && size != inode.size) file->in_place = true;
        inode.size = size;
        inode.mtime_ns = inode.ctime_ns = now_ns();
        mark_dirty(*file);
        unused = file->handles == 0;
    }
    // truncate(2) by path: there is no close to publish it
    if (unused) {
        const int rc = co_await finish_release(static_cast<InodeNumber>(ino));
        co_return rc;
    }
    co_return 0;
}

Async<int> Store::flush_locked(File& file) {
    int rc = co_await submit_tail(file);
    const int idle = co_await wait_idle(file);
    if (rc == 0) rc = idle;
    if (rc != 0) co_return rc;
    const std::lock_guard guard(mutex_);
    if (file.dirty) commit(file);
    co_return 0;
}

Async<int> Store::flush(std::uint64_t ino) {
    std::shared_ptr<File> file;
    {
        const std::lock_guard guard(mutex_);
        file = find_file(static_cast<InodeNumber>(ino));
        if (!file || (!file->dirty && !file->tail && file->in_flight == 0)) co_return file ? file->error : 0;
    }
    counters_.flushes.fetch_add(1, std::memory_order_relaxed);
    int rc = 0;
    {
        co_await file->lock.lock();
        const Held held(file);
        rc = co_await flush_locked(*file);
    }
    const std::lock_guard guard(mutex_);
    if (file->handles == 0) drop_file_if_idle(file->ino);
    co_return rc;
}

Async<int> Store::fsync(std::uint64_t ino) {
    counters_.fsyncs.fetch_add(1, std::memory_order_relaxed);
    int rc = co_await flush(ino);
    if (rc != 0) co_return rc;
    std::uint64_t lsn = 0;
    {
        const std::lock_guard guard(mutex_);
        if (read_only_) co_return log_error_;
        lsn = log_.appended();
    }
    rc = co_await durable(lsn);
    co_return rc;
}

Async<int> Store::sync() {
    std::vector<InodeNumber> open;
    {
        const std::lock_guard guard(mutex_);
        for (const auto& [ino, file] : files_) open.push_back(ino);
    }
    int first = 0;
    for (const InodeNumber ino : open) {
        const int rc = co_await flush(ino);
        if (first == 0) first = rc;
    }
    std::uint64_t lsn = 0;
    {
        const std::lock_guard guard(mutex_);
        if (read_only_) co_return first != 0 ? first : log_error_;
        lsn = log_.appended();
    }
    const int rc = co_await durable(lsn);
    co_return first != 0 ? first : rc;
}

}  // namespace kvfs::store
