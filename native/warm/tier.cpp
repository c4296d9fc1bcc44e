#include "warm/tier.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <utility>

namespace kvfs::warm {
namespace {

// Every page takes a descriptor and a mapping. A process runs into both limits hard, so some are left for the rest of
// it: stores, clones of /dev/fuse, thread stacks, Python.
std::uint64_t most_pages() {
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 0;
    if (files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0) getrlimit(RLIMIT_NOFILE, &files);
    }
    std::uint64_t mappings = 65530;  // the kernel's default
    if (std::uint64_t found = 0; std::ifstream("/proc/sys/vm/max_map_count") >> found) mappings = found;
    return std::min<std::uint64_t>(files.rlim_cur, mappings) / 4 * 3;
}

}  // namespace

std::uint64_t default_budget() { return Headroom().read().total / 4; }

Tier::Tier(pool::Pool& store, const Options& options)
    : store_(store),
      options_([&options] {
          Options chosen = options;
          if (chosen.largest_file == 0) chosen.largest_file = chosen.budget_bytes / 4;
          return chosen;
      }()),
      most_pages_(most_pages()),
      headroom_(options.system_root),
      limit_bytes_(options.budget_bytes),
      keeper_(
          headroom_, options.system_root,
          {.shrink = [this](std::uint64_t bytes) { shrink(bytes); },
           .recover = [this] { recover(); },
           .tidy = [this] { tidy(); },
           .is_busy = [this] { return resident_->pages.load() > 0 || limit_bytes_.load() < options_.budget_bytes; }}) {
    if (options.passthrough) enable_passthrough(options.fuse_fd);
}

Tier::~Tier() {
    keeper_.stop();
    // What mappings wrote up to now; what they write from now on nobody can promise to keep.
    settle_abandoned();
    settle_lingering();
    {
        std::unique_lock lock(stagings_mutex_);
        stagings_done_.wait(lock, [this] { return stagings_in_flight_ == 0; });
    }
    for (const PagePtr& page : lingering_) store_.release(page->ino(), true);
    for (Shard& each : shards_) {
        std::unordered_map<std::uint64_t, Slot> slots;
        const std::lock_guard guard(each.mutex);
        slots.swap(each.slots);
    }
    if (has_passthrough_.load(std::memory_order_acquire)) passthrough_->detach();
}

void Tier::tidy() {
    std::vector<PagePtr> gone;  // freed after the lock
    {
        const std::lock_guard guard(order_mutex_);
        gone.swap(buried_);
    }
    settle_lingering();
}

void Tier::enable_passthrough(int fuse_fd) {
    passthrough_ = std::make_shared<Passthrough>(fuse_fd);
    has_passthrough_.store(true, std::memory_order_release);
}

PagePtr Tier::find(std::uint64_t ino) {
    Shard& place = shard(ino);
    const std::lock_guard guard(place.mutex);
    const auto it = place.slots.find(ino);
    if (it == place.slots.end() || it->second.page == nullptr || it->second.page->is_resized_) {
        ++place.misses;
        return nullptr;
    }
    ++place.hits;
    it->second.page->touched_.store(true, std::memory_order_relaxed);
    return it->second.page;
}

bool Tier::has(std::uint64_t ino) {
    Shard& place = shard(ino);
    const std::lock_guard guard(place.mutex);
    const auto it = place.slots.find(ino);
    return it != place.slots.end() && it->second.page != nullptr && !it->second.page->is_resized_;
}

PagePtr Tier::opened(std::uint64_t ino) {
    if (!offers_passthrough()) return nullptr;
    Shard& place = shard(ino);
    const std::lock_guard guard(place.mutex);
    const auto it = place.slots.find(ino);
    if (it == place.slots.end() || it->second.page == nullptr || it->second.page->is_resized_) return nullptr;
    Page& page = *it->second.page;
    if (page.backing_id() == 0) {
        const int id = passthrough_->add(page.fd());
        if (id < 0) return nullptr;
        page.passthrough_ = passthrough_;
        page.backing_id_.store(id, std::memory_order_release);
    }
    ++page.users_;
    ++page.uses_;
    users_.fetch_add(1, std::memory_order_relaxed);
    page.touched_.store(true, std::memory_order_relaxed);
    return it->second.page;
}

