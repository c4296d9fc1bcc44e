// Tails: bytes that were copied and wait for more, so that small writes reach the device as large ones.
//
// Their buffers come from a pool of their own. A tail keeps its buffer while nothing happens to its file, so it must
// never be one of those that requests of the kernel come in: with all of them in idle tails, the request that would end
// one could not be received. Who finds this pool empty sends the oldest tail on its way (reclaim_tail), which needs no
// buffer.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/granule.hpp"
#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::int64_t kPoolCommitAge = 30'000'000'000;  // as the kernel's dirty_expire
constexpr std::size_t kPoolCommitRanges = 4096;          // more would keep everybody waiting while they are logged
constexpr std::uint64_t kPoolRoom = 256;                 // blocks

}  // namespace

// The mutex and the file's lock are held, here and in discard_tail().
void Store::clear_tail(File& file) {
    tails_.remove(file);
    file.tail = Tail{};
}

void Store::discard_tail(File& file) {
    if (!file.tail) return;
    reserved_blocks_ -= (file.tail.end - file.tail.start + kBlock - 1) / kBlock;
    clear_tail(file);
}

Async<Buffer> Store::tail_buffer() {
    Buffer buffer = write_pool_->try_acquire();
    if (!buffer && is_device_slow()) {  // which may keep them
        buffer = Buffer::heap(write_pool_->size());
    } else if (!buffer) {
        // said before the search: whoever leaves a tail behind after it sees that, and sends it on its way
        tail_buffers_wanted_.fetch_add(1);
        reclaim_tail();
        buffer = co_await write_pool_->acquire();
        tail_buffers_wanted_.fetch_sub(1);
    }
    co_return buffer;
}

// Every buffer is some file's tail: the oldest one goes to the device. The mutex is not held.
void Store::reclaim_tail() {
    InUse victim;
    {
        const std::lock_guard guard(mutex_);
        File* file = tails_.oldest();
        while (file != nullptr && file->lock.is_held()) file = file->tail_next;
        // all are at the device, where they come back from by themselves, or under a lock (see InUse)
        if (file == nullptr) return;
        victim = InUse(*this, files_.at(file->ino));
    }
    const auto push = [](Store& store, InUse file) -> Async<int> {
        co_await file->lock.lock();
        const uring::AsyncMutex::Held held(file->lock);
        const int rc = co_await store.submit_tail(*file);
        co_return rc;
    };
    in_background(push(*this, std::move(victim)));
}

// The old versions of what was written over since the last commit take a good part of what is free, or what changed
// would take long to log. The mutex is held.
bool Store::is_settling_due(const File& file) const {
    if (!file.dirty || !file.in_place || file.settling) return false;
    const std::uint64_t room = segments_.data_capacity() - std::min(segments_.data_capacity(), segments_.live_blocks());
    return file.changed.all().size() > kPoolCommitRanges || file.replaced.blocks() > std::max(kPoolRoom, room / 4);
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
    for (const InodeNumber ino : aged) in_background(flush_now(ino));
    guard.lock();
}

// The present content of one block of the file: zeros where nothing is mapped. The file's lock is held.
Async<int> Store::load_block(File& file, std::uint64_t block, std::byte* out) {
    std::memset(out, 0, kBlock);
    const int rc = co_await wait_landed(file, block, block + 1);
    if (rc != 0) co_return rc;
    Plan plan;
    {
        const std::lock_guard guard(mutex_);
        plan_read(*inodes_.find(file.ino), block, block + 1, plan);
    }
    if (plan.empty()) co_return 0;
    const int read = co_await read_granules(file.ino, std::move(plan), block, out, uring::Priority::kDemand);
    co_return read;
}

// Sends the tail on its way: pads it, places it, maps it, starts the write. Does not wait for the device.
Async<int> Store::submit_tail(File& file) {
    if (!file.tail) co_return 0;
    std::byte* const data = file.tail.buffer.data();
    const std::uint64_t start = file.tail.start;
    const std::uint64_t length = file.tail.end - start;
    const std::uint64_t padded = format::round_up(length, kBlock);
    if (padded != length) {
        std::uint64_t size = 0;
        {
            const std::lock_guard guard(mutex_);
            size = inodes_.find(file.ino)->size;
        }
        if (size > file.tail.end) {  // the block's remainder belongs to the file already
            const Buffer old = Buffer::heap(kBlock);
            const int rc = co_await load_block(file, file.tail.end / kBlock, old.data());
            if (rc != 0) {
                const std::lock_guard guard(mutex_);
                file.error = rc;
                discard_tail(file);
                co_return rc;
            }
            std::memcpy(data + length, old.data() + file.tail.end % kBlock, padded - length);
        } else {
            std::memset(data + length, 0, padded - length);
        }
    }
    const std::uint64_t first = start / kBlock;
    const std::uint64_t blocks = padded / kBlock;
    auto flight = std::make_unique<Flight>();
    const int rc = co_await place(file, static_cast<std::uint32_t>(blocks), flight->places);
    if (rc != 0) {
        const std::lock_guard guard(mutex_);
        file.error = rc;
        clear_tail(file);
        co_return rc;
    }
    Pieces pieces;
    checksum_places(flight->places, first, data, pieces);
    {
        const std::lock_guard guard(mutex_);
        flight->file = files_.at(file.ino);
        flight->from = first;
        flight->to = first + blocks;
        flight->buffer = std::move(file.tail.buffer);
        flight->data = data;
        clear_tail(file);
        map_flight(*inodes_.find(file.ino), *flight, pieces);
    }
    launch(std::move(flight));
    co_return 0;
}

}  // namespace kvfs::store
