// Address space reserved once and used from the front: tables that grow without moving and without slack.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvfs::store {

class Reserved {
public:
    // Reserves up to `bytes` of address space (less where the system refuses), none of it backed by memory yet.
    explicit Reserved(std::size_t bytes);
    ~Reserved();
    Reserved(const Reserved&) = delete;
    Reserved& operator=(const Reserved&) = delete;

    [[nodiscard]] std::byte* base() const { return base_; }
    [[nodiscard]] std::size_t size() const { return size_; }

private:
    std::byte* base_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace kvfs::store
