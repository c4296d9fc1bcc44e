#include "splitter/uring_worker.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <system_error>
#include <utility>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace kvfs::splitter {

namespace {

// What is asked after an answer comes after what was done before it, by way of the kernel and a client. The thread
// sanitizer sees that in read() and write(), but not in rings.
#ifdef __SANITIZE_THREAD__
char kernel;
void handed_to_kernel() { __tsan_release(&kernel); }
void taken_from_kernel() { __tsan_acquire(&kernel); }
#else
void handed_to_kernel() {}
void taken_from_kernel() {}
#endif

// The worker that this thread is.
thread_local UringWorker* current = nullptr;

// Stands in `posted_` for "nobody takes these any more".
UringEntry closed_mark;

// So many answers go to the kernel at once at most, so that the first does not wait for the requests behind it.
constexpr unsigned kMostBatched = 8;
constexpr std::size_t kLargeAnswer = 65536;

void prepare(io_uring_sqe* sqe, int fuse_fd, UringCommand command, const UringCommandRequest& request) {
    std::memset(sqe, 0, 2 * sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = fuse_fd;
    sqe->cmd_op = static_cast<std::uint32_t>(command);
    std::memcpy(sqe->cmd, &request, sizeof(request));
}

void prepare_commit(io_uring_sqe* sqe, int fuse_fd, const UringEntry& entry) {
    prepare(sqe, fuse_fd, UringCommand::kCommitAndFetch,
            {.flags = 0,
             .commit_id = entry.commit_id(),
             .queue = static_cast<std::uint16_t>(entry.queue()),
             .padding = {}});
}

bool is_end_of_connection(int result) {
    return result == -ENOTCONN || result == -ECONNABORTED || result == -ECANCELED || result == -ENODEV;
}

void make_ring(io_uring& ring, unsigned entries, unsigned flags) {
    const int rc = io_uring_queue_init(entries, &ring, IORING_SETUP_SQE128 | flags);
    if (rc < 0) throw std::system_error(-rc, std::generic_category(), "io_uring for FUSE");
}

// liburing 2.3 declares io_uring_enable_rings, but its shared library does not export it.
int enable(io_uring& ring) {
    const long rc = syscall(__NR_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    return rc < 0 ? -errno : 0;
}

}  // namespace

LateAnswers::LateAnswers(int fuse_fd) : fuse_fd_(fuse_fd) { make_ring(ring_, 8, 0); }

LateAnswers::~LateAnswers() { io_uring_queue_exit(&ring_); }

bool LateAnswers::commit(const UringEntry& entry) {
    const std::lock_guard guard(mutex_);
    handed_to_kernel();
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
    prepare_commit(sqe, fuse_fd_, entry);
    return submit() == 0;
}

void LateAnswers::give_up_registration() {
    const std::lock_guard guard(mutex_);
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
    // A registration that fails: no machine has such a queue.
    prepare(sqe, fuse_fd_, UringCommand::kRegister, {.flags = 0, .commit_id = 0, .queue = 0xffff, .padding = {}});
    submit();
}

bool LateAnswers::in_use() {
    const std::lock_guard guard(mutex_);
    reap();
    return in_kernel_ > 0;
}

int LateAnswers::submit() {
    int rc = io_uring_submit(&ring_);
    while (rc == -EINTR) rc = io_uring_submit(&ring_);
    if (rc < 0) return rc;
    ++in_kernel_;
    last_error_ = 0;
    reap();  // a refusal is there at once
    return last_error_;
}

void LateAnswers::reap() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
        if (cqe->res < 0) last_error_ = cqe->res;
        --in_kernel_;
        io_uring_cqe_seen(&ring_, cqe);
    }
}

UringWorker::UringWorker(int fuse_fd, unsigned index, std::span<UringEntry> entries, std::vector<int> cpus,
                         RequestSink& sink, LateAnswers& late, const Report& report)
    : fuse_fd_(fuse_fd),
      index_(index),
      entries_(entries),
      cpus_(std::move(cpus)),
      sink_(sink),
      late_(late),
      report_(report) {
    event_fd_ = eventfd(0, EFD_CLOEXEC);
    if (event_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    try {
        // Every entry has one command at most, and one is the eventfd's. The ring starts disabled: the thread that
        // enables it is the one that may use it.
        make_ring(ring_, static_cast<unsigned>(entries_.size()) + 1,
                  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED);
    } catch (...) {
        ::close(event_fd_);
        throw;
    }
}

UringWorker::~UringWorker() {
    // A request is over for its client before the thread that answered it has left answer(). Release and acquire: what
    // that thread did here comes before the end.
    while (answering_.load(std::memory_order_acquire) != 0) std::this_thread::yield();
    io_uring_queue_exit(&ring_);
    ::close(event_fd_);
}

std::future<int> UringWorker::start(std::shared_future<bool> go) {
    std::promise<int> registered;
    std::future<int> answer = registered.get_future();
    // Signals are for the threads that Python knows.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        thread_ = std::thread(
            [this, promise = std::move(registered), go = std::move(go)]() mutable { run(std::move(promise), go); });
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return answer;
}

