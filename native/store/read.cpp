// Bytes on their way out: every granule that is touched is read whole and verified before a byte of it leaves.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "store/granule.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::size_t kSmallRead = std::size_t{128} << 10;  // below this the heap serves: the pool is for large ones

}  // namespace

// Which granules hold blocks [from, to) of the file. Pins their segments; unpin() when done. The mutex is held.
void Store::plan_read(const Inode& inode, std::uint64_t from, std::uint64_t to, std::vector<Granule>& out) {
    inodes_.visit(inode, from, to, [&](std::uint64_t logical, const Extent& extent) {
        Segment& segment = segments_.at(extent.segment);
        std::uint64_t at = std::max(from, logical);
        const std::uint64_t end = std::min(to, logical + extent.blocks);
        while (at < end) {
            const std::uint64_t in_run = at - logical + extent.skip;
            const std::uint64_t index = in_run / format::kGranuleBlocks;
            const std::uint64_t start = index * format::kGranuleBlocks;
            Granule granule;
            granule.segment = extent.segment;
            granule.block = extent.block + static_cast<std::uint32_t>(start);
            granule.blocks =
                static_cast<std::uint32_t>(std::min<std::uint64_t>(format::kGranuleBlocks, extent.run_blocks - start));
            granule.skip = static_cast<std::uint32_t>(in_run - start);
            granule.wanted =
                static_cast<std::uint32_t>(std::min<std::uint64_t>(granule.blocks - granule.skip, end - at));
            granule.generation = segment.generation;
            granule.checksum = extent.checksums[index];
            granule.logical = at;
            at += granule.wanted;
            ++segment.readers;
            out.push_back(granule);
        }
    });
}

void Store::unpin(std::span<const Granule> plan) {
    const std::lock_guard guard(mutex_);
    for (const Granule& granule : plan) --segments_.at(granule.segment).readers;
}

bool Store::verify(const Granule& granule, const std::byte* data) {
    return checksum_({data, granule.blocks * kBlock}, granule.segment, granule.generation, granule.block) ==
           granule.checksum;
}

// A mismatch: counted, logged, and the file is dropped so that the next lookup is a clean miss.
void Store::drop_corrupt(InodeNumber ino, const Granule& granule, const std::byte* data) {
    counters_.checksum_errors.fetch_add(1, std::memory_order_relaxed);
    const std::uint64_t found =
        checksum_({data, granule.blocks * kBlock}, granule.segment, granule.generation, granule.block);
    const std::lock_guard guard(mutex_);
    if (inode_hook_) inode_hook_(ino);
    Inode* inode = inodes_.find(ino);
    std::string name = "(unlinked)";
    if (inode != nullptr && inode->nlink != 0) name = names_.at(inode->name).view();
    char text[256];
    std::snprintf(
        text, sizeof text,
        "inode %u block %llu, segment %u generation %llx block %u: expected checksum %016llx, found %016llx; ", ino,
        static_cast<unsigned long long>(granule.logical), granule.segment,
        static_cast<unsigned long long>(granule.generation), granule.block,
        static_cast<unsigned long long>(granule.checksum), static_cast<unsigned long long>(found));
    if (inode == nullptr || inode->nlink == 0 || read_only_) {
        say(40, text + ("not dropped: " + std::string(read_only_ ? "read-only" : "unlinked already")));
        return;
    }
    say(40, text + ("file dropped: " + name));
    while (inode->nlink > 0) {
        const NameId id = inode->name;
        const Name& entry = names_.at(id);
        const InodeNumber parent = entry.parent;
        raise(DropEvent{parent, std::string(entry.view())});
        lose_link(ino, id, now_ns());
        touch_directory(parent, now_ns());
    }
    log_.commit();
    counters_.files_dropped.fetch_add(1, std::memory_order_relaxed);
    drop_file_if_idle(ino);
}

// Reads and verifies the plan into `out`, whose first byte is block `from` of the file. Unpins. 0 or -EIO.
Async<int> Store::read_granules(InodeNumber ino, std::vector<Granule> plan, std::uint64_t from, std::byte* out) {
    struct Partial {
        std::size_t index;
        Buffer buffer;
    };
    std::vector<Partial> partial;
    std::vector<std::byte*> landing(plan.size(), nullptr);
    uring::Batch batch(*ring_);
    std::uint64_t run_device = 0;  // end of the last direct request on the device, and in memory
    std::byte* run_memory = nullptr;
    for (std::size_t i = 0; i < plan.size(); ++i) {
        const Granule& granule = plan[i];
        std::byte* const target = out + (granule.logical - from) * kBlock;
        const std::uint64_t device = device_offset(granule.segment, granule.block);
        const std::size_t bytes = granule.blocks * kBlock;
        if (granule.wanted == granule.blocks) {
            landing[i] = target;
            if (run_memory == target && run_device == device && !batch.empty()) {
                batch.ops().back().size += bytes;
            } else {
                batch.add(uring::OpKind::kRead, target, bytes, device);
            }
            run_device = device + bytes;
            run_memory = target + bytes;
            continue;
        }
        const GranuleKey key = granule.key();
        if (cache_->copy_out(key, granule.skip * kBlock, granule.wanted * kBlock, target)) {
            counters_.cache_hits.fetch_add(1, std::memory_order_relaxed);
            continue;
        }
        counters_.cache_misses.fetch_add(1, std::memory_order_relaxed);
        Buffer buffer = Buffer::heap(bytes);
        landing[i] = buffer.data();
        batch.add(uring::OpKind::kRead, buffer.data(), bytes, device);
        partial.push_back({i, std::move(buffer)});
        run_memory = nullptr;
    }
    int rc = co_await batch;
    if (rc != 0) {
        counters_.read_errors.fetch_add(1, std::memory_order_relaxed);
        say(40, "a read from the device failed: " + std::string(std::strerror(-rc)));
        rc = -EIO;
    }
    for (std::size_t i = 0; rc == 0 && i < plan.size(); ++i) {
        if (landing[i] == nullptr || verify(plan[i], landing[i])) continue;
        drop_corrupt(ino, plan[i], landing[i]);
        rc = -EIO;
    }
    if (rc == 0) {
        for (const Partial& each : partial) {
            const Granule& granule = plan[each.index];
            std::memcpy(out + (granule.logical - from) * kBlock, each.buffer.data() + granule.skip * kBlock,
                        granule.wanted * kBlock);
            cache_->put(granule.key(), {each.buffer.data(), granule.blocks * kBlock});
        }
    }
    unpin(plan);
    co_return rc;
}

