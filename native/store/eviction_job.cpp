#include "store/eviction_job.hpp"

#include <algorithm>

namespace kvfs::store {
namespace {

constexpr InodeNumber kLooksPerStep = 4096;
constexpr std::size_t kEvictionsPerStep = 64;
constexpr std::size_t kPendingLog = std::size_t{4} << 20;  // bytes
constexpr std::size_t kPendingEvents = 4096;               // names that the kernel is to be told about

}  // namespace

EvictionJob::Step EvictionJob::step() {
    if (!has_looked_) {
        if (look() == Step::kMore) return Step::kMore;
        sort();
        has_looked_ = true;
        return Step::kMore;
    }
    return evict();
}

// Does the directory lie at or below one of the roots? The store's mutex is held.
bool EvictionJob::is_below(InodeNumber directory) const {
    for (InodeNumber at = directory;;) {
        if (std::find(request_.roots.begin(), request_.roots.end(), at) != request_.roots.end()) return true;
        if (at == kRoot) return false;
        const Inode* inode = store_->inodes_.find(at);
        if (inode == nullptr || !inode->is_directory()) return false;
        at = inode->directory->parent;
    }
}

// Of a file with several names: only when all of them lie where things are to go. The store's mutex is held.
bool EvictionJob::is_wanted(InodeNumber ino) const {
    if (request_.roots.empty()) return true;
    if (std::find(request_.roots.begin(), request_.roots.end(), ino) != request_.roots.end()) return true;
    const Inode& inode = *store_->inodes_.find(ino);
    if (inode.nlink == 0 || !is_below(store_->names_.at(inode.name).parent)) return false;
    const auto extra = store_->inodes_.extra_names.find(ino);
    return extra == store_->inodes_.extra_names.end() ||
           std::all_of(extra->second.begin(), extra->second.end(),
                       [this](NameId id) { return is_below(store_->names_.at(id).parent); });
}

void EvictionJob::keep(Keep reason, std::uint64_t bytes) {
    progress_.kept_files[static_cast<std::size_t>(reason)] += 1;
    progress_.kept_bytes[static_cast<std::size_t>(reason)] += bytes;
}

EvictionJob::Step EvictionJob::look() {
    const std::lock_guard guard(store_->mutex_);
    progress_.to_look = store_->inodes_.end() - 1;
    const InodeNumber end = store_->inodes_.end();
    const InodeNumber stop = end - next_inode_ > kLooksPerStep ? next_inode_ + kLooksPerStep : end;
    for (; next_inode_ < stop; ++next_inode_) {
        const Inode* inode = store_->inodes_.find(next_inode_);
        if (inode == nullptr || !inode->is_regular() || inode->nlink == 0 || !is_wanted(next_inode_)) continue;
        const std::uint64_t bytes = store_->inodes_.mapped_blocks(*inode) * format::kBlock;
        const Keep reason = store_->keep_reason(next_inode_);
        if (reason != Keep::kNothing) {
            keep(reason, bytes);
        } else {
            candidates_.push_back({store_->inodes_.atime(*inode), next_inode_});
        }
    }
    progress_.looked = next_inode_ - 1;
    return next_inode_ < end ? Step::kMore : Step::kDone;
}

void EvictionJob::sort() {
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
        return a.atime_ns != b.atime_ns ? a.atime_ns < b.atime_ns : a.ino < b.ino;
    });
    progress_.wanted_bytes = request_.bytes;
    if (request_.bytes != kAll) return;
    progress_.wanted_bytes = 0;
    const std::lock_guard guard(store_->mutex_);
    for (const Candidate& each : candidates_) {
        if (const Inode* inode = store_->inodes_.find(each.ino)) {
            progress_.wanted_bytes += store_->inodes_.mapped_blocks(*inode) * format::kBlock;
        }
    }
}

EvictionJob::Step EvictionJob::evict() {
    {
        const std::lock_guard events(store_->events_mutex_);
        if (store_->events_.size() > kPendingEvents) return Step::kWait;
    }
    const std::lock_guard guard(store_->mutex_);
    if (store_->read_only_) return Step::kDone;
    if (store_->log_.bytes() > kPendingLog) {
        store_->wake_committer();
        return Step::kWait;
    }
    for (std::size_t done = 0; done < kEvictionsPerStep; ++next_) {
        if (request_.bytes != kAll && progress_.bytes >= request_.bytes) return Step::kDone;
        if (next_ == candidates_.size()) {
            if (request_.bytes == kAll)
                progress_.wanted_bytes = progress_.bytes;  // the others are gone already, or stay
            return Step::kDone;
        }
        const auto [atime_ns, ino] = candidates_[next_];
        const Inode* inode = store_->inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular() || inode->nlink == 0 || !is_wanted(ino)) continue;
        if (request_.bytes != kAll && store_->inodes_.atime(*inode) != atime_ns) {
            ++progress_.used_files;
            continue;
        }
        const std::uint64_t bytes = store_->inodes_.mapped_blocks(*inode) * format::kBlock;
        if (const Keep reason = store_->keep_reason(ino); reason != Keep::kNothing) {
            keep(reason, bytes);
            continue;
        }
        if (!request_.dry_run) store_->evict_file(ino, EvictReason::kCommand);
        ++progress_.files;
        progress_.bytes += bytes;
        ++done;
    }
    return Step::kMore;
}

}  // namespace kvfs::store
