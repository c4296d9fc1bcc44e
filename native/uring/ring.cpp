#include "uring/ring.hpp"

#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace kvfs::uring {

Ring::Ring(int fd, unsigned depth, std::span<std::byte> registered) : fd_(fd), registered_memory_(registered) {
    const int rc = io_uring_queue_init(depth, &ring_, 0);
    if (rc < 0) {
        throw std::system_error(
            -rc, std::generic_category(),
            "io_uring cannot be used here (see kernel.io_uring_disabled and the container's seccomp)");
    }
    if (!registered.empty()) {
        // A single registered buffer is at most 1 GiB; unprivileged users often have too little RLIMIT_MEMLOCK:
        // then requests go unregistered, which costs a page-table walk each.
        const iovec whole{registered.data(), registered.size()};
        registered_ = io_uring_register_buffers(&ring_, &whole, 1) == 0;
    }
    reaper_ = std::thread([this] { reap(); });
}

Ring::~Ring() {
    stop_ = true;
    wake_reaper();
    reaper_.join();
    io_uring_queue_exit(&ring_);
}

void Ring::post(std::coroutine_handle<> handle) {
    {
        const std::lock_guard guard(posted_mutex_);
        posted_.push_back(handle);
    }
    wake_reaper();
}

// A no-op whose completion carries nothing but the fact that there is something to look at.
void Ring::wake_reaper() {
    const std::lock_guard guard(submit_mutex_);
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {
        io_uring_submit(&ring_);
        sqe = io_uring_get_sqe(&ring_);
    }
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, nullptr);
    io_uring_submit(&ring_);
}

void Ring::prepare(io_uring_sqe* sqe, Op& op) {
    const auto size = static_cast<unsigned>(op.size);
    const bool fixed = registered_ && op.data >= registered_memory_.data() &&
                       op.data + op.size <= registered_memory_.data() + registered_memory_.size();
    switch (op.kind) {
        case OpKind::kRead:
            if (fixed) {
                io_uring_prep_read_fixed(sqe, fd_, op.data, size, op.offset, 0);
            } else {
                io_uring_prep_read(sqe, fd_, op.data, size, op.offset);
            }
            break;
        case OpKind::kWrite:
            if (fixed) {
                io_uring_prep_write_fixed(sqe, fd_, op.data, size, op.offset, 0);
            } else {
                io_uring_prep_write(sqe, fd_, op.data, size, op.offset);
            }
            break;
        case OpKind::kSync:
            io_uring_prep_fsync(sqe, fd_, IORING_FSYNC_DATASYNC);
            break;
        case OpKind::kPunch:
            io_uring_prep_fallocate(sqe, fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(op.offset),
                                    static_cast<off_t>(op.size));
            break;
    }
    io_uring_sqe_set_data(sqe, &op);
}

void Ring::submit(std::span<Op*> ops) {
    const std::lock_guard guard(submit_mutex_);
    for (Op* op : ops) {
        io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
        while (sqe == nullptr) {  // the submission queue is full: hand it to the kernel and go on
            io_uring_submit(&ring_);
            sqe = io_uring_get_sqe(&ring_);
        }
        prepare(sqe, *op);
        counters_.in_flight.fetch_add(1, std::memory_order_relaxed);
    }
    // EAGAIN and EBUSY mean "the kernel has no room right now"; the entries stay queued, so ask again.
    while (io_uring_sq_ready(&ring_) > 0) {
        const int rc = io_uring_submit(&ring_);
        if (rc < 0 && rc != -EAGAIN && rc != -EBUSY && rc != -EINTR) {
            throw std::system_error(-rc, std::generic_category(), "io_uring_submit");
        }
        if (rc < 0) std::this_thread::yield();
    }
}

void Ring::reap() {
    for (;;) {
        io_uring_cqe* cqe = nullptr;
        const int rc = io_uring_wait_cqe(&ring_, &cqe);
        if (rc == -EINTR) continue;
        if (rc < 0) throw std::system_error(-rc, std::generic_category(), "io_uring_wait_cqe");
        auto* op = static_cast<Op*>(io_uring_cqe_get_data(cqe));
        const int result = cqe->res;
        io_uring_cqe_seen(&ring_, cqe);
        if (op == nullptr) {
            std::vector<std::coroutine_handle<>> posted;
            {
                const std::lock_guard guard(posted_mutex_);
                posted.swap(posted_);
            }
            for (const auto handle : posted) handle.resume();
            if (stop_) return;
            continue;
        }
        finish(*op, result);
    }
}

void Ring::finish(Op& op, int result) {
    const bool transfer = op.kind == OpKind::kRead || op.kind == OpKind::kWrite;
    const bool interrupted = result == -EAGAIN || result == -EINTR;
    if (interrupted || (transfer && result > 0 && static_cast<std::size_t>(result) < op.size)) {
        const auto moved = interrupted ? 0U : static_cast<unsigned>(result);
        counters_.in_flight.fetch_sub(1, std::memory_order_relaxed);
        op.data += moved;
        op.size -= moved;
        op.offset += moved;
        Op* again = &op;
        submit({&again, 1});
        return;
    }
    if (transfer && result == 0) result = -EIO;
    switch (op.kind) {
        case OpKind::kRead:
            counters_.reads.fetch_add(1, std::memory_order_relaxed);
            counters_.read_bytes.fetch_add(op.size, std::memory_order_relaxed);
            break;
        case OpKind::kWrite:
            counters_.writes.fetch_add(1, std::memory_order_relaxed);
            counters_.write_bytes.fetch_add(op.size, std::memory_order_relaxed);
            break;
        case OpKind::kSync:
            counters_.syncs.fetch_add(1, std::memory_order_relaxed);
            break;
        case OpKind::kPunch:
            break;
    }
    counters_.in_flight.fetch_sub(1, std::memory_order_relaxed);
    op.result = result < 0 ? result : 0;
    if (op.result < 0) counters_.errors.fetch_add(1, std::memory_order_relaxed);
    op.batch->one_done();
}

int Batch::result() const {
    for (const Op& op : ops_) {
        if (op.result < 0) return op.result;
    }
    return 0;
}

void Batch::start() {
    left_.store(ops_.size(), std::memory_order_relaxed);
    std::vector<Op*> pointers;
    pointers.reserve(ops_.size());
    for (Op& op : ops_) pointers.push_back(&op);
    ring_.submit(pointers);  // the batch may be gone once the last op is submitted: touch nothing after this
}

void Batch::one_done() {
    // acq_rel: whoever takes the count to zero sees the results that other completions wrote
    if (left_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    if (waiter_) {
        waiter_.resume();
        return;
    }
    const std::lock_guard guard(mutex_);
    done_ = true;
    finished_.notify_all();
}

int Batch::wait() {
    if (ops_.empty()) return 0;
    start();
    std::unique_lock guard(mutex_);
    finished_.wait(guard, [this] { return done_; });
    return result();
}

}  // namespace kvfs::uring
