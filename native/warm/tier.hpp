// The warm tier: whole files in memory, verified, from which READs are answered, which clients read by
// FOPEN_PASSTHROUGH at page-cache speed, and which are pinned for GPU copies.
//
// What callers owe it, so that nobody ever reads an old byte:
//   - after the store took a change of a file's bytes or size, and before that change is answered: drop(), and
//     when that says false, refresh();
//   - the store's inode hook calls forget(), so that no page outlives its inode number.
// Then a page in the tier is the file's content. A staging that reads while a change is made may see half of it, but
// the change's drop() comes after, and either marks that staging stale or takes its page out.
//
// A page that clients have open by passthrough cannot be taken from them (mapped.cpp has what follows from that). It is
// never evicted, it is brought up to date
// by refresh(), and when it was changed it goes with its last user. WHY by reading the store again instead of by the
// bytes at hand: two changes of one range then cannot end up in another order than in the store, and a write's buffer
// is free to go to the device meanwhile. It is rare enough (a file that is read and written at once) to cost a read.
//
// Locks: a shard's lock guards its slots; `order_mutex_` the eviction order. Neither is held while taking the
// other, nor while calling the store, whose own mutex may be held when forget() is called.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "pool/pool.hpp"
#include "uring/async.hpp"
#include "uring/ring.hpp"
#include "warm/headroom.hpp"
#include "warm/keeper.hpp"
#include "warm/memory.hpp"
#include "warm/page.hpp"

namespace kvfs::warm {

// A quarter of what the machine, or the cgroup, has.
std::uint64_t default_budget();

struct Options {
    std::uint64_t budget_bytes = 0;
    std::uint64_t least_file = 64 * 1024;  // smaller ones cost more to keep than to read
    std::uint64_t largest_file = 0;        // 0: a quarter of the budget
    int fuse_fd = -1;                      // for passthrough; open until the tier is destroyed
    bool passthrough = false;              // negotiated with the kernel
    std::string system_root;               // in front of /proc and /sys, for tests
};

// Of a file, whether it is in the tier, or why it would not be taken.
enum class Warmth : std::uint32_t {
    kCold = 0,
    kWarm = 1,
    kTooSmall = 2,
    kTooLarge = 3,
    kNotRegular = 4,
};

struct Statistics {
    std::uint64_t budget_bytes, limit_bytes;  // limit: the budget, less what memory pressure took from it
    std::uint64_t bytes, pages;               // resident, evicted pages that somebody holds included
    std::uint64_t users;                      // handles that read by passthrough
    std::uint64_t hits, misses;
    std::uint64_t stagings, staged_bytes, staging_failures, stale_stagings, refused;
    std::uint64_t evictions, pressure_shrinks, refreshes, mapped_bytes;
    bool passthrough, pressure_trigger;
    const char* memory;
};

class Tier {
public:
    Tier(pool::Pool& store, const Options& options);
    // Waits for stagings in flight. Pages that are held live on.
    ~Tier();
    Tier(const Tier&) = delete;
    Tier& operator=(const Tier&) = delete;

    // After INIT, when that is later than the tier.
    void enable_passthrough(int fuse_fd);

    // The file's content, or null. Cheap: called for every READ.
    PagePtr find(std::uint64_t ino);
    // The same question by who is not going to read: no hit, no miss.
    bool has(std::uint64_t ino);
    // Brings the file in. Joins a staging in flight. Null when it may not or does not fit (`error`, where given:
    // -EOPNOTSUPP, -ENOSPC), when the read fails (-EIO and what else the store says), or when the file changed
    // meanwhile (-ESTALE). `priority`: of its reads at the device; who joins a staging takes it as it is.
    uring::Async<PagePtr> stage(std::uint64_t ino, int* error = nullptr,
                                uring::Priority priority = uring::Priority::kDemand);
    // find() for a handle that is going to be FOPEN_PASSTHROUGH with the page's backing_id(): null where there is no
    // such page, or it cannot be registered. Each goes with one released().
    PagePtr opened(std::uint64_t ino);
    void released(const PagePtr& page);
    // One more handle of any kind on a page that others have open by passthrough: the kernel takes no other open of its
    // inode meanwhile. `may_write`: the handle may map it shared and writable. Goes with one released(), too.
    void joined(const PagePtr& page, bool may_write);
    // Writes to the store what mappings have changed: at fsync and close of a handle that may have one. 0 or -errno.
    uring::Async<int> write_back(PagePtr page);