// The plan for bytes [offset, offset + size) of the file as far as it goes; `end` is where that is. Bytes that are on
// their way to the device arrive first, then they are read like any others. The plan is pinned.
Async<int> Store::plan_settled(InodeNumber ino, std::uint64_t offset, std::uint64_t size, std::uint64_t& end,
                               std::vector<Granule>& out) {
    std::shared_ptr<File> file;
    const auto plan_now = [&]() -> int {
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr) return -ENOENT;
        if (!inode->is_regular()) return inode->is_directory() ? -EISDIR : -EINVAL;
        end = std::min<std::uint64_t>(inode->size, offset + size);
        if (offset < end) plan_read(*inode, offset / kBlock, (end + kBlock - 1) / kBlock, out);
        return 0;
    };
    {
        const std::lock_guard guard(mutex_);
        file = find_file(ino);
        if (!file || (!file->tail && file->in_flight == 0)) co_return plan_now();
    }
    co_await file->lock.lock();
    int rc = co_await submit_tail(*file);
    const int idle = co_await wait_idle(*file);
    if (rc == 0) rc = idle;
    if (rc == 0) {
        const std::lock_guard guard(mutex_);
        rc = plan_now();
    }
    file->lock.unlock();
    co_return rc;
}

// Brings blocks [from, to), of which the plan covers what is mapped, into `out`: verified, zeros where there is
// nothing.
Async<int> Store::fill(InodeNumber ino, std::vector<Granule> plan, std::uint64_t from, std::uint64_t to,
                       std::byte* out) {
    std::uint64_t covered = 0;
    for (const Granule& granule : plan) covered += granule.wanted;
    if (covered < to - from) std::memset(out, 0, (to - from) * kBlock);
    if (plan.empty()) co_return 0;
    const int rc = co_await read_granules(ino, std::move(plan), from, out);
    co_return rc;
}

Async<Store::ReadOutcome> Store::read(std::uint64_t ino, std::uint64_t offset, std::size_t size) {
    std::vector<Granule> plan;
    std::uint64_t end = 0;
    ReadOutcome outcome;
    outcome.error = co_await plan_settled(static_cast<InodeNumber>(ino), offset, size, end, plan);
    if (outcome.error != 0 || offset >= end) co_return outcome;
    const std::uint64_t from = offset / kBlock;
    const std::uint64_t to = (end + kBlock - 1) / kBlock;
    const std::size_t bytes = (to - from) * kBlock;
    Buffer buffer;
    if (bytes <= kSmallRead || bytes > read_pool_->size()) {
        buffer = Buffer::heap(bytes);
    } else {
        buffer = co_await read_pool_->acquire();
    }
    outcome.error = co_await fill(static_cast<InodeNumber>(ino), std::move(plan), from, to, buffer.data());
    if (outcome.error != 0) co_return outcome;
    counters_.reads.fetch_add(1, std::memory_order_relaxed);
    counters_.read_bytes.fetch_add(end - offset, std::memory_order_relaxed);
    outcome.data = {std::move(buffer), offset % kBlock, static_cast<std::size_t>(end - offset)};
    co_return outcome;
}

Async<std::int64_t> Store::read_into(std::uint64_t ino, std::uint64_t offset, std::span<std::byte> out) {
    if (offset % kBlock != 0 || out.size() % kBlock != 0 || reinterpret_cast<std::uintptr_t>(out.data()) % kBlock != 0)
        co_return -EINVAL;
    std::vector<Granule> plan;
    std::uint64_t end = 0;
    int rc = co_await plan_settled(static_cast<InodeNumber>(ino), offset, out.size(), end, plan);
    if (rc != 0) co_return rc;
    if (offset >= end) {
        std::memset(out.data(), 0, out.size());
        co_return 0;
    }
    const std::uint64_t from = offset / kBlock;
    const std::uint64_t to = (end + kBlock - 1) / kBlock;
    rc = co_await fill(static_cast<InodeNumber>(ino), std::move(plan), from, to, out.data());
    if (rc != 0) co_return rc;
    std::memset(out.data() + (end - offset), 0, out.size() - (end - offset));
    counters_.reads.fetch_add(1, std::memory_order_relaxed);
    counters_.read_bytes.fetch_add(end - offset, std::memory_order_relaxed);
    co_return static_cast<std::int64_t>(end - offset);
}

}  // namespace kvfs::store
