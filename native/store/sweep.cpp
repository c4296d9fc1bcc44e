#include "store/sweep.hpp"

#include <algorithm>
#include <chrono>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

using namespace std::chrono_literals;

constexpr InodeNumber kSlice = 2048;  // inodes per hold of the mutex: a fraction of a millisecond
constexpr int kSlices = 32;           // per tick of a second

}  // namespace

bool looks_temporary(std::string_view name) {
    constexpr std::string_view kMark = ".tmp";
    for (auto at = name.find(kMark); at != std::string_view::npos; at = name.find(kMark, at + 1)) {
        const std::size_t end = at + kMark.size();
        if (end == name.size() || name[end] == '.' || name[end] == '-') return true;
    }
    return false;
}

// The shortest time after which anything may have to go; 0 when nothing ever has to. The mutex is held.
std::int64_t Store::shortest_life() const {
    std::int64_t shortest = sweep_after_ns_;
    for (const auto& [ino, settings] : settings_) {
        const std::int64_t ttl = settings.ttl_ns.value_or(0);
        if (ttl != 0 && (shortest == 0 || ttl < shortest)) shortest = ttl;
    }
    return shortest;
}

void Store::sweeper() {
    std::unique_lock guard(mutex_);
    while (!stop_) {
        const std::int64_t life = shortest_life();
        if (life == 0) {
            sweeper_wake_.wait(guard, [this] { return stop_ || shortest_life() != 0; });
            continue;
        }
        sweep_pass(guard, life);
        const std::chrono::nanoseconds pause =
            std::clamp<std::chrono::nanoseconds>(std::chrono::nanoseconds(life / 10), 1s, 60s);
        const auto is_shorter = [&] {
            const std::int64_t now = shortest_life();
            return stop_ || (now != 0 && now < life);
        };
        if (!stop_) sweeper_wake_.wait_for(guard, pause, is_shorter);
    }
}

void Store::sweep_pass(std::unique_lock<std::mutex>& guard, std::int64_t life) {
    const std::uint64_t before = counters_.expired_removed.load(std::memory_order_relaxed);
    int slices = 0;
    for (InodeNumber from = kRoot; !stop_ && !read_only_ && from < inodes_.end(); from += kSlice) {
        sweep_slice(from, std::min(from + kSlice, inodes_.end()), now_ns(), life);
        if (++slices % kSlices == 0) {
            sweeper_wake_.wait_for(guard, 1s, [this] { return stop_; });
        } else {
            guard.unlock();
            std::this_thread::yield();
            guard.lock();
        }
    }
    counters_.sweeps.fetch_add(1, std::memory_order_relaxed);
    const std::uint64_t expired = counters_.expired_removed.load(std::memory_order_relaxed) - before;
    if (expired != 0) say(20, "removed files whose time to live is over: " + std::to_string(expired));
}

// Inodes [from, to). The mutex is held.
void Store::sweep_slice(InodeNumber from, InodeNumber to, std::int64_t now, std::int64_t life) {
    for (InodeNumber ino = from; ino < to; ++ino) {
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular() || inode->nlink == 0) continue;
        const Times times = inodes_.times(*inode);
        const std::int64_t idle = now - std::max({times.atime_ns, times.mtime_ns, times.ctime_ns});
        if (idle <= life) continue;
        const bool is_orphan =
            sweep_after_ns_ != 0 && idle > sweep_after_ns_ && looks_temporary(names_.at(inode->name).view());
        bool is_expired = false;
        if (!is_orphan && !settings_.empty()) {
            const std::int64_t ttl = effective_settings(ino).ttl_ns;
            is_expired = ttl != 0 && idle > ttl;
        }
        if ((!is_orphan && !is_expired) || keep_reason(ino) != Keep::kNothing) continue;
        const std::uint64_t bytes = inodes_.mapped_blocks(*inode) * format::kBlock;
        (is_orphan ? counters_.orphans_removed : counters_.expired_removed).fetch_add(1, std::memory_order_relaxed);
        counters_.swept_bytes.fetch_add(bytes, std::memory_order_relaxed);
        if (is_orphan) say(20, "removed an orphaned temporary file: " + quoted(path_of(ino)));
        evict_file(ino, is_orphan ? EvictReason::kOrphan : EvictReason::kExpired);
    }
}

void Store::sweep_now(std::int64_t now) {
    std::unique_lock guard(mutex_);
    const std::int64_t life = shortest_life();
    if (life == 0 || read_only_) return;
    sweep_slice(kRoot, inodes_.end(), now, life);
    counters_.sweeps.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace kvfs::store
