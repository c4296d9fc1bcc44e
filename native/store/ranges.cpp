// Ranges of a file: setting space aside, zeroing, finding data and holes, copying.
//
// What fallocate promises. Blocks of the range that are neither mapped nor in the tail are counted as taken
// (reserved_blocks_) until each is written, unmapped by a truncation or a punch, or until the last handle goes. A
// promise is a count and no place: where a block goes is decided when it is written, as for every other block, so that
// a preallocated page is as contiguous as one that was not, and nothing has to be cleaned for space that may never be
// used. It is not logged: a crash or a close forgets it, because a file that nobody has open must not keep a full store
// full of nothing. It covers a block's first write. Writing over a block needs a free one until the next commit,
// promise or not: that is the price of copy-on-write.
//
// Crash rules are those of truncate: a changed size and unmapped blocks are uncommitted changes of the file (`changed`,
// `replaced`), published by the next commit; a crash before it brings the old version back.
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/admission.hpp"
#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;

constexpr std::uint64_t kCopyPiece = std::uint64_t{1} << 20;
// Data copied by one call: whoever waits for a FUSE reply cannot be killed, and a short copy is a valid answer.
constexpr std::uint64_t kCopyMost = std::uint64_t{256} << 20;
constexpr std::uint64_t kFirstWindow = 1024;  // blocks looked at first by seek; twice as many each time

constexpr std::uint64_t block_of(std::uint64_t offset) { return offset / kBlock; }
constexpr std::uint64_t block_after(std::uint64_t offset) { return (offset + kBlock - 1) / kBlock; }

}  // namespace

// promises (the mutex is held) -----------------------------------------------------------

void Store::promise(File& file, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& ranges) {
    for (const auto& [from, to] : ranges) {
        file.promised.add(from, to);
        reserved_blocks_ += to - from;
    }
}

void Store::release_promise(File& file, std::uint64_t from, std::uint64_t to) {
    if (!file.promised.empty()) reserved_blocks_ -= file.promised.remove(from, to);
}

// The parts of [from, to) that nothing is set aside for.
std::vector<std::pair<std::uint64_t, std::uint64_t>> Store::without_space(const File& file, std::uint64_t from,
                                                                          std::uint64_t to) {
    Ranges provided;
    for (const auto& [start, end] : file.promised.all()) provided.add(start, end);
    if (file.tail) provided.add(block_of(file.tail.start), block_after(file.tail.end));
    inodes_.visit(*inodes_.find(file.ino), from, to,
                  [&](std::uint64_t logical, const Extent& extent) { provided.add(logical, logical + extent.blocks); });
    return provided.missing(from, to);
}

// `take`, called with the mutex held, says whether there is room now; it wants about `blocks`. When there is not, cold
// files go in evict mode. Versions that pool files replaced since their last commit may then be all that is in the way,
// and are let go of. 0 or -errno.
Async<int> Store::make_room(File& file, std::uint64_t blocks, std::function<bool()> take) {
    constexpr std::uint64_t kFilesPerHold = 64;  // of the mutex
    for (;;) {
        const std::lock_guard guard(mutex_);
        if (take()) co_return 0;
        if (!evicts_ || !could_have_space(blocks)) break;
        const Evicted gone = evict_some(std::max<std::uint64_t>(blocks, 1), kFilesPerHold, EvictReason::kSpace, {});
        evicted_by_writers_ += gone.files;
        if (gone.files == 0) break;
    }
    std::vector<InodeNumber> holding;
    {
        const std::lock_guard guard(mutex_);
        if (take()) co_return 0;
        for (const auto& [other, state] : files_) {
            // locked files are left out, this one among them: two that wait for each other's lock would wait for ever
            if (state->in_place && !state->replaced.empty() && !state->lock.is_held()) holding.push_back(other);
        }
    }
    for (const InodeNumber other : holding) co_await flush_now(other);
    bool has_own = false;
    {
        const std::lock_guard guard(mutex_);
        if (take()) co_return 0;
        has_own = file.in_place && !file.replaced.empty();
    }
    if (has_own) {
        const int rc = co_await flush_locked(file);
        if (rc != 0) co_return rc;
        const std::lock_guard guard(mutex_);
        if (take()) co_return 0;
    }
    counters_.enospc.fetch_add(1, std::memory_order_relaxed);
    co_return -ENOSPC;
}

