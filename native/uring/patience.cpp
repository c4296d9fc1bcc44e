#include "uring/patience.hpp"

#include <algorithm>
#include <ctime>
#include <vector>

namespace kvfs::uring {
namespace {

using namespace std::chrono_literals;

std::int64_t clock_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

Patience::Patience(Rings& rings, Duration limit) : rings_(rings), limit_(limit) {
    rings_.tick(clock_ns());
    watch_ = std::thread([this] { watch(); });
}

Patience::~Patience() {
    {
        const std::lock_guard guard(mutex_);
        stop_ = true;
        wake_.notify_all();
    }
    watch_.join();
}

void Patience::begin(Waiting& waiting, std::coroutine_handle<> waiter) {
    waiting.waiter = waiter;
    waiting.since_ns = clock_ns();
    waiting.shard = static_cast<std::uint8_t>(Ring::thread_number() % kShards);
    waiting.owners.fetch_add(2, std::memory_order_relaxed);  // for the task, and for the call that begins it
}

void Patience::list(Waiting& waiting) {
    Shard& shard = shards_[waiting.shard];
    const std::lock_guard guard(shard.mutex);
    if (waiting.is_over) return;
    waiting.is_listed = true;
    waiting.previous = shard.last;
    (shard.last == nullptr ? shard.first : shard.last->next) = &waiting;
    shard.last = &waiting;
}

void Patience::unlist(Shard& shard, Waiting& waiting) {
    (waiting.previous == nullptr ? shard.first : waiting.previous->next) = waiting.next;
    (waiting.next == nullptr ? shard.last : waiting.next->previous) = waiting.previous;
    waiting.is_listed = false;
}

bool Patience::end(Waiting& waiting) {
    Shard& shard = shards_[waiting.shard];
    const std::lock_guard guard(shard.mutex);
    waiting.is_over = true;
    if (waiting.is_listed) unlist(shard, waiting);
    if (waiting.is_late) still_going_.fetch_sub(1, std::memory_order_relaxed);
    return !waiting.is_late;
}

// Whoever is listed has its task as an owner: it is there as long as the shard's mutex is held, and its waiter until it
// is resumed, which is this thread's to do from here on.
void Patience::give_up(std::int64_t before_ns) {
    std::vector<std::coroutine_handle<>> gone;
    for (Shard& shard : shards_) {
        const std::lock_guard guard(shard.mutex);
        Waiting* next = nullptr;
        for (Waiting* each = shard.first; each != nullptr && each->since_ns < before_ns; each = next) {
            next = each->next;
            if (!each->borrowed.leave()) continue;
            unlist(shard, *each);
            each->is_late = true;
            still_going_.fetch_add(1, std::memory_order_relaxed);
            given_up_.fetch_add(1, std::memory_order_relaxed);
            gone.push_back(each->waiter);
        }
    }
    for (const auto waiter : gone) rings_.here().post(waiter);
}

void Patience::watch() {
    const Duration tick = std::clamp<Duration>(limit_ / 8, 5ms, 1s);
    const Duration slow = std::min<Duration>(limit_ / 2, 1s);
    std::unique_lock guard(mutex_);
    while (!wake_.wait_for(guard, tick, [this] { return stop_; })) {
        const std::int64_t now = clock_ns();
        // a request may be younger than its tick, by the time that the tick lasted
        const Duration age = Duration(now - rings_.oldest_ns(now)) - tick;
        oldest_.store(std::max<std::int64_t>(age.count(), 0), std::memory_order_relaxed);
        is_slow_.store(age > slow, std::memory_order_relaxed);
        if (age > limit_) give_up(now - limit_.count());
        rings_.tick(now);
    }
}

}  // namespace kvfs::uring
