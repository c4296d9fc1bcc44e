#include "store/quota.hpp"

#include <algorithm>
#include <cerrno>

#include "store/admission.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::uint64_t kMoreThanNeeded = 64;  // this fraction of a quota is evicted at once
constexpr std::uint64_t kAnyFiles = ~std::uint64_t{0};

}  // namespace

bool Quota::has_room(std::uint64_t more_blocks, std::uint64_t more_files) const {
    if (more_blocks != 0 && most_bytes != 0 && (blocks + more_blocks) * kBlock > most_bytes) return false;
    return more_files == 0 || most_files == 0 || files + more_files <= most_files;
}

Quota* Quotas::find(InodeNumber directory) const {
    const auto it = by_directory_.find(directory);
    return it == by_directory_.end() ? nullptr : it->second.get();
}

std::shared_ptr<Quota> Quotas::share(InodeNumber directory) const {
    const auto it = by_directory_.find(directory);
    return it == by_directory_.end() ? nullptr : it->second;
}

Quota& Quotas::make(InodeNumber directory) {
    auto& quota = by_directory_[directory];
    if (!quota) {
        quota = std::make_shared<Quota>();
        quota->directory = directory;
    }
    return *quota;
}

// which quotas (the mutex is held) ------------------------------------------------------------

// Of what lies in `directory`.
QuotaList Store::quotas_in(InodeNumber directory) {
    QuotaList out;
    if (quotas_.is_idle()) return out;
    for (InodeNumber at = directory;; at = inodes_.find(at)->directory->parent) {
        if (inodes_.find(at)->has(kHasQuota)) out.push_back(quotas_.share(at));
        if (at == kRoot) return out;
    }
}

QuotaList Store::quotas_over(InodeNumber ino) {
    if (quotas_.is_idle() || ino == kRoot) return {};
    const Inode& inode = *inodes_.find(ino);
    if (inode.nlink != 0) return quotas_in(names_.at(inode.name).parent);
    const auto it = quotas_.unlinked().find(ino);
    return it == quotas_.unlinked().end() ? QuotaList{} : it->second;
}

// counting (the mutex is held) -------------------------------------------------------------------

// As st_blocks has them, in blocks of the store.
std::uint64_t Store::blocks_of_file(const Inode& inode, const File* file) const {
    std::uint64_t blocks = inodes_.mapped_blocks(inode);
    if (file == nullptr) return blocks;
    blocks += file->promised.count(0, ~std::uint64_t{0});
    if (file->tail) {
        // written but not placed yet: it will be, and du must not say nothing is there
        const std::uint64_t from = file->tail.start / kBlock;
        const std::uint64_t to = (file->tail.end + kBlock - 1) / kBlock;
        blocks += to - from;
        inodes_.visit(inode, from, to, [&](std::uint64_t logical, const Extent& extent) {
            blocks -= std::min(to, logical + extent.blocks) - std::max(from, logical);
        });
    }
    return blocks;
}

std::uint64_t Store::charged_blocks(InodeNumber ino) {
    const auto file = files_.find(ino);
    return file == files_.end() ? inodes_.mapped_blocks(*inodes_.find(ino)) : file->second->charged;
}

static void add(const QuotaList& quotas, std::uint64_t blocks, std::uint64_t files) {
    for (const auto& quota : quotas) {
        quota->blocks += blocks;  // modulo 2^64: a difference may be negative
        quota->files += files;
    }
}

void Store::charge_new(InodeNumber ino) { add(quotas_over(ino), 0, 1); }

void Store::settle_charge(File& file) {
    if (quotas_.is_idle()) return;
    const std::uint64_t now = used_blocks(file.ino);
    if (now == file.charged) return;
    add(quotas_over(file.ino), now - file.charged, 0);
    file.charged = now;
}

// The names of the inode have changed since `before` was what it counted for.
void Store::recharge(InodeNumber ino, const QuotaList& before) {
    Inode& inode = *inodes_.find(ino);
    if (inode.nlink == 0) {
        if (!before.empty()) quotas_.unlinked()[ino] = before;
        if (inode.has(kHasQuota)) {
            quotas_.drop(ino);
            inode.clear(kHasQuota);
        }
        return;
    }
    if (quotas_.is_idle()) return;
    const QuotaList after = quotas_over(ino);
    if (after == before) return;
    const std::uint64_t blocks = charged_blocks(ino);
    add(before, -blocks, ~std::uint64_t{0});
    add(after, blocks, 1);
}

