// Requests from /dev/fuse and clones of it: a thread each, one read() a request, one writev() an answer.
//
// Why blocking reads and no poll or io_uring: the kernel wakes one sleeping reader per request, but every poller, and
// an answer from memory then costs two system calls. stop() therefore interrupts the readers with a signal.
//
// Turns: half of the threads, at least one, take requests at a time. Who meets a request that takes long (a large
// answer or write to copy, a page to be made room for) lets another thread have its turn first; short ones it answers
// itself and comes back for more. WHY: short requests come from clients that need CPUs as well. A reader on every CPU
// sleeps and is woken for each request; one that always finds the next request waiting does neither (4 KiB reads from
// memory by 4 clients on 2 CPUs: 1.2 to 1.4 times as many with one turn as with two). Rejected: sched_yield() before
// each read, so that woken clients run first. It does the same on an idle machine, but a request then waits for a whole
// time slice of whatever else uses the CPU.
//
// A request's answer has to go to the clone that it came from (the kernel answers ENOENT elsewhere), from any thread.
//
// Who dies: a worker ends on ENODEV (unmounted) or on an error of the device, and says so to the sink. The others
// find the same. A worker never waits for anything but its turn, the device and a free buffer; buffers come back when
// writes in hand reach the device, which needs no worker, and nobody who has a turn waits for another's.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "splitter/loop.hpp"
#include "uring/buffers.hpp"

namespace kvfs::splitter {

class CloneLoop final : public RequestLoop {
public:
    // `fuse_fd` stays the caller's; `threads` >= 1. `buffers` are of kDataAt + max_write bytes or more. Where /dev/fuse
    // may not be opened again (it was handed over by fusermount3 in a container), all threads read from `fuse_fd`.
    CloneLoop(int fuse_fd, unsigned threads, uring::BufferPool& buffers, RequestSink& sink, Report report);
    ~CloneLoop() override;

    void start() override;
    void stop() override;
    [[nodiscard]] const LoopCounters& counters() const override { return counters_; }
    [[nodiscard]] unsigned threads() const override { return static_cast<unsigned>(workers_.size()); }
    [[nodiscard]] LoopKind kind() const override { return LoopKind::kClones; }
    [[nodiscard]] unsigned clones() const;

private:
    class CloneRequest;
    struct Worker;
    void work(Worker& worker);

    uring::BufferPool& buffers_;
    RequestSink& sink_;
    Report report_;
    LoopCounters counters_;
    std::atomic<bool> stop_{false};
    std::counting_semaphore<> turns_;  // how many more threads may take requests
    std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace kvfs::splitter