// fallocate ----------------------------------------------------------------------------------

Async<int> Store::promise_range(File& file, std::uint64_t offset, std::uint64_t end, bool keep_size) {
    const auto missing_blocks = [&](const auto& missing) {
        std::uint64_t blocks = 0;
        for (const auto& [from, to] : missing) blocks += to - from;
        return blocks;
    };
    std::uint64_t wanted = 0;
    {
        const std::lock_guard guard(mutex_);
        wanted = missing_blocks(without_space(file, block_of(offset), block_after(end)));
    }
    const int rc = co_await make_room(file, wanted, [&] {
        const auto missing = without_space(file, block_of(offset), block_after(end));
        if (!has_space(missing_blocks(missing))) return false;
        if (file.handles != 0) promise(file, missing);
        return true;
    });
    if (rc != 0) co_return rc;
    const std::lock_guard guard(mutex_);
    Inode& inode = *inodes_.find(file.ino);
    if (!keep_size && end > inode.size) {
        inode.size = end;
        inodes_.modified(inode, now_ns());
        file.in_place = true;
        mark_dirty(file);
    }
    co_return 0;
}

// Bytes [from, to) of one block become zeros: the block is written anew. Nothing to do where nothing is mapped.
Async<int> Store::zero_edge(File& file, std::uint64_t from, std::uint64_t to) {
    const std::uint64_t block = block_of(from);
    std::uint64_t size = 0;
    bool mapped = false;
    {
        const std::lock_guard guard(mutex_);
        const Inode& inode = *inodes_.find(file.ino);
        size = inode.size;
        inodes_.visit(inode, block, block + 1, [&](std::uint64_t, const Extent&) { mapped = true; });
    }
    if (!mapped || from >= to) co_return 0;
    Buffer buffer = co_await tail_buffer();
    int rc = co_await load_block(file, block, buffer.data());
    if (rc != 0) co_return rc;
    std::memset(buffer.data() + from % kBlock, 0, to - from);
    {
        const std::lock_guard guard(mutex_);
        file.tail.buffer = std::move(buffer);
        file.tail.start = block * kBlock;
        file.tail.end = std::min(size, (block + 1) * kBlock);
        ++reserved_blocks_;
        tails_.add(file);
        mark_dirty(file);
    }
    rc = co_await submit_tail(file);
    co_return rc;
}

// [offset, end) reads as zeros from here on: whole blocks are unmapped, the edges written. With `promise` the range's
// space stays the file's.
Async<int> Store::zero_range(File& file, std::uint64_t offset, std::uint64_t end, bool keep_size, bool keep_space) {
    int rc = co_await submit_tail(file);
    if (rc != 0) co_return rc;
    std::uint64_t size = 0;
    {
        const std::lock_guard guard(mutex_);
        size = inodes_.find(file.ino)->size;
    }
    const std::uint64_t first = block_after(offset);
    // what lies behind the file's end in its last block is zeros already: the block goes whole
    const std::uint64_t last = end >= size ? block_after(end) : block_of(end);
    const std::uint64_t head_end = std::min({end, first * kBlock, size});
    const bool has_head = offset < head_end;
    const bool has_foot = last >= first && last * kBlock < end;
    // space first: what is refused changes nothing
    rc = co_await make_room(file, keep_space ? last - std::min(first, last) + 2 : 2, [&] {
        std::uint64_t edges = 0;
        const auto count = [&](std::uint64_t, const Extent&) { ++edges; };
        const Inode& inode = *inodes_.find(file.ino);
        if (has_head) inodes_.visit(inode, block_of(offset), block_of(offset) + 1, count);
        if (has_foot) inodes_.visit(inode, last, last + 1, count);
        if (!keep_space || file.handles == 0) return edges == 0 || has_space(edges);
        const auto missing = without_space(file, block_of(offset), block_after(end));
        std::uint64_t blocks = edges;
        for (const auto& [from, to] : missing) blocks += to - from;
        if (blocks != 0 && !has_space(blocks)) return false;
        promise(file, missing);
        return true;
    });
    if (rc == 0 && has_head) rc = co_await zero_edge(file, offset, head_end);
    if (rc == 0 && has_foot) rc = co_await zero_edge(file, last * kBlock, end);
    if (rc != 0) co_return rc;
    bool is_crowded = false;
    {
        const std::lock_guard guard(mutex_);
        Inode& inode = *inodes_.find(file.ino);
        if (first < last) {
            unmap(inode, file, first, last);
            if (keep_space && file.handles != 0) promise(file, without_space(file, first, last));
        }
        if (!keep_size) inode.size = std::max<std::uint64_t>(inode.size, end);
        inodes_.modified(inode, now_ns());
        file.in_place = true;
        mark_dirty(file);
        is_crowded = keep_space && !has_space(0);
    }
    // the versions just replaced and the promise to replace them do not fit beside each other: the former go
    if (is_crowded) rc = co_await flush_locked(file);
    co_return rc;
}

