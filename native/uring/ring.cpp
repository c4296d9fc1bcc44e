#include "uring/ring.hpp"

#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <system_error>

#include "uring/turn.hpp"

namespace kvfs::uring {
namespace {

constexpr std::size_t kMostRegistered = std::size_t{1} << 30;  // the kernel's limit for one buffer

constexpr unsigned kUnnumbered = ~0U;
thread_local unsigned number_of_thread = kUnnumbered;

// Requests are lost when the ring does not take them, and with them whoever waits: recovery is the answer.
[[noreturn]] void die(const char* what, int error) noexcept {
    std::fprintf(stderr, "kvfs: %s: %s\n", what, std::strerror(error));
    std::terminate();
}

}  // namespace

unsigned Ring::thread_number() {
    static std::atomic<unsigned> threads{0};
    if (number_of_thread == kUnnumbered) number_of_thread = threads.fetch_add(1, std::memory_order_relaxed);
    return number_of_thread;
}

Ring::Ring(int fd, Tap* tap, unsigned depth, std::span<std::byte> registered, unsigned number, Load& demand,
           PrefetchLimits limits)
    : fd_(fd), tap_(tap), limits_(limits), demand_(demand) {
    const int rc = io_uring_queue_init(depth, &ring_, 0);
    if (rc < 0) {
        throw std::system_error(
            -rc, std::generic_category(),
            "io_uring cannot be used here (see kernel.io_uring_disabled and the container's seccomp)");
    }
    std::vector<iovec> pieces;
    for (; !registered.empty(); registered = registered.subspan(pieces.back().iov_len)) {
        pieces.push_back({registered.data(), std::min(registered.size(), kMostRegistered)});
        registered_.emplace_back(registered.data(), pieces.back().iov_len);
    }
    // unprivileged users often have too little RLIMIT_MEMLOCK: then requests go unregistered, which costs a page-table
    // walk each
    if (!pieces.empty() &&
        io_uring_register_buffers(&ring_, pieces.data(), static_cast<unsigned>(pieces.size())) != 0) {
        registered_.clear();
    }
    reaper_ = std::thread([this, number] {
        number_of_thread = number;
        reap();
    });
}

Ring::~Ring() {
    stop();
    io_uring_queue_exit(&ring_);
}

void Ring::stop() {
    if (!reaper_.joinable()) return;
    stop_ = true;
    wake_reaper();
    reaper_.join();
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
    io_uring_sqe* const sqe = entry();
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, nullptr);
    enter();
}

// What a tap answers comes back the way a device's answers do: by the reaper, after the delay.
bool Ring::ask_tap(io_uring_sqe* sqe, Op& op) {
    const auto answer = tap_->before({op.kind, op.data, op.size, op.offset, &op});
    op.answered = answer.has_value();
    if (!answer) return false;
    op.result = answer->result;
    if (answer->delay.count() > 0) {
        constexpr std::int64_t kSecond = 1'000'000'000;
        auto& delay = delays_.emplace_back();
        delay.tv_sec = answer->delay.count() / kSecond;
        delay.tv_nsec = answer->delay.count() % kSecond;
        io_uring_prep_timeout(sqe, &delay, 0, 0);
    } else {
        io_uring_prep_nop(sqe);
    }
    io_uring_sqe_set_data(sqe, &op);
    return true;
}

