// Bytes on their way out: every granule that is touched is read whole and verified before a byte of it leaves.
//
// Granules that are wanted whole go from the device straight to where the caller wants them; of others the wanted part
// is copied out of the granule cache, into which they are brought first. What was read ahead lies there too.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "store/granule.hpp"
#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;

}  // namespace

// Which granules hold blocks [from, to) of the file. Pins their segments; unpin() when done. The mutex is held.
void Store::plan_read(const Inode& inode, std::uint64_t from, std::uint64_t to, Plan& out) {
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

// The mutex is held.
void Store::unpin(const Plan& plan) {
    for (const Granule& granule : plan) segments_.end_request(granule.segment);
}

bool Store::verify(const Granule& granule, const std::byte* data) {
    return checksum_({data, granule.blocks * kBlock}, granule.segment, granule.generation, granule.block) ==
           granule.checksum;
}

// The file still has that granule where it was read. The mutex is held.
bool Store::refers_to(const Inode& inode, const Granule& granule) const {
    bool found = false;
    inodes_.visit(inode, granule.logical, granule.logical + granule.wanted, [&](std::uint64_t, const Extent& extent) {
        found = found || (extent.segment == granule.segment && granule.block >= extent.block &&
                          granule.block < extent.block + extent.run_blocks);
    });
    return found;
}

// A mismatch: counted, logged, and the file is dropped so that the next lookup is a clean miss. True when it was.
bool Store::drop_corrupt(InodeNumber ino, const Granule& granule, const std::byte* data) {
    {
        // what a failed write left on the device says nothing about the version that the log knows: it comes back when
        // the file is released
        const std::lock_guard guard(mutex_);
        if (const auto file = find_file(ino); file && file->is_lost) return false;
    }
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
    if (is_fenced() || is_behind_) {
        say(20, text + std::string("another host has written the volume since this mount read what it holds"));
        return false;
    }
    if (inode == nullptr || inode->nlink == 0 || read_only_) {
        say(40, text + ("not dropped: " + std::string(read_only_ ? "read-only" : "unlinked already")));
        return false;
    }
    if (!inode->is_regular() || !refers_to(*inode, granule)) {
        // replaced while it was being read, or the number is another file's by now
        say(40, text + std::string("not dropped: no file refers to it any more"));
        return false;
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
    return true;
}

// The part of a granule that is in the cache, to where the plan wants it.
void Store::copy_cached(const Granule& granule, GranuleCache::Slot& slot, std::uint64_t from, std::byte* out) {
    std::memcpy(out + (granule.logical - from) * kBlock, slot.data() + granule.skip * kBlock, granule.wanted * kBlock);
    cache_->unpin(slot, granule.skip + granule.wanted == granule.blocks);
}

// Reads and verifies the plan into `out`, whose first byte is block `from` of the file. Unpins. 0 or -EIO.
Async<int> Store::read_granules(InodeNumber ino, Plan plan, std::uint64_t from, std::byte* out,
                                uring::Priority priority) {
    enum class Way : std::uint8_t { kDone, kDirect, kLoad, kJoin, kApart };
    struct Landing {
        Way way = Way::kDone;
        std::byte* data = nullptr;
        GranuleCache::Slot* slot = nullptr;
        Buffer apart;
    };
    uring::InlineVector<Landing, 6> landings;
    uring::Batch batch(rings_->here(), priority);
    std::uint64_t run_device = 0;  // end of the last direct request on the device, and in memory
    std::byte* run_memory = nullptr;
    for (const Granule& granule : plan) {
        std::byte* const target = out + (granule.logical - from) * kBlock;
        const std::uint64_t device = device_offset(granule.segment, granule.block);
        const std::size_t bytes = granule.blocks * kBlock;
        Landing& landing = landings.emplace_back();
        const auto found = cache_->find(granule.key());
        if (found.ready) {
            copy_cached(granule, *found.slot, from, out);
            counters_.cache_hits.fetch_add(1, std::memory_order_relaxed);
            continue;
        }
        if (found.slot != nullptr) {
            landing.way = Way::kJoin;
            landing.slot = found.slot;
            continue;
        }
        if (granule.wanted == granule.blocks) {
            landing.way = Way::kDirect;
            landing.data = target;
            if (run_memory == target && run_device == device && !batch.empty()) {
                batch.ops().back().size += bytes;
            } else {
                batch.add(uring::OpKind::kRead, target, bytes, device);
            }
            run_device = device + bytes;
            run_memory = target + bytes;
            continue;
        }
        run_memory = nullptr;
        counters_.cache_misses.fetch_add(1, std::memory_order_relaxed);
        // a slot that stands in the line of prefetch would make demand for it wait there too
        const bool mine = priority == uring::Priority::kDemand &&
                          cache_->claim(granule.key(), false, landing.slot) == GranuleCache::Claim::kMine;
        if (mine) {
            landing.way = Way::kLoad;
            landing.data = landing.slot->data();
        } else {
            landing.way = Way::kApart;
            landing.slot = nullptr;
            // not waited for: others may hold what they got and wait for more, as we would
            landing.apart = read_pool_->try_acquire();
            if (!landing.apart) landing.apart = Buffer::heap(bytes);
            landing.data = landing.apart.data();
        }
        batch.add(uring::OpKind::kRead, landing.data, bytes, device);
    }
    int rc = co_await batch;
    if (rc != 0) {
        counters_.read_errors.fetch_add(1, std::memory_order_relaxed);
        say(40, "a read from the device failed: " + std::string(std::strerror(-rc)));
        rc = -EIO;
    }
    // what others wait for is settled before this waits for others
    for (std::size_t i = 0; i < plan.size(); ++i) {
        const Granule& granule = plan[i];
        Landing& landing = landings[i];
        if (landing.way == Way::kDone || landing.way == Way::kJoin) continue;
        bool good = rc == 0;
        if (good && !verify(granule, landing.data)) {
            drop_corrupt(ino, granule, landing.data);
            rc = -EIO;
            good = false;
        }
        if (landing.way == Way::kLoad) {
            cache_->finish(*landing.slot, good);
            if (good) {
                copy_cached(granule, *landing.slot, from, out);
            } else {
                cache_->unpin(*landing.slot);
            }
        } else if (landing.way == Way::kApart && good) {
            std::memcpy(out + (granule.logical - from) * kBlock, landing.data + granule.skip * kBlock,
                        granule.wanted * kBlock);
        }
    }
    for (std::size_t i = 0; i < plan.size(); ++i) {
        if (landings[i].way != Way::kJoin) continue;
        GranuleCache::Slot& slot = *landings[i].slot;
        if (co_await cache_->loaded(slot)) {
            copy_cached(plan[i], slot, from, out);
            counters_.cache_hits.fetch_add(1, std::memory_order_relaxed);
        } else {
            cache_->unpin(slot);
            rc = -EIO;
        }
    }
    finish_read(ino, plan, rc == 0 && priority == uring::Priority::kDemand);
    co_return rc;
}

// The plan for bytes [offset, offset + size) of the file as far as it goes, pinned; `end` is where that is. -EAGAIN
// when some of them are on their way to the device. The mutex is held.
int Store::plan_now(std::uint64_t number, std::uint64_t offset, std::uint64_t size, std::uint64_t& end, Plan& out) {
    const Inode* inode = inodes_.find(number);
    if (inode == nullptr) return -ENOENT;
    if (!inode->is_regular()) return inode->is_directory() ? -EISDIR : -EINVAL;
    const auto ino = static_cast<InodeNumber>(number);
    end = std::min<std::uint64_t>(inode->size, offset + size);
    if (offset >= end) return 0;
    const std::uint64_t from = offset / kBlock;
    const std::uint64_t to = (end + kBlock - 1) / kBlock;
    if (const auto it = files_.find(ino); it != files_.end()) {
        File& file = *it->second;
        if (file.error == -EIO || file.is_lost) return -EIO;  // what could not be written is not there to be read
        if (file.tail && file.tail.start < end && offset < format::round_up(file.tail.end, kBlock)) return -EAGAIN;
        if (is_on_its_way(file, from, to)) return -EAGAIN;
        file.streams.asked(from, to);
    }
    plan_read(*inode, from, to, out);
    return 0;
}

// The same, after what is on its way has arrived.
Async<int> Store::plan_settled(std::uint64_t ino, std::uint64_t offset, std::uint64_t size, std::uint64_t& end,
                               Plan& out) {
    for (;;) {
        InUse file;
        {
            const std::lock_guard guard(mutex_);
            const int rc = plan_now(ino, offset, size, end, out);
            if (rc != -EAGAIN) co_return rc;
            file = InUse(*this, files_.at(static_cast<InodeNumber>(ino)));
        }
        int rc = 0;
        {
            co_await file->lock.lock();
            const uring::AsyncMutex::Held held(file->lock);
            if (file->tail && file->tail.start < end && offset < format::round_up(file->tail.end, kBlock)) {
                rc = co_await submit_tail(*file);
            }
        }
        const int landed = co_await wait_landed(*file, offset / kBlock, (end + kBlock - 1) / kBlock);
        if (rc == 0) rc = landed;
        if (rc != 0) co_return rc;
    }
}

// Brings blocks [from, to), of which the plan covers what is mapped, into `out`: verified, zeros where there is
// nothing.
Async<int> Store::fill(InodeNumber ino, Plan plan, std::uint64_t from, std::uint64_t to, std::byte* out,
                       uring::Priority priority) {
    std::uint64_t covered = 0;
    for (const Granule& granule : plan) covered += granule.wanted;
    if (covered < to - from) std::memset(out, 0, (to - from) * kBlock);
    if (plan.empty()) co_return 0;
    const int rc = co_await read_granules(ino, std::move(plan), from, out, priority);
    co_return rc;
}

Async<Store::ReadOutcome> Store::read_now(std::uint64_t number, std::uint64_t offset, std::size_t size) {
    const auto ino = static_cast<InodeNumber>(number);
    Plan plan;
    std::uint64_t end = 0;
    ReadOutcome outcome;
    {
        const std::lock_guard guard(mutex_);
        outcome.error = plan_now(number, offset, size, end, plan);
    }
    if (outcome.error == -EAGAIN) outcome.error = co_await plan_settled(number, offset, size, end, plan);
    if (outcome.error != 0 || offset >= end) co_return outcome;
    const std::uint64_t from = offset / kBlock;
    const std::uint64_t to = (end + kBlock - 1) / kBlock;
    const std::size_t bytes = (to - from) * kBlock;
    Buffer buffer;
    if (bytes <= small_pool_->size()) buffer = small_pool_->try_acquire();
    if (!buffer && bytes > small_pool_->size() && bytes <= read_pool_->size()) {
        buffer = read_pool_->try_acquire();
        // a device that keeps some requests for ever keeps their buffers too: the others must not stand in line for
        // them
        if (!buffer && !is_device_slow()) buffer = co_await read_pool_->acquire();
    }
    if (!buffer) buffer = Buffer::heap(bytes);
    outcome.error = co_await fill(ino, std::move(plan), from, to, buffer.data(), uring::Priority::kDemand);
    if (outcome.error != 0) co_return outcome;
    counters_.reads.fetch_add(1, std::memory_order_relaxed);
    counters_.read_bytes.fetch_add(end - offset, std::memory_order_relaxed);
    outcome.data = {std::move(buffer), offset % kBlock, static_cast<std::size_t>(end - offset)};
    co_return outcome;
}

Async<std::int64_t> Store::read_into_now(std::uint64_t number, std::uint64_t offset, std::span<std::byte> out,
                                         uring::Priority priority, Borrowed* lender) {
    if (offset % kBlock != 0 || out.size() % kBlock != 0 || reinterpret_cast<std::uintptr_t>(out.data()) % kBlock != 0)
        co_return -EINVAL;
    if (out.empty()) co_return 0;
    const auto ino = static_cast<InodeNumber>(number);
    Plan plan;
    std::uint64_t end = 0;
    int rc = 0;
    {
        const std::lock_guard guard(mutex_);
        rc = plan_now(number, offset, out.size(), end, plan);
    }
    if (rc == -EAGAIN) rc = co_await plan_settled(number, offset, out.size(), end, plan);
    if (rc != 0) co_return rc;
    if (lender != nullptr && !lender->give_to_device()) {
        const std::lock_guard guard(mutex_);
        unpin(plan);
        co_return -EIO;
    }
    if (offset >= end) {
        std::memset(out.data(), 0, out.size());
        co_return 0;
    }
    const std::uint64_t from = offset / kBlock;
    const std::uint64_t to = (end + kBlock - 1) / kBlock;
    rc = co_await fill(ino, std::move(plan), from, to, out.data(), priority);
    if (rc != 0) co_return rc;
    std::memset(out.data() + (end - offset), 0, out.size() - (end - offset));
    counters_.reads.fetch_add(1, std::memory_order_relaxed);
    counters_.read_bytes.fetch_add(end - offset, std::memory_order_relaxed);
    co_return static_cast<std::int64_t>(end - offset);
}

}  // namespace kvfs::store
