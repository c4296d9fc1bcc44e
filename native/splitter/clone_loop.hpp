// Requests from /dev/fuse and clones of it: a thread each, one read() a request, one writev() an answer.
//
// Why blocking reads and no poll or io_uring: the kernel wakes one sleeping reader per request, but every poller, and
// an answer from memory then costs two system calls. stop() therefore interrupts the readers with a signal.
//
// Why every thread reads, and not only as many as short requests need: a client's request then wakes the reader on its
// own CPU. With one reader for two CPUs 64 KiB reads by one client took 54 us instead of 22 on an idle virtual machine,
// where waking another CPU is what costs, and 4 KiB reads by four were no more.
//
// A request's answer has to go to the clone that it came from (the kernel answers ENOENT elsewhere), from any thread.
//
// Who dies: a worker ends on ENODEV (unmounted) or on an error of the device, and says so to the sink. The others
// find the same. A worker never waits for anything but the device and a free buffer; buffers come back when writes in
// hand reach the device, which needs no worker.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
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
    std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace kvfs::splitter
