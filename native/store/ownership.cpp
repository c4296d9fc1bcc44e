#include "store/ownership.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

std::string name_of(const format::HostMark& mark) {
    return {mark.host_name, strnlen(mark.host_name, sizeof mark.host_name)};
}

}  // namespace

OwnerRecord read_owner_record(const std::byte* data, const format::Uuid& uuid) {
    OwnerRecord out;
    const auto mark_at = [&](std::uint64_t offset, std::optional<format::HostMark>& to) {
        format::HostMark mark{};
        std::memcpy(&mark, data + offset, sizeof mark);
        if (format::is_host_mark(mark, uuid)) to = mark;
    };
    mark_at(format::kHostBeat, out.beat);
    mark_at(format::kHostClaim, out.claim);
    for (const std::uint32_t copy : {0U, 1U}) {
        format::Superblock sb{};
        std::memcpy(&sb, data + (copy == 0 ? format::kSuperblockA : format::kSuperblockB), sizeof sb);
        if (format::check_superblock(sb).fault == format::Fault::kValid) out.superblocks[copy] = sb;
    }
    return out;
}

std::string who_took(const OwnerRecord& record, const Holding& mine) {
    if (record.claim && record.claim->epoch > mine.epoch) return "host " + name_of(*record.claim);
    const format::Superblock* foreign = nullptr;
    bool is_mine_there = false;
    for (const auto& sb : record.superblocks) {
        if (sb && sb->uuid != mine.uuid) foreign = &*sb;
        if (!sb || sb->uuid != mine.uuid) continue;
        is_mine_there = true;
        if (sb->epoch < mine.epoch || (sb->epoch == mine.epoch && sb->host_uuid == mine.host)) continue;
        const bool is_named = record.beat && record.beat->host_uuid == sb->host_uuid;
        return "host " + (is_named ? name_of(*record.beat) : format::uuid_text(sb->host_uuid));
    }
    // one alone may have been there before this volume; who formats writes them all
    if (foreign == nullptr || is_mine_there) return {};
    return "whoever formatted it anew as volume " + format::uuid_text(foreign->uuid);
}

// The volume has to be this host's, or nobody's. Asked when it is opened, and again when recovery has read it, just
// before the first write, as that may be much later. The first time gives this mount its epoch.
void Store::check_owner(const std::string& path, const Options& options) {
    const Buffer data = Buffer::heap(kOwnerBytes);
    const ssize_t got = io_.read(data.data(), kOwnerBytes, 0);
    if (got != static_cast<ssize_t>(kOwnerBytes)) {
        throw OpenError(got < 0 ? errno : EIO, path + ": cannot read who owns it");
    }
    const OwnerRecord record = read_owner_record(data.data(), sb_.uuid);
    std::uint64_t highest = sb_.epoch;
    std::string owner(sb_.owner, sb_.owner_bytes);
    const bool is_clean = (sb_.flags & format::kClean) != 0;
    bool is_free = (sb_.compat & format::kOwnedByHost) == 0 || is_clean;
    bool is_mine = sb_.host_uuid == options.host;
    if (record.claim && record.claim->epoch > sb_.epoch) {
        highest = record.claim->epoch;
        owner.assign(record.claim->owner, record.claim->owner_bytes);
        is_free = false;
        is_mine = record.claim->host_uuid == options.host;
    }
    const bool is_watched = options.host != format::Uuid{};
    if (is_watched && !is_free && !is_mine) {
        throw OpenError(EREMOTE, path + ": belongs to another host: " + owner);
    }
    const bool was_mounted = std::any_of(record.superblocks.begin(), record.superblocks.end(), [&](const auto& sb) {
        return sb && sb->uuid == sb_.uuid && sb->epoch > sb_.epoch;
    });
    if (is_watched && (was_mounted || (holding_.epoch != 0 && highest >= holding_.epoch))) {
        throw OpenError(EREMOTE, path + ": another host has taken it while it was being recovered here");
    }
    owner_.is_watched = is_watched;
    is_inherited_ = is_watched && sb_.host_uuid != options.host && !is_clean;
    holding_ = {sb_.uuid, options.host, highest + 1, options.host_name, options.owner};
}

