// The rings of one device: each with a thread of its own, so that what different requests brought is verified and
// answered side by side.
#pragma once

#include <memory>
#include <vector>

#include "uring/ring.hpp"

namespace kvfs::uring {

class Rings {
public:
    // As many rings as `count` says (at least one). Throws std::system_error when io_uring cannot be used.
    // `fd` and `tap`, which may be null, stay the caller's.
    Rings(int fd, Tap* tap, unsigned count, unsigned depth, std::span<std::byte> registered);
    ~Rings();
    Rings(const Rings&) = delete;
    Rings& operator=(const Rings&) = delete;

    // The calling thread's: a request stays with one ring, and threads spread over them.
    Ring& here() { return *rings_[Ring::thread_number() % rings_.size()]; }

    [[nodiscard]] std::size_t count() const { return rings_.size(); }
    [[nodiscard]] bool buffers_registered() const;
    struct Statistics {
        std::uint64_t reads, read_bytes, writes, write_bytes, syncs, errors, in_flight, prefetch_waiting;
    };
    [[nodiscard]] Statistics statistics() const;

    // How long requests have been at the device (ages.hpp): a tick of one thread, and what all rings know.
    void tick(std::int64_t now_ns);
    [[nodiscard]] std::int64_t oldest_ns(std::int64_t now_ns) const;
    // Requests that change something: writes, flushes, discards.
    [[nodiscard]] std::uint64_t changes_in_flight() const;

private:
    Ring::Load demand_{0};
    std::vector<std::unique_ptr<Ring>> rings_;
};

}  // namespace kvfs::uring
