#include "store/eviction.hpp"

#include <malloc.h>

#include <algorithm>
#include <chrono>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kMillisecond = 1'000'000;  // ns
// What changed so short a time ago is spared; less of it where all there is was written just now.
constexpr std::array kSpared = {5000 * kMillisecond, 1000 * kMillisecond, 200 * kMillisecond,
                                40 * kMillisecond,   8 * kMillisecond,    0 * kMillisecond};
constexpr std::int64_t kSparedLessFor = 1000 * kMillisecond;
constexpr std::uint64_t kPiece = std::uint64_t{1} << 20;   // bytes asked of the policy at once
constexpr std::uint64_t kFilesPerHold = 64;                // of the mutex: well under a millisecond
constexpr std::size_t kPendingLog = std::size_t{4} << 20;  // bytes: the evictor lets the committer catch up
constexpr auto kRest = 1s;                                 // of the evictor, after it found nothing

}  // namespace

std::uint64_t EvictionHost::space(policy::ObjectId id) const {
    const Inode* inode = store_.inodes_.find(id);
    return inode == nullptr ? 0 : store_.inodes_.mapped_blocks(*inode) * format::kBlock;
}

policy::Key EvictionHost::key(policy::ObjectId id) const {
    const Inode* inode = store_.inodes_.find(id);
    if (inode == nullptr || inode->nlink == 0) return 0;
    const Name& name = store_.names_.at(inode->name);
    return store_.names_.key(name.parent, name.view());
}

bool EvictionHost::may_evict(policy::ObjectId id) const {
    if (store_.keep_reason(id) != Keep::kNothing) return false;
    const Inode& inode = *store_.inodes_.find(id);
    if (!takes_empty && store_.inodes_.mapped_blocks(inode) == 0) return false;
    return spared_ns == 0 || Store::now_ns() - store_.inodes_.times(inode).ctime_ns > spared_ns;
}

// The mutex is held, here and below, unless said otherwise.

// In the order of atime, as the policy would have seen them. Before the store's threads start.
void Store::admit_recovered() {
    struct Found {
        std::int64_t atime_ns;
        InodeNumber ino;
    };
    {
        std::vector<Found> found;
        found.reserve(inodes_.count());
        for (InodeNumber ino = kRoot; ino < inodes_.end(); ++ino) {
            const Inode* inode = inodes_.find(ino);
            if (inode != nullptr && inode->is_regular()) found.push_back({inodes_.atime(*inode), ino});
        }
        std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
            return a.atime_ns != b.atime_ns ? a.atime_ns < b.atime_ns : a.ino < b.ino;
        });
        for (const Found& each : found) {
            policy_->admitted(each.ino, inodes_.find(each.ino)->size, {.now_ns = each.atime_ns});
        }
    }
    malloc_trim(0);  // memory per file is a promise: what tables were while they grew goes back
}

// What the policy is told, where there is one: a file is complete under its name,
void Store::note_there(InodeNumber ino, std::uint32_t client) {
    if (policy_ != nullptr) {
        policy_->admitted(ino, inodes_.find(ino)->size, {.now_ns = now_ns(), .client = client});
    }
}

// it is used,
void Store::note_use(InodeNumber ino, std::uint32_t client) {
    if (policy_ != nullptr) policy_->touched(ino, {.now_ns = now_ns(), .client = client});
}

// it is about to lose its last name, or the one that it goes by.
void Store::note_gone(InodeNumber ino) {
    if (policy_ != nullptr) policy_->removed(ino);
}

std::uint64_t Store::free_blocks() const {
    const std::uint64_t capacity = segments_.data_capacity();
    return capacity - std::min(capacity, segments_.live_blocks() + reserved_blocks_);
}

// Between these two the store is full in the ordinary way.
std::uint64_t Store::low_water() const {
    const std::uint64_t capacity = segments_.data_capacity();
    return std::min(std::max(capacity / 64, std::uint64_t{2} * segments_.blocks()), capacity / 8);
}
std::uint64_t Store::high_water() const { return 2 * low_water(); }

// Removes every name of a file that keep_reason() lets go, and lets go of its blocks.
void Store::evict_file(InodeNumber ino, EvictReason reason) {
    Inode& inode = *inodes_.find(ino);
    const std::uint64_t blocks = inodes_.mapped_blocks(inode);
    const std::int64_t now = now_ns();
    if (inode_hook_) inode_hook_(ino);
    while (inode.nlink > 0) {
        const NameId id = inode.name;
        const Name& name = names_.at(id);
        const InodeNumber parent = name.parent;
        // who has no reference to the inode has no dentry of it
        if (Inodes::is_referenced(inode)) raise(DropEvent{parent, std::string(name.view())});
        lose_link(ino, id, now);
        touch_directory(parent, now);
    }
    log_.commit();
    inode.set(kEvicted);
    release_charge(ino);
    // nobody has it open, so nobody can read it any more; the kernel may keep its number for a while
    for (const Piece& piece : inodes_.carve(inode, 0, ~std::uint64_t{0})) {
        segments_.remove_live(piece.extent.segment, piece.extent.blocks, log_.appended());
    }
    evicted_[static_cast<std::size_t>(reason)].files += 1;
    evicted_[static_cast<std::size_t>(reason)].blocks += blocks;
    free_if_unused(ino);
}