Async<int> Store::change_range(std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t end) {
    InUse file;
    {
        const std::lock_guard guard(mutex_);
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr) co_return -ENOENT;
        if (!inode->is_regular()) co_return inode->is_directory() ? -EISDIR : -ENODEV;
        if (read_only_) co_return refusal();
        file = InUse(*this, file_of(static_cast<InodeNumber>(ino)));
    }
    const bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
    const int what = mode & ~FALLOC_FL_KEEP_SIZE;
    Admission admission(*this, file);
    bool is_unused = false;
    {
        co_await file->lock.lock();
        const uring::AsyncMutex::Held held(file->lock);
        int rc = file->error;
        if (rc == 0 && (what == 0 || what == FALLOC_FL_ZERO_RANGE)) {
            const std::lock_guard guard(mutex_);
            if (Quota* const full = admission.take(block_of(offset), block_after(end))) rc = refuse(*full);
        }
        if (rc == 0 && what == 0) rc = co_await promise_range(*file, offset, end, keep_size);
        if (rc == 0 && what != 0) {
            rc = co_await zero_range(*file, offset, end, keep_size, what == FALLOC_FL_ZERO_RANGE);
        }
        if (rc != 0) co_return rc;
        const std::lock_guard guard(mutex_);
        is_unused = file->handles == 0;
    }
    // nobody has it open: there is no close to publish it
    if (is_unused) {
        const int rc = co_await finish_release(static_cast<InodeNumber>(ino));
        co_return rc;
    }
    co_return 0;
}

Async<int> Store::fallocate_now(std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t length) {
    const int what = mode & ~FALLOC_FL_KEEP_SIZE;
    const bool is_punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    if (what != 0 && what != FALLOC_FL_ZERO_RANGE && !is_punch) co_return -EOPNOTSUPP;
    if (length == 0) co_return -EINVAL;
    if (offset > kMaxFileBytes || length > kMaxFileBytes - offset) co_return -EFBIG;
    const int rc = co_await change_range(ino, mode, offset, offset + length);
    co_return rc;
}

// seek -----------------------------------------------------------------------------------------

// The first block in [from, to) that holds data, or that does not; `to` when there is none. The mutex is held.
std::uint64_t Store::next_block(const Inode& inode, const File* file, std::uint64_t from, std::uint64_t to, bool data) {
    // in windows, because a map may have a million extents of which the first is the answer
    for (std::uint64_t span = kFirstWindow; from < to; span *= 2) {
        const std::uint64_t stop = std::min(to, from + span);
        Ranges present;
        const auto add = [&](std::uint64_t start, std::uint64_t end) {
            present.add(std::max(start, from), std::min(end, stop));
        };
        inodes_.visit(inode, from, stop,
                      [&](std::uint64_t logical, const Extent& extent) { add(logical, logical + extent.blocks); });
        if (file != nullptr && file->tail) add(block_of(file->tail.start), block_after(file->tail.end));
        if (data) {
            if (!present.empty()) return present.all().begin()->first;
        } else if (const auto holes = present.missing(from, stop); !holes.empty()) {
            return holes.front().first;
        }
        from = stop;
    }
    return to;
}

