// Who sees every request to a device: recorders, fault injectors, devices that live in memory. Tests have them, a mount
// has none unless it is told to, and without one a request costs one branch that is never taken.
//
// A tap belongs to one open device and is called by whichever thread sends or reaps a request, several at a time. What
// comes through a ring is sent under that ring's submission mutex: before() must neither block nor send requests
// itself. For something slow it answers with a delay, which the ring keeps without a thread waiting for it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace kvfs::uring {

enum class OpKind : std::uint8_t { kRead, kWrite, kSync, kPunch };  // kPunch also stands for a block device's discard

class Tap {
public:
    struct Request {
        OpKind kind = OpKind::kRead;
        std::byte* data = nullptr;  // of reads and writes, valid until after() has returned
        std::size_t size = 0;
        std::uint64_t offset = 0;
        const void* id = nullptr;  // the same in before() and after(), and no other request's that is under way
    };
    // As the kernel would answer: bytes for reads and writes, 0 for the others, or -errno.
    struct Answer {
        int result = 0;
        std::chrono::nanoseconds delay{0};
    };

    Tap() = default;
    virtual ~Tap() = default;
    Tap(const Tap&) = delete;
    Tap& operator=(const Tap&) = delete;

    // An answer means that the device is not asked. A short transfer is followed by a request for the remainder.
    virtual std::optional<Answer> before(const Request& request) = 0;
    // The result, the tap's own or the device's; what this returns is what the store gets to see.
    virtual int after(const Request& /*request*/, int result) { return result; }
};

}  // namespace kvfs::uring
