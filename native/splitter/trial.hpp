// A file system of one file of zeros in memory, to see what a request loop is worth on this machine.
//
// Its READs are answered as those of a page that comes from the device: in the memory that the loop offers, else from
// a buffer; no byte is copied here. The rest is what it takes to open the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "splitter/loop.hpp"
#include "uring/buffers.hpp"

namespace kvfs::splitter {

class Trial final : public RequestSink {
public:
    static constexpr std::uint64_t kFileBytes = std::uint64_t{64} << 20;

    // `fuse_fd`: a mounted connection whose INIT has not been read; the trial's from now on. `threads`: 0 is by cores.
    Trial(int fuse_fd, LoopKind wanted, unsigned threads);
    ~Trial() override;
    Trial(const Trial&) = delete;
    Trial& operator=(const Trial&) = delete;

    // Answers INIT and starts the loop. Throws std::system_error.
    void start();
    void close();
    // Of the loop that it came to.
    [[nodiscard]] LoopKind kind() const { return kind_; }

    void handle(RequestHandle request) override;
    void ended(int) override {}

private:
    void read(RequestHandle request);

    int fuse_fd_;
    LoopKind wanted_;
    LoopKind kind_ = LoopKind::kClones;
    unsigned threads_;
    uring::BufferArena arena_;
    uring::BufferPool buffers_;
    uring::Buffer zeros_;
    std::unique_ptr<RequestLoop> loop_;  // last: its threads use all of the above
};

// Requests per second that `readers` threads get together, each reading `size` bytes at a time at random places of the
// file for `seconds`. `fd`: opened with O_DIRECT. Throws std::system_error.
double read_rate(int fd, unsigned readers, std::size_t size, double seconds);

}  // namespace kvfs::splitter
