// A thread with its io_uring, for the entries of one or more queues.
//
// Protocol: only the worker's thread touches its ring, as the kernel copies requests into the entries in the context of
// the thread that submitted their last command. An answer given on that thread goes into the submission queue and
// reaches the kernel with the next wait. An answer given elsewhere is pushed onto `posted_`, a stack without a lock;
// only when the worker sleeps it is woken, through an eventfd that the ring reads. `asleep_` and `posted_` are
// sequentially consistent, so that either the worker sees the answer before it sleeps or the answering thread sees that
// it sleeps.
//
// The end: once the connection is gone, the kernel completes every command with an error, and the worker ends when it
// has got them all back. stop() ends it before that, and the kernel cancels what it has when the thread exits. In both
// cases `posted_` is closed first, and whoever answers later does so through LateAnswers.
#pragma once

#include <liburing.h>

#include <atomic>
#include <cstdint>
#include <future>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "splitter/loop.hpp"
#include "splitter/uring_entry.hpp"

namespace kvfs::splitter {

// Commits what is answered after its worker has ended. Any thread, one at a time.
class LateAnswers {
public:
    explicit LateAnswers(int fuse_fd);
    ~LateAnswers();
    LateAnswers(const LateAnswers&) = delete;
    LateAnswers& operator=(const LateAnswers&) = delete;

    // False when the kernel does not want the answer any more.
    bool commit(const UringEntry& entry);
    // Tells a kernel that waits for further queues to go on without rings.
    void give_up_registration();
    // Whether the kernel may still write into an entry that was committed here.
    [[nodiscard]] bool in_use();

private:
    int submit();
    void reap();

    int fuse_fd_;
    std::mutex mutex_;
    io_uring ring_{};
    unsigned in_kernel_ = 0;
    int last_error_ = 0;
};

class UringWorker {  // NOLINT(clang-analyzer-optin.performance.Padding): what other threads write lies apart
public:
    // Makes the ring, and throws std::system_error when it cannot. `cpus` (may be empty): where the thread runs.
    UringWorker(int fuse_fd, unsigned index, std::span<UringEntry> entries, std::vector<int> cpus, RequestSink& sink,
                LateAnswers& late, const Report& report);
    ~UringWorker();
    UringWorker(const UringWorker&) = delete;
    UringWorker& operator=(const UringWorker&) = delete;

    // Starts the thread; the result tells whether the kernel took its entries, 0 or a negative errno. It takes requests
    // when `go` says so, else it ends without a word to the sink.
    std::future<int> start(std::shared_future<bool> go);
    void ask_to_stop();
    void join();

    void answer(UringEntry& entry);
    void refuse(const UringEntry& entry, std::size_t size);
    void say(const std::string& text) const { report_(40, "request loop: " + text); }
    [[nodiscard]] const LoopCounters& counters() const { return counters_; }

private:
    void run(std::promise<int> registered, const std::shared_future<bool>& go);
    int register_entries();
    int serve();
    int enter(bool wait);
    void take_posted();
    void take_completions();
    void taken(UringEntry& entry, int result);
    void commit(UringEntry& entry);
    void post(UringEntry& entry);
    void close();
    void listen_for_wakeups();
    void wake();
    [[nodiscard]] bool may_sleep();
    io_uring_sqe* next_sqe();

    int fuse_fd_;
    unsigned index_;
    std::span<UringEntry> entries_;
    std::vector<int> cpus_;
    RequestSink& sink_;
    LateAnswers& late_;
    const Report& report_;
    io_uring ring_{};
    int event_fd_ = -1;
    std::uint64_t event_count_ = 0;
    unsigned in_kernel_ = 0;  // commands that the kernel has
    bool disconnected_ = false;
    int error_ = 0;
    std::thread thread_;

    alignas(64) std::atomic<UringEntry*> posted_{nullptr};
    std::atomic<bool> asleep_{false};
    std::atomic<unsigned> answering_{0};  // threads that are in answer(), this one's own apart
    std::atomic<bool> stop_{false};
    alignas(64) LoopCounters counters_;
};

}  // namespace kvfs::splitter