void UringWorker::ask_to_stop() {
    stop_ = true;
    if (asleep_.exchange(false)) wake();
}

void UringWorker::join() {
    if (thread_.joinable()) thread_.join();
}

void UringWorker::run(std::promise<int> registered, const std::shared_future<bool>& go) {
    current = this;
    pthread_setname_np(pthread_self(), ("kvfs-ring-" + std::to_string(index_)).c_str());
    if (!cpus_.empty()) {
        const int most = cpus_.back() + 1;
        cpu_set_t* const set = CPU_ALLOC(most);
        const std::size_t size = CPU_ALLOC_SIZE(most);
        CPU_ZERO_S(size, set);
        for (const int cpu : cpus_) CPU_SET_S(cpu, size, set);
        // Where a thread runs is a matter of speed alone; a CPU may have gone meanwhile.
        pthread_setaffinity_np(pthread_self(), size, set);
        CPU_FREE(set);
    }
    const int rc = register_entries();
    registered.set_value(rc);
    if (!go.get()) {
        close();
        return;
    }
    try {
        error_ = serve();
    } catch (const std::exception& error) {
        report_(40, std::string("request loop: ") + error.what());
        error_ = -EIO;
    }
    close();
    sink_.ended(error_);
}

int UringWorker::register_entries() {
    int rc = enable(ring_);
    if (rc < 0) return rc;
    for (UringEntry& entry : entries_) {
        io_uring_sqe* const sqe = next_sqe();
        prepare(sqe, fuse_fd_, UringCommand::kRegister,
                {.flags = 0, .commit_id = 0, .queue = static_cast<std::uint16_t>(entry.queue()), .padding = {}});
        sqe->addr = reinterpret_cast<std::uint64_t>(entry.vectors());
        sqe->len = 2;
        io_uring_sqe_set_data(sqe, &entry);
        ++in_kernel_;
    }
    listen_for_wakeups();
    rc = enter(false);
    if (rc < 0) return rc;
    unsigned head = 0;
    io_uring_cqe* cqe = nullptr;
    io_uring_for_each_cqe(&ring_, head, cqe) {
        if (cqe->res < 0) return cqe->res;  // a refusal is there at once
    }
    return 0;
}

int UringWorker::serve() {
    while (!stop_.load(std::memory_order_acquire)) {
        take_posted();
        const bool idle = io_uring_cq_ready(&ring_) == 0;
        if (idle && !may_sleep()) {
            asleep_.store(false, std::memory_order_relaxed);
            continue;
        }
        const int rc = enter(idle);
        asleep_.store(false, std::memory_order_relaxed);
        if (rc < 0) return rc;
        take_completions();
        if (error_ < 0) return error_;
        if (disconnected_ && in_kernel_ == 0) return 0;
    }
    return 0;
}

// Whoever posts an answer after this looked for one sees `asleep_`.
bool UringWorker::may_sleep() {
    asleep_.store(true);
    return posted_.load() == nullptr && !stop_.load();
}

// Submits what is prepared; runs what the kernel has for this thread; waits for a completion when it may.
int UringWorker::enter(bool wait) {
    for (;;) {
        const int rc = wait ? io_uring_submit_and_wait(&ring_, 1) : io_uring_submit_and_get_events(&ring_);
        // EAGAIN, EBUSY: no room just now, which taking completions makes
        if (rc >= 0 || rc == -EAGAIN || rc == -EBUSY) return 0;
        if (rc != -EINTR) return rc;
    }
}