// It has no name, and nobody can open it any more.
void Store::release_charge(InodeNumber ino) {
    const auto it = quotas_.unlinked().find(ino);
    if (it == quotas_.unlinked().end()) return;
    add(it->second, -inodes_.mapped_blocks(*inodes_.find(ino)), ~std::uint64_t{0});
    quotas_.unlinked().erase(it);
}

// What charged_blocks() has to be, from the maps themselves.
std::uint64_t Store::used_blocks(InodeNumber ino) {
    const auto it = files_.find(ino);
    const File* file = it == files_.end() ? nullptr : it->second.get();
    return blocks_of_file(*inodes_.find(ino), file) + (file == nullptr ? 0 : file->admitted);
}

void Store::count_below(InodeNumber directory, std::uint64_t& blocks, std::uint64_t& files) {
    blocks = files = 0;
    std::vector<InodeNumber> pending{directory};
    while (!pending.empty()) {
        const InodeNumber at = pending.back();
        pending.pop_back();
        for (const NameId id : inodes_.find(at)->directory->children) {
            const InodeNumber ino = names_.at(id).ino;
            const Inode& inode = *inodes_.find(ino);
            if (inode.name != id) continue;  // another of its names is the one it counts by
            ++files;
            if (inode.is_directory()) pending.push_back(ino);
            blocks += used_blocks(ino);
        }
    }
}

// `limit`: nothing when the attribute was removed.
void Store::set_quota(InodeNumber directory, Setting which, std::optional<std::uint64_t> limit) {
    Inode& inode = *inodes_.find(directory);
    if (!inode.has(kHasQuota)) {
        if (!limit) return;
        // what is counted for a file is kept up to date only while there is a quota at all
        const bool was_idle = quotas_.is_idle();
        for (const auto& [ino, file] : files_) {
            if (was_idle) {
                file->charged = used_blocks(ino);
            } else {
                settle_charge(*file);
            }
        }
        Quota& made = quotas_.make(directory);
        count_below(directory, made.blocks, made.files);
        inode.set(kHasQuota);
    }
    Quota& quota = *quotas_.find(directory);
    (which == Setting::kQuotaBytes ? quota.limits_bytes : quota.limits_files) = limit.has_value();
    (which == Setting::kQuotaBytes ? quota.most_bytes : quota.most_files) = limit.value_or(0);
    if (quota.limits_bytes || quota.limits_files) return;
    quotas_.drop(directory);
    inode.clear(kHasQuota);
}

// letting in (the mutex is held) ------------------------------------------------------------------

// The nearest that has no room for so much more; null when all have.
Quota* Store::first_full(const QuotaList& quotas, std::uint64_t blocks, std::uint64_t files) {
    for (const auto& quota : quotas) {
        if (!quota->has_room(blocks, files)) return quota.get();
    }
    return nullptr;
}

int Store::refuse(Quota& quota) {
    ++quota.refused;
    counters_.quota_refused.fetch_add(1, std::memory_order_relaxed);
    return -EDQUOT;
}

// In evict mode, cold files below the quota make room for so much more, and for a little beyond that, so that the next
// write need not look for victims again. Whether any went.
bool Store::evict_within(const Quota& quota, std::uint64_t blocks, std::uint64_t files) {
    const std::uint64_t most_blocks = quota.most_bytes / kBlock;
    const bool lacks_blocks = !quota.has_room(blocks, 0);
    if (!evicts_ || (lacks_blocks && blocks > most_blocks)) return false;
    const auto is_below = [&](InodeNumber ino) {
        const Inode* inode = inodes_.find(ino);
        if (inode == nullptr || inode->nlink == 0) return false;
        for (InodeNumber at = names_.at(inode->name).parent;; at = inodes_.find(at)->directory->parent) {
            if (at == quota.directory) return true;
            if (at == kRoot) return false;
        }
    };
    std::uint64_t gone = 0;
    if (lacks_blocks) {
        const std::uint64_t over = quota.blocks + blocks - most_blocks;
        gone +=
            evict_some(std::max(over, most_blocks / kMoreThanNeeded), kAnyFiles, EvictReason::kQuota, is_below).files;
    }
    if (!quota.has_room(0, files)) {
        const std::uint64_t over = quota.files + files - quota.most_files;
        gone +=
            evict_some(kAnyBlocks, std::max(over, quota.most_files / kMoreThanNeeded), EvictReason::kQuota, is_below)
                .files;
    }
    return gone != 0;
}