// Reads who owns the volume. 0: this host, still; -EROFS: it has been fenced; else what the device said. No mutex.
int Store::look_at_owner() {
    const auto begin = OwnerClock::now();
    const auto data = std::make_shared<Buffer>(Buffer::heap(kOwnerBytes));
    const int rc = read_device(data, kOwnerBytes, 0);
    std::string taker;
    if (rc == 0) taker = who_took(read_owner_record(data->data(), holding_.uuid), holding_);
    const std::lock_guard guard(mutex_);
    ++owner_.looks;
    if (rc != 0) {
        ++owner_.failed_looks;
        return rc;
    }
    if (!taker.empty()) {
        fence("taken over by " + taker);
        if (!std::exchange(owner_.is_taker_known, true)) health_.reason = "taken over by " + taker;
    }
    if (is_fenced()) return -EROFS;
    owner_.last_look = std::max(owner_.last_look, begin);
    return 0;
}

// A look, unless the last one is newer than `age`.
int Store::confirm_owner(OwnerClock::duration age) {
    {
        const std::lock_guard guard(mutex_);
        if (!owner_.is_watched) return 0;
        if (is_fenced()) return -EROFS;
        if (OwnerClock::now() - owner_.last_look < age) return 0;
    }
    return look_at_owner();
}

int Store::beat(format::HostState state) {
    auto block = std::make_shared<Buffer>(Buffer::heap(format::kBlock));
    format::HostMark mark{};
    mark.uuid = holding_.uuid;
    mark.host_uuid = holding_.host;
    mark.epoch = holding_.epoch;
    mark.written_ns = now_ns();
    mark.state = state;
    const std::size_t owner_bytes = std::min(holding_.owner.size(), sizeof mark.owner);
    mark.owner_bytes = static_cast<std::uint32_t>(owner_bytes);
    std::memcpy(mark.owner, holding_.owner.data(), owner_bytes);
    std::memcpy(mark.host_name, holding_.host_name.data(),
                std::min(holding_.host_name.size(), sizeof mark.host_name - 1));
    {
        const std::lock_guard guard(mutex_);
        mark.count = ++owner_.beats;
    }
    format::seal_host_mark(mark);
    std::memcpy(block->data(), &mark, sizeof mark);
    return wait_for(send_write(std::move(block), format::kBlock, format::kHostBeat));
}

// The volume is another's: nothing is written from here on. For good, as this mount's picture of it is out of date. The
// mutex is held.
void Store::fence(const std::string& reason) {
    if (is_fenced()) return;
    is_fenced_ = true;
    log_error_ = -EIO;
    read_only_ = true;
    checkpoint_done_.notify_all();
    committer_wake_.notify_one();
    owner_wake_.notify_one();
    health_.condition = Condition::kFenced;
    health_.error = -ESTALE;
    health_.since_ns = now_ns();
    health_.reason = reason;
    health_.last_answer.clear();
    ++health_.failures;
    say(50, reason + ": the volume is read-only from here on, and what was not fsynced is lost; unmount it");
}

// Tells a claimant that no change of this mount is on its way any more. The mutex is held, but not while it waits.
void Store::yield_volume(std::unique_lock<std::mutex>& guard) {
    if (committer_is_busy_ || trims_under_way_ != 0 || headers_in_flight_ != 0 || rings_->changes_in_flight() != 0) {
        return;
    }
    owner_.has_yielded = true;  // one try: a target with reservations refuses it, and the claimant does without
    guard.unlock();
    beat(format::HostState::kYields);
    guard.lock();
}

// A thread of its own.
void Store::owner_watch() {
    constexpr std::chrono::milliseconds kYieldInterval{20};
    std::unique_lock guard(mutex_);
    while (!stop_) {
        if (is_fenced() && !owner_.has_yielded) {
            yield_volume(guard);
            if (!owner_.has_yielded) owner_wake_.wait_for(guard, kYieldInterval, [this] { return stop_; });
            continue;
        }
        if (is_fenced() && owner_.is_taker_known) {
            owner_wake_.wait(guard, [this] { return stop_; });
            break;
        }
        const bool was_fenced = is_fenced();
        owner_wake_.wait_for(guard, kLookInterval, [&] { return stop_ || is_fenced() != was_fenced; });
        if (stop_ || is_fenced() != was_fenced) continue;
        guard.unlock();
        const int looked = look_at_owner();
        const int rc = looked == 0 ? beat(format::HostState::kHolds) : 0;
        guard.lock();
        if (rc == -EBADE) fence(kRefusedByTarget);
    }
}

OwnershipState Store::ownership() {
    const std::lock_guard guard(mutex_);
    return owner_;
}

}  // namespace kvfs::store
