#pragma once

#include "store/store.hpp"

namespace kvfs::store {

// Awaits the moment when the first `lsn` transactions would survive a loss of power. Result: 0 or -errno.
struct Store::Durable {
    Store& store;
    std::uint64_t lsn;
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<> waiter);
    int await_resume() const;
};

}  // namespace kvfs::store