void Tier::released(const PagePtr& page) {
    users_.fetch_sub(1, std::memory_order_relaxed);
    const bool is_tracked = page->is_tracked();
    Shard& place = shard(page->ino());
    PagePtr gone;  // freed after the lock
    {
        const std::lock_guard guard(place.mutex);
        if (--page->users_ > 0) return;
        if (is_tracked) {
            if (std::exchange(page->is_lingering_, true)) return;
            page->is_leaving_ = true;
        } else {
            if (!page->is_leaving_) return;
            const auto it = place.slots.find(page->ino());
            if (it == place.slots.end() || it->second.page != page) return;
            gone = std::move(it->second.page);
            if (it->second.staging == nullptr) place.slots.erase(it);
        }
    }
    if (is_tracked) linger(page);
}

bool Tier::drop(std::uint64_t ino) {
    Shard& place = shard(ino);
    PagePtr gone;
    const std::lock_guard guard(place.mutex);
    const auto it = place.slots.find(ino);
    if (it == place.slots.end()) return true;
    Slot& slot = it->second;
    if (slot.staging != nullptr) std::exchange(slot.staging, nullptr)->is_stale = true;
    if (slot.page != nullptr && (slot.page->users_ > 0 || slot.page->is_lingering_)) return false;
    gone = std::move(slot.page);
    place.slots.erase(it);
    return true;
}

void Tier::evict(std::uint64_t ino) {
    if (drop(ino)) return;
    Shard& place = shard(ino);
    const std::lock_guard guard(place.mutex);
    const auto it = place.slots.find(ino);
    if (it != place.slots.end() && it->second.page != nullptr) it->second.page->is_leaving_ = true;
}

void Tier::forget(std::uint64_t ino) {
    Shard& place = shard(ino);
    PagePtr gone;
    {
        const std::lock_guard guard(place.mutex);
        const auto it = place.slots.find(ino);
        if (it == place.slots.end()) return;
        if (it->second.staging != nullptr) it->second.staging->is_stale = true;
        gone = std::move(it->second.page);
        place.slots.erase(it);
    }
    if (gone == nullptr) return;
    // Giving tens of MiB back to the kernel takes too long for somebody who holds the store's mutex.
    {
        const std::lock_guard guard(order_mutex_);
        buried_.push_back(std::move(gone));
    }
    keeper_.poke();
}

int Tier::warmth(std::uint64_t ino, Warmth& out, std::uint64_t& size) {
    store::Attributes attributes{};
    if (const int rc = store_.getattr(ino, attributes); rc != 0) return rc;
    size = attributes.size;
    if (has(ino)) {
        out = Warmth::kWarm;
        return 0;
    }
    if (!S_ISREG(attributes.mode)) {
        out = Warmth::kNotRegular;
    } else if (size < options_.least_file) {
        out = Warmth::kTooSmall;
    } else if (size > options_.largest_file) {
        out = Warmth::kTooLarge;
    } else {
        out = Warmth::kCold;
    }
    return 0;
}

Statistics Tier::statistics() const {
    const auto get = [](const std::atomic<std::uint64_t>& value) { return value.load(std::memory_order_relaxed); };
    Statistics out{};
    out.budget_bytes = options_.budget_bytes;
    out.limit_bytes = get(limit_bytes_);
    out.bytes = get(resident_->bytes);
    out.pages = get(resident_->pages);
    out.users = get(users_);
    for (const Shard& each : shards_) {
        const std::lock_guard guard(each.mutex);
        out.hits += each.hits;
        out.misses += each.misses;
    }
    out.stagings = get(counters_.stagings);
    out.staged_bytes = get(counters_.staged_bytes);
    out.staging_failures = get(counters_.staging_failures);
    out.stale_stagings = get(counters_.stale_stagings);
    out.refused = get(counters_.refused);
    out.evictions = get(counters_.evictions);
    out.pressure_shrinks = get(counters_.pressure_shrinks);
    out.refreshes = get(counters_.refreshes);
    out.mapped_bytes = get(counters_.mapped_bytes);
    out.passthrough = offers_passthrough();
    out.pressure_trigger = keeper_.has_trigger();
    out.memory = memory_.kind();
    return out;
}

}  // namespace kvfs::warm
