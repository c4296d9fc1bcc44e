// Which request loop a connection gets: what was asked for where the kernel goes along, else clones.
//
// The kernel has to be told in the answer to INIT, and from then on sends nothing until the rings are registered. So
// they are made before, and what may still fail after it makes the kernel go back to /dev/fuse.
#pragma once

#include <cstdint>
#include <memory>

#include "splitter/loop.hpp"
#include "uring/buffers.hpp"

namespace kvfs::splitter {

class LoopChoice {
public:
    // `threads`: 0 is by cores. `buffers`: as CloneLoop has it.
    LoopChoice(LoopKind wanted, int fuse_fd, unsigned threads, uring::BufferPool& buffers, RequestSink& sink,
               Report report);
    // Before INIT is answered: the flags to add to the answer, of those that the kernel offers.
    std::uint64_t agree(std::uint64_t offered);
    // After it: the loop, started. Throws std::system_error when there cannot be any.
    std::unique_ptr<RequestLoop> start();

private:
    std::unique_ptr<RequestLoop> make_clones(unsigned threads);

    LoopKind wanted_;
    int fuse_fd_;
    unsigned threads_;
    uring::BufferPool& buffers_;
    RequestSink& sink_;
    Report report_;
    std::unique_ptr<RequestLoop> rings_;
};

}  // namespace kvfs::splitter