void UringWorker::take_completions() {
    unsigned head = 0;
    unsigned taken_count = 0;
    io_uring_cqe* cqe = nullptr;
    io_uring_for_each_cqe(&ring_, head, cqe) {
        ++taken_count;
        auto* const entry = static_cast<UringEntry*>(io_uring_cqe_get_data(cqe));
        if (entry == nullptr) {
            if (cqe->res < 0 && cqe->res != -EINTR && cqe->res != -EAGAIN) error_ = cqe->res;
            listen_for_wakeups();
        } else {
            taken(*entry, cqe->res);
        }
    }
    io_uring_cq_advance(&ring_, taken_count);
}

void UringWorker::taken(UringEntry& entry, int result) {
    --in_kernel_;
    if (result >= 0) {
        taken_from_kernel();
        entry.received();
        counters_.requests.fetch_add(1, std::memory_order_relaxed);
        sink_.handle(RequestHandle(entry));
        return;
    }
    if (is_end_of_connection(result)) {
        disconnected_ = true;
        return;
    }
    // The kernel knows this entry no more, and a queue without entries would keep its clients for ever.
    counters_.replies_refused.fetch_add(1, std::memory_order_relaxed);
    report_(40, "request loop: the kernel refused an answer in queue " + std::to_string(entry.queue()) + ": " +
                    std::strerror(-result));
    error_ = result;
}

void UringWorker::take_posted() {
    UringEntry* entry = posted_.exchange(nullptr);
    UringEntry* oldest = nullptr;
    while (entry != nullptr) {
        UringEntry* const next = std::exchange(entry->next_, oldest);
        oldest = entry;
        entry = next;
    }
    while (oldest != nullptr) {
        UringEntry* const next = std::exchange(oldest->next_, nullptr);
        commit(*oldest);
        oldest = next;
    }
}

void UringWorker::commit(UringEntry& entry) {
    if (disconnected_) {
        counters_.replies_refused.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    handed_to_kernel();
    const bool large = entry.answer_size() >= kLargeAnswer;
    io_uring_sqe* const sqe = next_sqe();
    prepare_commit(sqe, fuse_fd_, entry);
    io_uring_sqe_set_data(sqe, &entry);
    ++in_kernel_;
    counters_.replies.fetch_add(1, std::memory_order_relaxed);
    if (large || io_uring_sq_ready(&ring_) >= kMostBatched) io_uring_submit(&ring_);
}

void UringWorker::answer(UringEntry& entry) {
    if (current == this) {
        commit(entry);
        return;
    }
    answering_.fetch_add(1, std::memory_order_relaxed);
    post(entry);
    answering_.fetch_sub(1, std::memory_order_release);
}

void UringWorker::post(UringEntry& entry) {
    UringEntry* head = posted_.load();
    do {
        if (head == &closed_mark) {
            (late_.commit(entry) ? counters_.replies : counters_.replies_refused).fetch_add(1);
            return;
        }
        entry.next_ = head;
    } while (!posted_.compare_exchange_weak(head, &entry));
    if (asleep_.exchange(false)) wake();
}

void UringWorker::refuse(const UringEntry& entry, std::size_t size) {
    report_(40, "request loop: an answer of " + std::to_string(size) + " bytes to opcode " +
                    std::to_string(entry.header().opcode) + " does not fit: at most " +
                    std::to_string(entry.memory_.size()));
}

void UringWorker::close() {
    current = nullptr;
    UringEntry* entry = posted_.exchange(&closed_mark);
    while (entry != nullptr) {
        UringEntry* const next = std::exchange(entry->next_, nullptr);
        commit(*entry);
        entry = next;
    }
    // What was answered before stop() still goes out.
    while (io_uring_sq_ready(&ring_) > 0 && io_uring_submit(&ring_) >= 0) {
    }
}

void UringWorker::listen_for_wakeups() {
    io_uring_sqe* const sqe = next_sqe();
    std::memset(sqe, 0, 2 * sizeof(*sqe));
    io_uring_prep_read(sqe, event_fd_, &event_count_, sizeof(event_count_), 0);
    io_uring_sqe_set_data(sqe, nullptr);
}

void UringWorker::wake() {
    const std::uint64_t one = 1;
    // Only a full counter makes this fail, and then the worker has been woken already.
    [[maybe_unused]] const ssize_t written = ::write(event_fd_, &one, sizeof(one));
}

// There is room for a command of every entry; what is queued goes first when the ring was rounded down.
io_uring_sqe* UringWorker::next_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {
        const int rc = io_uring_submit(&ring_);
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
            throw std::system_error(-rc, std::generic_category(), "io_uring_submit");
        }
        sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
}

}  // namespace kvfs::splitter
