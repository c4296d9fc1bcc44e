#include "store/read_ahead.hpp"

#include <array>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;

}  // namespace

// Unpins, and goes on ahead of the reader when it is one that comes in sequence.
void Store::finish_read(InodeNumber ino, const Plan& plan, bool may_go_ahead) {
    std::array<Plan, 2> ahead;
    {
        const std::lock_guard guard(mutex_);
        unpin(plan);
        if (may_go_ahead && !plan.empty()) {
            const Granule& last = plan[plan.size() - 1];
            for (Plan& each : ahead) plan_ahead(ino, plan[0].logical, last.logical + last.wanted, each);
        }
    }
    for (Plan& each : ahead) {
        if (!each.empty()) in_background(read_ahead(std::move(each)));
    }
}

// The mutex is held; the plan is pinned.
void Store::plan_ahead(InodeNumber ino, std::uint64_t from, std::uint64_t to, Plan& out) {
    const auto it = files_.find(ino);
    const Inode* inode = inodes_.find(ino);
    if (it == files_.end() || inode == nullptr || !inode->is_regular()) return;
    File& file = *it->second;
    const auto range = file.streams.take(from, to, (inode->size + kBlock - 1) / kBlock);
    if (!range || file.tail || is_on_its_way(file, range.from, range.to)) return;
    plan_read(*inode, range.from, range.to, out);
}

// Brings the plan's granules into the cache, as far as there is room for what nobody has asked for yet. Submitted as
// demand: who comes for a granule while it is on its way waits for it, and must not stand in the line of prefetch. What
// bounds it is the cache.
Async<int> Store::read_ahead(Plan plan) {
    uring::InlineVector<GranuleCache::Slot*, 6> slots;
    uring::Batch batch(rings_->here());
    for (const Granule& granule : plan) {
        GranuleCache::Slot*& slot = slots.emplace_back(nullptr);
        if (cache_->claim(granule.key(), true, slot) != GranuleCache::Claim::kMine) {
            slot = nullptr;
            continue;
        }
        batch.add(uring::OpKind::kRead, slot->data(), granule.blocks * kBlock,
                  device_offset(granule.segment, granule.block));
        counters_.read_ahead.fetch_add(1, std::memory_order_relaxed);
    }
    // a failure is the reader's to report, should it come that far: it will read the granule itself
    const int rc = co_await batch;
    for (std::size_t i = 0; i < plan.size(); ++i) {
        if (slots[i] == nullptr) continue;
        const bool good = rc == 0 && verify(plan[i], slots[i]->data());
        cache_->finish(*slots[i], good);
        cache_->unpin(*slots[i]);
    }
    const std::lock_guard guard(mutex_);
    unpin(plan);
    co_return 0;
}

}  // namespace kvfs::store
