// Bytes on their way in.
//
// Large block-aligned writes out of a buffer of their own: placed, checksummed and sent from that buffer. Anything
// else: copied into the file's tail (tails.cpp). Then, either way, a run of blocks in a segment, mapped, and on its way
// to the device (placing.hpp); flush -> the log (commit.cpp).
//
// A file's `lock` is held across everything here that changes its bytes, so writes, truncations and flushes of one file
// follow each other; different files meet only at the mutex, the pools and the rings. A write out of its own buffer
// holds it only to map what it has placed and checksummed: several of them go on side by side.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/admission.hpp"
#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::size_t kLeastInPlace = std::size_t{256} << 10;  // below this, joining writes pays more than a copy costs

std::uint64_t blocks_of(std::uint64_t offset, std::uint64_t size) {
    return (offset + size + kBlock - 1) / kBlock - offset / kBlock;
}

}  // namespace

// Space that a write was promised and has not used yet. Given back when the write ends, however it ends.
class Store::Reservation {
public:
    explicit Reservation(Store& store) : store_(store) {}
    ~Reservation() {
        if (blocks == 0) return;
        const std::lock_guard guard(store_.mutex_);
        store_.reserved_blocks_ -= blocks;
    }
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    // All or nothing, `wanted` blocks of which fallocate has set `promised` aside already. The mutex is held.
    bool take(std::uint64_t wanted, std::uint64_t promised) {
        if (wanted > promised && !store_.has_space(wanted - promised)) return false;
        blocks = wanted;
        store_.reserved_blocks_ += wanted;
        return true;
    }
    // Whatever it was for has been counted elsewhere.
    void used() { blocks = 0; }

    std::uint64_t blocks = 0;

private:
    Store& store_;
};

// The mutex is held: the file of a call that changes it, or why there is none.
int Store::writable_file(std::uint64_t ino, InUse& out) {
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (!inode->is_regular()) return inode->is_directory() ? -EISDIR : -EINVAL;
    if (read_only_) return refusal();
    out = InUse(*this, file_of(static_cast<InodeNumber>(ino)));
    return out->error;
}

// Of a write's blocks, those that its file's tail does not hold already. The mutex is held.
std::uint64_t Store::blocks_beyond_tail(const File& file, std::uint64_t offset, std::uint64_t size) const {
    const std::uint64_t from = offset / kBlock;
    const std::uint64_t blocks = blocks_of(offset, size);
    const Tail& tail = file.tail;
    if (!tail || offset < tail.start || offset > tail.end || offset >= tail.start + tail.buffer.size()) return blocks;
    const std::uint64_t tail_end = (tail.end + kBlock - 1) / kBlock;
    return tail_end <= from ? blocks : blocks - std::min(blocks, tail_end - from);
}

// What the file's attributes are after a write of [offset, end). The mutex is held.
void Store::note_written(Inode& inode, File& file, std::uint64_t offset, std::uint64_t end) {
    if (offset > inode.size) file.in_place = true;  // it leaves a hole: not a page written front to back
    inode.size = std::max<std::uint64_t>(inode.size, end);
    inodes_.modified(inode, now_ns());
    mark_dirty(file);
}

