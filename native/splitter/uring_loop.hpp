// FUSE over io_uring as a request loop.
//
// The kernel wants entries in a queue of every possible CPU before it uses any, and puts a request in the queue of the
// CPU that its client runs on. Threads are another matter: each serves the queues of some neighbouring CPUs, on those
// CPUs, as a request that stays on its CPU is what makes rings fast.
//
// Memory: a queue has `entries` entries, each with a payload as large as the largest request; fewer, when all of
// them would exceed `memory`, but one at least. A queue whose CPU is offline has one. Payload is resident only once it
// was used, so queues x entries x payload is the most that there can be; a request beyond a queue's entries waits in
// the kernel.
//
// INIT itself, FORGET, INTERRUPT and notifications stay on /dev/fuse, which another loop, with one thread, reads.
//
// The file system should be unmounted, or its connection aborted, before stop(): a kernel whose rings are served no
// more keeps new requests until then. Not to be destroyed before that either. stop() is not for the loop's own threads.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "splitter/loop.hpp"
#include "splitter/uring_worker.hpp"

namespace kvfs::splitter {

struct UringOptions {
    // Of any request or answer, in bytes: the larger one of max_write and max_pages x page size of the INIT answer.
    std::size_t largest_payload = 0;
    unsigned entries = 16;  // of a queue
    std::size_t memory = std::size_t{256} << 20;
    unsigned threads = 0;  // 0: one per CPU that this process may use, 64 at most
    bool pinned = true;    // threads stay on the CPUs whose queues they serve
};

class UringLoop final : public RequestLoop {
public:
    // To be made before INIT is answered with kInitOverIoUring: throws std::system_error when rings cannot be had.
    // `fuse_fd` stays the caller's; `device` takes what comes through it.
    UringLoop(int fuse_fd, const UringOptions& options, std::unique_ptr<RequestLoop> device, RequestSink& sink,
              Report report);
    ~UringLoop() override;
    UringLoop(const UringLoop&) = delete;
    UringLoop& operator=(const UringLoop&) = delete;

    // Throws std::system_error when the kernel takes no entries; all requests then come through /dev/fuse, as ever,
    // and this loop does not read it.
    void start() override;
    void stop() override;
    [[nodiscard]] const LoopCounters& counters() const override;
    [[nodiscard]] unsigned threads() const override {
        return static_cast<unsigned>(workers_.size()) + device_->threads();
    }
    [[nodiscard]] LoopKind kind() const override { return LoopKind::kUring; }

    [[nodiscard]] std::size_t queues() const { return queues_; }
    [[nodiscard]] std::size_t entries() const { return entry_count_; }
    // The most that payloads may take.
    [[nodiscard]] std::size_t memory() const;

private:
    class Memory;

    std::size_t queues_ = 0;
    std::size_t entry_count_ = 0;
    Report report_;
    std::unique_ptr<RequestLoop> device_;
    std::unique_ptr<Memory> memory_;
    std::unique_ptr<UringEntry[]> entries_;
    std::unique_ptr<LateAnswers> late_;
    std::vector<std::unique_ptr<UringWorker>> workers_;
    mutable LoopCounters counters_;  // of all together, as of the last call
};

}  // namespace kvfs::splitter