// Coldest first, until `blocks` are free or `files` gone; fewer when there are no more that may go.
Evicted Store::evict_some(std::uint64_t blocks, std::uint64_t files, EvictReason reason,
                          const policy::Policy::Filter& filter) {
    Evicted done;
    if (read_only_) return done;
    std::vector<InodeNumber> victims;
    eviction_host_.takes_empty = blocks == kAnyBlocks;
    const std::int64_t now = now_ns();
    if (now >= spare_less_until_ns_) spare_level_ = 0;
    std::size_t part_level = 0;  // a tenant that has only young files is no reason to take everybody's
    std::size_t& level = filter ? part_level : spare_level_;
    while (done.blocks < blocks && done.files < files) {
        victims.clear();
        eviction_host_.spared_ns = kSpared[level];
        policy_->victims(std::min(kPiece, (blocks - done.blocks) * format::kBlock), filter, victims);
        if (victims.empty()) {
            if (level + 1 == kSpared.size()) break;
            // all there is was written just now; not found out anew for every page while that lasts
            ++level;
            if (!filter) spare_less_until_ns_ = now + kSparedLessFor;
            continue;
        }
        for (const InodeNumber ino : victims) {
            done.blocks += inodes_.mapped_blocks(*inodes_.find(ino));
            ++done.files;
            evict_file(ino, reason);
        }
    }
    return done;
}

// Whether evicting can make so much free: nothing goes for a wish that cannot be granted, nor for want of physical
// space, which only comes back when the device is told of whole segments (health.hpp).
bool Store::could_have_space(std::uint64_t blocks) {
    if (blocks > physical_blocks_left()) return false;
    std::uint64_t held = reserved_blocks_;
    for (const auto& [ino, file] : files_) {
        if (const Inode* inode = inodes_.find(ino)) held += inodes_.mapped_blocks(*inode);
        held += file->replaced.blocks();
    }
    return held + blocks <= segments_.data_capacity();
}

// Room for one more name. In evict mode cold files make it.
bool Store::make_metadata_space() {
    while (!has_metadata_space()) {
        if (!evicts_) return false;
        // each eviction lengthens the log, which must not run out of segments before a checkpoint makes it short
        if (log_bytes_since_checkpoint_ + log_.bytes() > log_limit() + sb_.segment_size) {
            wake_committer();
            return false;
        }
        const Evicted gone = evict_some(kAnyBlocks, 1, EvictReason::kNames, {});
        evicted_by_writers_ += gone.files;
        if (gone.files == 0) return false;
    }
    return true;
}

void Store::wake_evictor_when_low(std::uint64_t blocks) {
    if (!evicts_ || evictor_wanted_ || free_blocks() >= low_water() + blocks) return;
    evictor_wanted_ = true;
    evictor_wake_.notify_one();
}

void Store::evictor() {
    std::unique_lock guard(mutex_);
    while (!stop_) {
        evictor_wake_.wait_for(guard, kRest, [this] { return stop_ || evictor_wanted_; });
        evictor_wanted_ = false;
        if (free_blocks() < low_water()) {
            evict_ahead(guard, EvictReason::kSpace, [this] {
                const std::uint64_t free = free_blocks();
                return high_water() - std::min(high_water(), free);
            });
        }
        evict_ahead(guard, EvictReason::kPhysical, [this] { return physical_blocks_to_evict(); });
    }
}

// Until nothing is wanted any more, or nothing can go.
void Store::evict_ahead(std::unique_lock<std::mutex>& guard, EvictReason reason,
                        const std::function<std::uint64_t()>& wanted) {
    while (!stop_ && !read_only_) {
        const std::uint64_t blocks = wanted();
        if (blocks == 0) return;
        if (log_.bytes() > kPendingLog) {
            wake_committer();
            evictor_wake_.wait_for(guard, 10ms);
            continue;
        }
        if (evict_some(blocks, kFilesPerHold, reason, {}).files == 0) {
            evictor_wake_.wait_for(guard, kRest, [this] { return stop_; });  // writers that wait try by themselves
            return;
        }
        guard.unlock();  // a writer's turn
        std::this_thread::yield();
        guard.lock();
    }
}

EvictionStatistics Store::eviction_statistics() {
    const std::lock_guard guard(mutex_);
    EvictionStatistics out;
    out.evicts = evicts_;
    out.low_blocks = low_water();
    out.high_blocks = high_water();
    for (std::size_t i = 0; i < evicted_.size(); ++i) {
        out.files[i] = evicted_[i].files;
        out.blocks[i] = evicted_[i].blocks;
    }
    out.by_writers = evicted_by_writers_;
    if (policy_ != nullptr) out.policy = policy_->statistics();
    return out;
}

}  // namespace kvfs::store