    // Takes the page out of the tier and makes a staging in flight stale. False when the page stays, because it is in
    // use.
    bool drop(std::uint64_t ino);
    // drop() for who wants the memory back: a page in use goes with its last user.
    void evict(std::uint64_t ino);
    // Brings a page in use up to date with the store: its size, and [offset, offset + length) of its bytes.
    // 0 or -errno; the page's users may then see old bytes, so the change should fail with it.
    uring::Async<int> refresh(std::uint64_t ino, std::uint64_t offset, std::uint64_t length);
    // The inode number is no longer that file's. Called with the store's mutex held.
    void forget(std::uint64_t ino);

    [[nodiscard]] bool offers_passthrough() const {
        return has_passthrough_.load(std::memory_order_acquire) && passthrough_->works();
    }
    // Does not stage. `size`: of the file. Negative errno in place of an unknown inode's.
    int warmth(std::uint64_t ino, Warmth& out, std::uint64_t& size);

    [[nodiscard]] Statistics statistics() const;

private:
    // One per file that is being read in. What comes before `error` is guarded by the shard's lock.
    struct Staging {
        bool is_stale = false;
        bool is_done = false;
        std::vector<std::coroutine_handle<>> waiters;
        int error = 0;
        PagePtr result;  // both written before is_done, read after
    };
    struct Slot {
        PagePtr page;
        std::shared_ptr<Staging> staging;
    };
    struct alignas(64) Shard {
        mutable std::mutex mutex;
        std::unordered_map<std::uint64_t, Slot> slots;
        std::uint64_t hits = 0, misses = 0;
    };
    struct Join;

    Shard& shard(std::uint64_t ino) { return shards_[ino % shards_.size()]; }
    uring::Async<PagePtr> read_page(std::uint64_t ino, int& error, uring::Priority priority);
    bool reserve(std::uint64_t bytes);
    void release(std::uint64_t bytes);
    bool evict_one();
    void linger(PagePtr page);
    void settle_lingering();
    void settle_abandoned();
    void tidy();
    uring::Async<int> settle(PagePtr page);
    void staging_done();
    void shrink(std::uint64_t bytes);
    void recover();
    void enter(const PagePtr& page);

    static constexpr std::size_t kShards = 64;

    std::array<Shard, kShards> shards_;
    pool::Pool& store_;
    const Options options_;
    const MemorySource memory_;
    const std::uint64_t most_pages_;
    Headroom headroom_;
    std::shared_ptr<Resident> resident_ = std::make_shared<Resident>();
    std::shared_ptr<Passthrough> passthrough_;  // null until enabled
    std::atomic<bool> has_passthrough_{false};

    std::mutex order_mutex_;
    std::list<std::weak_ptr<Page>> order_;  // next to evict in front
    std::vector<PagePtr> buried_;           // to be freed by the keeper
    std::vector<PagePtr> lingering_;        // to be looked at by the keeper

    std::atomic<std::uint64_t> limit_bytes_;
    std::atomic<std::uint64_t> users_{0};
    struct Counters {
        std::atomic<std::uint64_t> stagings{0}, staged_bytes{0}, staging_failures{0}, stale_stagings{0}, refused{0},
            evictions{0}, pressure_shrinks{0}, refreshes{0}, mapped_bytes{0};
    } counters_;

    std::mutex stagings_mutex_;
    std::condition_variable stagings_done_;
    std::size_t stagings_in_flight_ = 0;

    Keeper keeper_;  // last: its thread uses all of the above
};

}  // namespace kvfs::warm