void Ring::prepare(io_uring_sqe* sqe, Op& op) {
    if (tap_ != nullptr && ask_tap(sqe, op)) return;
    const auto size = static_cast<unsigned>(op.size);
    int index = -1;
    for (std::size_t i = 0; i < registered_.size() && index < 0; ++i) {
        const auto piece = registered_[i];
        if (op.data >= piece.data() && op.data + op.size <= piece.data() + piece.size()) index = static_cast<int>(i);
    }
    switch (op.kind) {
        case OpKind::kRead:
            if (index >= 0) {
                io_uring_prep_read_fixed(sqe, fd_, op.data, size, op.offset, index);
            } else {
                io_uring_prep_read(sqe, fd_, op.data, size, op.offset);
            }
            break;
        case OpKind::kWrite:
            if (index >= 0) {
                io_uring_prep_write_fixed(sqe, fd_, op.data, size, op.offset, index);
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

io_uring_sqe* Ring::entry() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {  // the submission queue is full: hand it to the kernel and go on
        submissions_.fetch_add(1, std::memory_order_release);
        io_uring_submit(&ring_);
        sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
}

void Ring::push(Op& op) {
    if (op.priority == Priority::kPrefetch) {
        ++prefetch_in_flight_;
    } else {
        demand_.fetch_add(1, std::memory_order_relaxed);
    }
    counters_.in_flight.fetch_add(1, std::memory_order_relaxed);
    if (op.kind != OpKind::kRead) counters_.changes_in_flight.fetch_add(1, std::memory_order_relaxed);
    op.tick = ages_.enter();
    prepare(entry(), op);
}

void Ring::push_prefetch() {
    while (first_prefetch_ != nullptr) {
        const bool beside = demand_.load(std::memory_order_relaxed) != 0;
        if (prefetch_in_flight_ >= (beside ? limits_.beside_demand : limits_.alone)) return;
        Op& op = *first_prefetch_;
        first_prefetch_ = op.next;
        if (first_prefetch_ == nullptr) last_prefetch_ = nullptr;
        counters_.prefetch_waiting.fetch_sub(1, std::memory_order_relaxed);
        push(op);
    }
}

void Ring::enter() {
    submissions_.fetch_add(1, std::memory_order_release);
    // EAGAIN and EBUSY mean "the kernel has no room right now"; the entries stay queued, so ask again.
    while (io_uring_sq_ready(&ring_) > 0) {
        const int rc = io_uring_submit(&ring_);
        if (rc < 0 && rc != -EAGAIN && rc != -EBUSY && rc != -EINTR) {
            die("io_uring_submit", -rc);
        }
        if (rc < 0) std::this_thread::yield();
    }
    delays_.clear();
}

// Once its last op is with the kernel, or in the line of prefetch and the mutex free, a batch may be gone.
void Ring::submit(std::span<Op> ops) {
    const std::lock_guard guard(submit_mutex_);
    for (Op& op : ops) {
        if (op.priority == Priority::kDemand) {
            push(op);
            continue;
        }
        op.next = nullptr;
        (last_prefetch_ == nullptr ? first_prefetch_ : last_prefetch_->next) = &op;
        last_prefetch_ = &op;
        counters_.prefetch_waiting.fetch_add(1, std::memory_order_relaxed);
    }
    push_prefetch();
    enter();
}

void Ring::reap() {
    std::vector<std::coroutine_handle<>> posted;
    for (;;) {
        io_uring_cqe* cqe = nullptr;
        const int rc = io_uring_wait_cqe(&ring_, &cqe);
        if (rc == -EINTR) continue;
        if (rc < 0) die("io_uring_wait_cqe", -rc);
        auto* op = static_cast<Op*>(io_uring_cqe_get_data(cqe));
        int result = cqe->res;
        io_uring_cqe_seen(&ring_, cqe);
        submissions_.load(std::memory_order_acquire);
        const Turn turn;
        if (op != nullptr) {
            if (tap_ != nullptr) {
                if (op->answered) result = op->result;
                result = tap_->after({op->kind, op->data, op->size, op->offset, op}, result);
            }
            finish(*op, result);
            continue;
        }
        {
            const std::lock_guard guard(posted_mutex_);
            posted.swap(posted_);
        }
        for (const auto handle : posted) handle.resume();
        posted.clear();
        if (stop_) return;
    }
}

void Ring::resubmit(Op& op) {
    const std::lock_guard guard(submit_mutex_);
    prepare(entry(), op);
    enter();
}

void Ring::finish(Op& op, int result) {
    const bool transfer = op.kind == OpKind::kRead || op.kind == OpKind::kWrite;
    const bool interrupted = result == -EAGAIN || result == -EINTR;
    const auto moved = result > 0 ? static_cast<std::uint64_t>(result) : 0;
    if (op.kind == OpKind::kRead) counters_.read_bytes.fetch_add(moved, std::memory_order_relaxed);
    if (op.kind == OpKind::kWrite) counters_.write_bytes.fetch_add(moved, std::memory_order_relaxed);
    if (interrupted || (transfer && result > 0 && moved < op.size)) {
        op.data += moved;
        op.size -= moved;
        op.offset += moved;
        resubmit(op);
        return;
    }
    if (transfer && result == 0) result = -EIO;
    switch (op.kind) {
        case OpKind::kRead:
            counters_.reads.fetch_add(1, std::memory_order_relaxed);
            break;
        case OpKind::kWrite:
            counters_.writes.fetch_add(1, std::memory_order_relaxed);
            break;
        case OpKind::kSync:
            counters_.syncs.fetch_add(1, std::memory_order_relaxed);
            break;
        case OpKind::kPunch:
            break;
    }
    counters_.in_flight.fetch_sub(1, std::memory_order_relaxed);
    if (op.kind != OpKind::kRead) counters_.changes_in_flight.fetch_sub(1, std::memory_order_release);
    ages_.leave(op.tick);
    op.result = result < 0 ? result : 0;
    if (op.result < 0) counters_.errors.fetch_add(1, std::memory_order_relaxed);
    const bool prefetch = op.priority == Priority::kPrefetch;
    if (!prefetch) demand_.fetch_sub(1, std::memory_order_relaxed);
    if (prefetch || counters_.prefetch_waiting.load(std::memory_order_relaxed) != 0) {
        const std::lock_guard guard(submit_mutex_);
        if (prefetch) --prefetch_in_flight_;
        push_prefetch();
        if (io_uring_sq_ready(&ring_) > 0) enter();
    }
    op.batch->one_done();
}

int Batch::result() const {
    for (const Op& op : ops_) {
        if (op.result < 0) return op.result;
    }
    return 0;
}

void Batch::start() {
    for (Op& op : ops_) op.batch = this;
    left_.store(ops_.size(), std::memory_order_relaxed);
    ring_.submit(ops());  // touch nothing after this
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