Async<std::int64_t> Store::write_now(std::uint64_t ino, std::uint64_t offset, std::span<const std::byte> data,
                                     Borrowed* lender) {
    if (offset > kMaxFileBytes || data.size() > kMaxFileBytes - offset) co_return -EFBIG;
    InUse file;
    Admission admission(*this, file);
    Reservation reservation(*this);
    {
        const std::lock_guard guard(mutex_);
        const int rc = writable_file(ino, file);
        if (rc != 0) co_return rc;
        if (data.empty()) co_return 0;
    }
    co_await file->lock.lock();
    const uring::AsyncMutex::Held held(file->lock);
    if (file->error != 0) co_return file->error;
    // all of it or none: what does not fit must not leave half a page behind
    const auto take = [&] {
        const std::uint64_t from = offset / kBlock;
        return reservation.take(blocks_beyond_tail(*file, offset, data.size()),
                                file->promised.count(from, from + blocks_of(offset, data.size())));
    };
    bool fits = false;
    {
        const std::lock_guard guard(mutex_);
        const std::uint64_t from = offset / kBlock;
        if (Quota* const full = admission.take(from, from + blocks_of(offset, data.size()))) co_return refuse(*full);
        fits = take();
    }
    if (!fits) {
        const int rc = co_await make_room(*file, blocks_of(offset, data.size()), take);
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
            Buffer buffer = co_await tail_buffer();
            const std::uint64_t start = at / kBlock * kBlock;
            if (at != start) {
                const int rc = co_await load_block(*file, start / kBlock, buffer.data());
                if (rc != 0) co_return rc;
            }
            const std::lock_guard guard(mutex_);
            tail.buffer = std::move(buffer);
            tail.start = start;
            tail.end = at;
            reservation.blocks -= (at - start + kBlock - 1) / kBlock;  // the tail's now
            tails_.add(*file);
        }
        const std::size_t n = std::min<std::uint64_t>(data.size() - done, tail.start + capacity - at);
        const auto copy = [&] { std::memcpy(tail.buffer.data() + (at - tail.start), data.data() + done, n); };
        if (lender == nullptr) {
            copy();
        } else if (!lender->use(copy)) {
            co_return -EIO;
        }
        {
            const std::lock_guard guard(mutex_);
            const std::uint64_t before = (tail.end - tail.start + kBlock - 1) / kBlock;
            tail.end = std::max(tail.end, at + n);
            reservation.blocks -= (tail.end - tail.start + kBlock - 1) / kBlock - before;
            release_promise(*file, tail.start / kBlock, (tail.end + kBlock - 1) / kBlock);
            note_written(*inodes_.find(ino), *file, offset, at + n);
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

Async<std::int64_t> Store::write_now(std::uint64_t ino, std::uint64_t offset, Buffer buffer, std::size_t at,
                                     std::size_t size) {
    const std::span<const std::byte> data(buffer.data() + at, size);
    const std::size_t padded = format::round_up(size, kBlock);
    std::int64_t rc = -EAGAIN;
    const bool aligned = offset % kBlock == 0 && reinterpret_cast<std::uintptr_t>(data.data()) % kBlock == 0;
    if (aligned && size >= kLeastInPlace && at + padded <= buffer.size() && offset <= kMaxFileBytes - padded) {
        rc = co_await write_in_place(ino, offset, buffer, at, size);
    }
    if (rc == -EAGAIN) rc = co_await write_now(ino, offset, data, nullptr);
    co_return rc;
}

// Takes the buffer when it succeeds. -EAGAIN, and nothing has happened, when the bytes have to be copied after all.
//
// Why the lock is needed for mapping at all: whoever holds it may be between reading a block's old content and mapping
// the block with it, and would bring those bytes back over ours.
Async<std::int64_t> Store::write_in_place(std::uint64_t ino, std::uint64_t offset, Buffer& buffer, std::size_t at,
                                          std::size_t size) {
    const std::uint64_t blocks = blocks_of(offset, size);
    const bool partial = size % kBlock != 0;
    InUse file;
    Admission admission(*this, file);
    Reservation reservation(*this);
    {
        const std::lock_guard guard(mutex_);
        const int rc = writable_file(ino, file);
        if (rc != 0) co_return rc;
        // the last block's remainder is somebody's already; or there is no space just like that
        if (partial && inodes_.find(ino)->size > offset + size) co_return -EAGAIN;
        const std::uint64_t from = offset / kBlock;
        if (admission.take(from, from + blocks) != nullptr) co_return -EAGAIN;
        if (!reservation.take(blocks, file->promised.count(from, from + blocks))) co_return -EAGAIN;
        reservation.used();  // place() counts it down
    }
    auto flight = std::make_unique<Flight>();
    int rc = co_await place(*file, static_cast<std::uint32_t>(blocks), flight->places);
    if (rc != 0) co_return rc;
    std::byte* const data = buffer.data() + at;
    std::memset(data + size, 0, format::round_up(size, kBlock) - size);
    Pieces pieces;
    checksum_places(flight->places, offset / kBlock, data, pieces);
    {
        co_await file->lock.lock();
        const uring::AsyncMutex::Held held(file->lock);
        rc = co_await submit_tail(*file);
        const std::lock_guard guard(mutex_);
        Inode& inode = *inodes_.find(ino);
        if (rc == 0) rc = file->error;
        if (rc == 0 && partial && inode.size > offset + size) rc = -EAGAIN;
        if (rc != 0) {
            give_up_places(flight->places);
            co_return rc;
        }
        flight->file = file.shared();
        flight->from = offset / kBlock;
        flight->to = flight->from + blocks;
        flight->buffer = std::move(buffer);
        flight->data = data;
        map_flight(inode, *flight, pieces);
        note_written(inode, *file, offset, offset + size);
    }
    launch(std::move(flight));
    counters_.writes.fetch_add(1, std::memory_order_relaxed);
    counters_.write_bytes.fetch_add(size, std::memory_order_relaxed);
    co_return static_cast<std::int64_t>(size);
}

Async<int> Store::truncate_now(std::uint64_t ino, std::uint64_t size) {
    if (size > kMaxFileBytes) co_return -EFBIG;
    InUse file;
    {
        const std::lock_guard guard(mutex_);
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr) co_return -ENOENT;
        if (!inode->is_regular()) co_return inode->is_directory() ? -EISDIR : -EINVAL;
        if (inode->has(kEvicted)) co_return -ESTALE;
        if (read_only_) co_return -EROFS;
        file = InUse(*this, file_of(static_cast<InodeNumber>(ino)));
    }
    bool unused = false;
    {
        co_await file->lock.lock();
        const uring::AsyncMutex::Held held(file->lock);
        if (size == 0) {
            const std::lock_guard guard(mutex_);
            discard_tail(*file);
            file->error = 0;  // nothing of what failed is left
            file->is_lost = false;
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
            edge = co_await tail_buffer();
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
                tails_.add(*file);
            }
        }
        if (size == inode.size) release_promise(*file, (size + kBlock - 1) / kBlock, ~std::uint64_t{0});
        if (size != 0 && size != inode.size) file->in_place = true;
        inode.size = size;
        inodes_.modified(inode, now_ns());
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

}  // namespace kvfs::store
