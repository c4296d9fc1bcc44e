// What a store did to its device, in order, and a device in memory that notes it.
//
// Time is a counter of events: a write or flush is sent, or comes back, or a client is told something. A crash happens
// between two events. What the device then holds is decided by three rules, and nothing else:
//   1. a write is there for certain when a flush that was sent after the write had come back has come back itself;
//   2. any other write that was sent is there, or not, or in part, whatever becomes of those around it;
//   3. where two of them overlap and both are there, the later one's bytes are.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <random>
#include <span>
#include <unordered_map>
#include <vector>

#include "format/format.hpp"
#include "uring/tap.hpp"

namespace kvfs::crash {

using Time = std::uint64_t;
inline constexpr Time kNever = ~Time{0};
inline constexpr std::size_t kBlock = format::kBlock;
inline constexpr std::size_t kSector = 512;

struct Write {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    std::vector<std::byte> data;  // empty: a trim, after which the device reads as zeros
    Time sent = 0;
    Time back = kNever;
    Time durable = kNever;  // see settle()
};

struct Flush {
    Time sent = 0;
    Time back = kNever;
};

// Ways in which a device, or a store, may lie: a checker that never finds anything proves nothing.
enum class Plant : std::uint8_t {
    kNone,
    kNoFlush,      // flushes are answered and do nothing
    kNoDataFlush,  // only those right in front of a frame of the log, which keep it from passing the data it names
    kNoLastFlush,  // only those right behind a frame of the log, which fsync waits for
    kEarlyReuse,   // the last frame of the log may still be lost when what it frees is used again
};

struct Trace {
    std::vector<std::byte> base;  // the device before the first event
    std::vector<Write> writes;    // in the order in which they were sent
    std::vector<Flush> flushes;
    Time end = 0;

    // Decides when each write became durable.
    void settle(Plant plant);
};

// The device. `Recording` is what a workload runs on; states are recovered on it without a trace, and what recovery
// writes then lies over the image and is forgotten by reset().
class MemoryDevice : public uring::Tap {
public:
    explicit MemoryDevice(std::span<std::byte> image);

    // Notes everything from here on in `trace` (null: stops), which must not go before this; requests come back after
    // delays that `seed` draws.
    void record(Trace* trace, std::uint64_t seed);
    // The time now. A client calls this when it asks for something and when it has been told.
    Time tick();

    void write(std::uint64_t offset, std::span<const std::byte> data);
    void zero(std::uint64_t offset, std::uint64_t size);
    void read(std::uint64_t offset, std::span<std::byte> out) const;
    // Back to the image.
    void reset();
    // What lies over the image becomes part of it.
    void keep();

    std::optional<Answer> before(const Request& request) override;
    int after(const Request& request, int result) override;

private:
    std::byte* own(std::uint64_t block);
    std::chrono::nanoseconds draw_delay(const Request& request);

    std::span<std::byte> image_;
    std::vector<std::uint32_t> over_;  // per block: 1 + its number in blocks_, 0: the image's
    std::vector<std::array<std::byte, kBlock>> blocks_;
    std::vector<std::uint64_t> numbers_;  // of the blocks in blocks_

    mutable std::mutex mutex_;  // over all of the above and below
    Trace* trace_ = nullptr;
    Time now_ = 0;
    std::mt19937_64 random_;
    std::unordered_map<const void*, std::size_t> under_way_;  // the number of the write or flush
};

}  // namespace kvfs::crash
