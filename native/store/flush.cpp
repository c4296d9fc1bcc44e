// From "written" to "published" (flush, the last close) and to "safe" (fsync, sync).
#include "store/durable.hpp"
#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {

Async<int> Store::flush_locked(File& file) {
    int rc = co_await submit_tail(file);
    const int idle = co_await wait_landed(file, 0, ~std::uint64_t{0});
    if (rc == 0) rc = idle;
    if (rc != 0) co_return rc;
    const std::lock_guard guard(mutex_);
    if (file.dirty) commit(file);
    co_return 0;
}

Async<int> Store::flush_now(std::uint64_t ino) {
    InUse file;
    {
        const std::lock_guard guard(mutex_);
        const auto found = find_file(static_cast<InodeNumber>(ino));
        if (!found) co_return 0;
        if (!found->dirty && !found->tail && found->in_flight == 0) co_return found->error;
        file = InUse(*this, found);
    }
    counters_.flushes.fetch_add(1, std::memory_order_relaxed);
    co_await file->lock.lock();
    const uring::AsyncMutex::Held held(file->lock);
    const int rc = co_await flush_locked(*file);
    co_return rc;
}

// The last handle is gone: what is complete is published as close would have done it, what nobody can reach any more is
// let go, and what could not be written is as if it had not been tried.
Async<int> Store::finish_release(InodeNumber ino) {
    InUse file;
    {
        const std::lock_guard guard(mutex_);
        const auto found = find_file(ino);
        if (!found) co_return 0;
        file = InUse(*this, found);
    }
    co_await file->lock.lock();
    const uring::AsyncMutex::Held held(file->lock);
    {
        const std::lock_guard guard(mutex_);
        if (file->handles == 0 && inodes_.find(ino)->nlink == 0) {
            discard_tail(*file);
            co_return 0;
        }
    }
    const int rc = co_await flush_locked(*file);
    if (rc != 0) {
        co_await wait_landed(*file, 0, ~std::uint64_t{0});
        const std::lock_guard guard(mutex_);
        if (file->handles == 0) revert(*file);
    }
    co_return rc;
}

Async<int> Store::fsync_now(std::uint64_t ino) {
    counters_.fsyncs.fetch_add(1, std::memory_order_relaxed);
    int rc = co_await flush_now(ino);
    if (rc != 0) co_return rc;
    std::uint64_t lsn = 0;
    {
        const std::lock_guard guard(mutex_);
        if (read_only_) co_return log_error_;
        lsn = log_.appended();
    }
    rc = co_await durable(lsn);
    co_return rc;
}

Async<int> Store::sync_now() {
    std::vector<InodeNumber> open;
    {
        const std::lock_guard guard(mutex_);
        for (const auto& [ino, file] : files_) open.push_back(ino);
    }
    int first = 0;
    for (const InodeNumber ino : open) {
        const int rc = co_await flush_now(ino);
        if (first == 0) first = rc;
    }
    std::uint64_t lsn = 0;
    {
        const std::lock_guard guard(mutex_);
        if (read_only_) co_return first != 0 ? first : log_error_;
        lsn = log_.appended();
    }
    const int rc = co_await durable(lsn);
    co_return first != 0 ? first : rc;
}

}  // namespace kvfs::store