Async<std::int64_t> Store::seek(std::uint64_t ino, std::uint64_t offset, int whence) {
    if (whence != SEEK_DATA && whence != SEEK_HOLE) co_return -EINVAL;
    const std::lock_guard guard(mutex_);
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr) co_return -ENOENT;
    if (!inode->is_regular()) co_return inode->is_directory() ? -EISDIR : -EINVAL;
    if (offset >= inode->size) co_return -ENXIO;
    const auto file = find_file(static_cast<InodeNumber>(ino));
    const std::uint64_t end = block_after(inode->size);
    const std::uint64_t block = next_block(*inode, file.get(), block_of(offset), end, whence == SEEK_DATA);
    if (block == end && whence == SEEK_DATA) co_return -ENXIO;
    co_return static_cast<std::int64_t>(std::min<std::uint64_t>(inode->size, std::max(offset, block * kBlock)));
}

// copy -----------------------------------------------------------------------------------------

// Piece by piece, by the read and the write that everybody uses: a writer that is at work in either file at the same
// time may be seen between two pieces, as with any copy. Holes stay holes.
Async<std::int64_t> Store::copy_range_now(std::uint64_t ino_in, std::uint64_t offset_in, std::uint64_t ino_out,
                                          std::uint64_t offset_out, std::uint64_t length) {
    {
        const std::lock_guard guard(mutex_);
        const Inode* in = inodes_.find(ino_in);
        const Inode* out = inodes_.find(ino_out);
        if (in == nullptr || out == nullptr) co_return -ENOENT;
        if (in->is_directory() || out->is_directory()) co_return -EISDIR;
        if (!in->is_regular() || !out->is_regular()) co_return -EINVAL;
        if (read_only_) co_return refusal();
        length = offset_in < in->size ? std::min(length, in->size - offset_in) : 0;
    }
    if (length == 0) co_return 0;
    if (ino_in == ino_out && offset_in < offset_out + length && offset_out < offset_in + length) co_return -EINVAL;
    if (offset_out > kMaxFileBytes || length > kMaxFileBytes - offset_out) co_return -EFBIG;
    std::uint64_t done = 0;
    std::uint64_t copied = 0;  // of `done`, what was not a hole
    std::int64_t error = 0;
    while (done < length && copied < kCopyMost) {
        const std::uint64_t at = offset_in + done;
        Attributes source{};
        error = getattr(ino_in, source);
        if (error != 0 || at >= source.size) break;  // cut off meanwhile: what is done is done
        const std::int64_t data = co_await seek(ino_in, at, SEEK_DATA);
        const std::uint64_t hole_end = data < 0 ? source.size : static_cast<std::uint64_t>(data);
        if (hole_end > at) {
            const std::uint64_t hole = std::min(hole_end - at, length - done);
            error = co_await change_range(ino_out, FALLOC_FL_PUNCH_HOLE, offset_out + done, offset_out + done + hole);
            if (error != 0) break;
            done += hole;
            continue;
        }
        const std::int64_t data_end = co_await seek(ino_in, at, SEEK_HOLE);
        if (data_end < 0) break;  // cut off meanwhile
        // whole pieces of the source, so that no checksummed unit of a file written in one go is read twice
        const std::uint64_t size =
            std::min({length - done, kCopyPiece - at % kCopyPiece, static_cast<std::uint64_t>(data_end) - at});
        const ReadOutcome got = co_await read_now(ino_in, at, size);
        error = got.error;
        if (error != 0 || got.data.size == 0) break;
        error = co_await write_now(ino_out, offset_out + done,
                                   {got.data.buffer.data() + got.data.offset, got.data.size}, nullptr);
        if (error < 0) break;
        done += static_cast<std::uint64_t>(error);
        copied += static_cast<std::uint64_t>(error);
        error = 0;
    }
    co_return done > 0 ? static_cast<std::int64_t>(done) : error;
}

}  // namespace kvfs::store
