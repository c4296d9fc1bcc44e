#include "splitter/loops.hpp"

#include <algorithm>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "splitter/clone_loop.hpp"
#include "splitter/protocol.hpp"
#ifdef KVFS_FUSE_OVER_IO_URING
#include "splitter/uring_loop.hpp"
#endif

namespace kvfs::splitter {
namespace {

// More threads than this only fight for the connection's lock; measured nowhere yet beyond a few cores.
constexpr unsigned kMostThreads = 16;

unsigned default_threads() { return std::clamp(std::thread::hardware_concurrency(), 2U, kMostThreads); }

constexpr int kWarning = 30;

}  // namespace

LoopChoice::LoopChoice(LoopKind wanted, int fuse_fd, unsigned threads, uring::BufferPool& buffers, RequestSink& sink,
                       Report report)
    : wanted_(wanted),
      fuse_fd_(fuse_fd),
      threads_(threads),
      buffers_(buffers),
      sink_(sink),
      report_(std::move(report)) {}

std::uint64_t LoopChoice::agree([[maybe_unused]] std::uint64_t offered) {
    if (wanted_ != LoopKind::kUring) return 0;
#ifdef KVFS_FUSE_OVER_IO_URING
    if ((offered & kInitOverIoUring) == 0) {
        report_(kWarning, "FUSE over io_uring: the kernel does not offer it; clones of /dev/fuse instead");
        return 0;
    }
    try {
        UringOptions options;
        options.largest_payload = kMaxWrite;
        options.threads = threads_;
        rings_ = std::make_unique<UringLoop>(fuse_fd_, options, make_clones(1), sink_, report_);
        return kInitOverIoUring;
    } catch (const std::system_error& error) {
        report_(kWarning, std::string(error.what()) + "; clones of /dev/fuse instead");
    }
#else
    report_(kWarning, "FUSE over io_uring: kvfs was built with a liburing before 2.3; clones of /dev/fuse instead");
#endif
    return 0;
}

std::unique_ptr<RequestLoop> LoopChoice::start() {
    if (rings_ != nullptr) {
        try {
            rings_->start();
            return std::move(rings_);
        } catch (const std::system_error& error) {
            report_(kWarning, std::string(error.what()) + "; clones of /dev/fuse instead");
            rings_.reset();
        }
    }
    auto clones = make_clones(threads_ > 0 ? threads_ : default_threads());
    clones->start();
    return clones;
}

std::unique_ptr<RequestLoop> LoopChoice::make_clones(unsigned threads) {
    return std::make_unique<CloneLoop>(fuse_fd_, threads, buffers_, sink_, report_);
}

}  // namespace kvfs::splitter
