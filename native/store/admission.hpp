#pragma once

#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {

// What a write adds to its quotas' usage, counted before it is let in and given back when it ends: by then its blocks
// are mapped or in the tail and count by themselves. Declared after the InUse whose end settles that.
class Store::Admission {
public:
    Admission(Store& store, const InUse& file) : store_(store), file_(file) {}
    ~Admission() {
        if (blocks_ == 0) return;
        const std::lock_guard guard(store_.mutex_);
        file_->admitted -= blocks_;
    }
    Admission(const Admission&) = delete;
    Admission& operator=(const Admission&) = delete;

    // For blocks [from, to) of the file. The quota that has no room for them, and nothing is counted; null when all
    // have. The mutex is held.
    Quota* take(std::uint64_t from, std::uint64_t to) { return store_.admit(*file_, from, to, blocks_); }

private:
    Store& store_;
    const InUse& file_;
    std::uint64_t blocks_ = 0;
};

}  // namespace kvfs::store
