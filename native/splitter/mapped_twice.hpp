// Memory under two addresses: one that is the kernel's to know, for as long as a connection lives, and one for devices.
//
// WHY: a ring's entry has one address for its payload, registered once. A device that is late with a read goes on
// writing there after the client was told EIO, and the kernel would put the next request into the same memory. So
// devices get the second address, and who gives a read up has the first one mapped to new memory. A request that the
// kernel has accepted but not begun looks up the second address, which stays what it was until the request is over.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace kvfs::splitter {

class Mapping {
public:
    explicit Mapping(std::span<std::byte> memory) : memory_(memory) {}
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;

    [[nodiscard]] std::span<std::byte> memory() const { return memory_; }

private:
    std::span<std::byte> memory_;
};

// New memory of zeros, resident once it is used, of `size` bytes (whole pages). It is mapped at `place`, in the stead
// of what was there (null: wherever there is room, which `place` then tells), and a second time as the result says.
// Each of the two keeps the memory. Throws std::system_error; `place` is then as it was.
std::shared_ptr<const Mapping> map_twice(std::byte*& place, std::size_t size);

}  // namespace kvfs::splitter
