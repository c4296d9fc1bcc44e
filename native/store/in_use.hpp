#pragma once

#include <memory>
#include <utility>

#include "store/store.hpp"

namespace kvfs::store {

// Keeps a file's state, and with it its inode, while a coroutine works on it.
class Store::InUse {
public:
    InUse() = default;
    // The mutex is held.
    InUse(Store& store, std::shared_ptr<File> file) : store_(&store), file_(std::move(file)) { ++file_->users; }
    InUse(InUse&& other) noexcept : store_(other.store_), file_(std::move(other.file_)) {}
    InUse& operator=(InUse&& other) noexcept {
        std::swap(store_, other.store_);
        std::swap(file_, other.file_);
        return *this;
    }
    InUse(const InUse&) = delete;
    InUse& operator=(const InUse&) = delete;
    // Takes the mutex. The file's lock, which a reclaimer of tails may have been turned away by, is free again.
    ~InUse() {
        if (file_ == nullptr) return;
        bool wanted = false;
        {
            const std::lock_guard guard(store_->mutex_);
            --file_->users;
            store_->settle_charge(*file_);
            wanted = file_->tail && store_->tail_buffers_wanted_.load() != 0;
            if (file_->handles == 0) store_->drop_file_if_idle(file_->ino);
        }
        if (wanted) store_->reclaim_tail();
    }

    File& operator*() const { return *file_; }
    File* operator->() const { return file_.get(); }
    explicit operator bool() const { return file_ != nullptr; }
    [[nodiscard]] const std::shared_ptr<File>& shared() const { return file_; }

private:
    Store* store_ = nullptr;
    std::shared_ptr<File> file_;
};

}  // namespace kvfs::store