// Before a rename into a full quota. What is in its way after that, rename_locked() meets.
void Store::make_rename_fit(std::uint64_t parent, std::string_view name, std::uint64_t new_parent) {
    if (!evicts_ || quotas_.is_idle() || parent == new_parent) return;
    int error = 0;
    if (directory(parent, error) == nullptr || directory(new_parent, error) == nullptr) return;
    const NameId id = names_.find(static_cast<InodeNumber>(parent), name);
    if (id == 0) return;
    const InodeNumber moved = names_.at(id).ino;
    const Inode& inode = *inodes_.find(moved);
    if (inode.is_directory() ? !inode.directory->children.empty() : inode.nlink > 1) return;  // it will be EXDEV
    const QuotaList before = quotas_in(static_cast<InodeNumber>(parent));
    QuotaList after = quotas_in(static_cast<InodeNumber>(new_parent));
    std::erase_if(after,
                  [&](const auto& quota) { return std::find(before.begin(), before.end(), quota) != before.end(); });
    const std::uint64_t blocks = inode.is_directory() ? 0 : charged_blocks(moved);
    while (Quota* const full = first_full(after, blocks, 1)) {
        if (!evict_within(*full, blocks, 1)) return;
    }
}

// Whether a rename of `moved` (the only name that it loses is in `from`) is one that quotas allow.
int Store::check_quotas_of_rename(InodeNumber moved, InodeNumber from, InodeNumber to, bool exchange) {
    if (from == to || quotas_.is_idle()) return 0;
    const QuotaList before = quotas_in(from);
    QuotaList after = quotas_in(to);
    if (before == after) return 0;
    const Inode& inode = *inodes_.find(moved);
    if (exchange || (inode.is_directory() && !inode.directory->children.empty())) return -EXDEV;
    if (!inode.is_directory() && inode.nlink > 1) return -EXDEV;
    std::erase_if(after,
                  [&](const auto& quota) { return std::find(before.begin(), before.end(), quota) != before.end(); });
    Quota* const full = first_full(after, inode.is_directory() ? 0 : charged_blocks(moved), 1);
    return full == nullptr ? 0 : refuse(*full);
}

// Null when blocks [from, to) of the file may be written: what they add is counted. Else the quota that is in the way.
Quota* Store::admit(File& file, std::uint64_t from, std::uint64_t to, std::uint64_t& admitted) {
    if (quotas_.is_idle()) return nullptr;
    std::uint64_t blocks = 0;
    for (const auto& [start, end] : without_space(file, from, to)) blocks += end - start;
    if (blocks == 0) return nullptr;
    const QuotaList quotas = quotas_over(file.ino);
    while (Quota* const full = first_full(quotas, blocks, 0)) {
        if (!evict_within(*full, blocks, 0)) return full;
    }
    add(quotas, blocks, 0);
    file.charged += blocks;
    file.admitted += blocks;
    admitted += blocks;
    return nullptr;
}

Store::SettingsGauges Store::settings_gauges() {
    const std::lock_guard guard(mutex_);
    return {quotas_.all().size(), settings_.size()};
}

// asking --------------------------------------------------------------------------------------------

std::vector<Store::QuotaReport> Store::quota_reports(bool recount) {
    const std::lock_guard guard(mutex_);
    std::vector<QuotaReport> out;
    for (const auto& [directory, quota] : quotas_.all()) {
        QuotaReport report{path_of(directory), directory, *quota, 0, 0};
        if (recount) {
            count_below(directory, report.counted_blocks, report.counted_files);
            for (const auto& [ino, quotas] : quotas_.unlinked()) {
                if (std::find(quotas.begin(), quotas.end(), quota) == quotas.end()) continue;
                report.counted_blocks += used_blocks(ino);
                ++report.counted_files;
            }
        }
        out.push_back(std::move(report));
    }
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
    return out;
}

}  // namespace kvfs::store
