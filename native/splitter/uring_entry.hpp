// One entry of a ring queue: the memory of one request, and the Request that it is while somebody has it in hand.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "splitter/mapped_twice.hpp"
#include "splitter/request.hpp"
#include "splitter/uring_protocol.hpp"

namespace kvfs::splitter {

class UringWorker;

class UringEntry final : public Request {
public:
    // `payload` is page-aligned; `device`: the same memory where devices find it, `owner`'s.
    void bind(UringWorker& worker, unsigned queue, UringRequestHeader& head, std::span<std::byte> payload,
              std::span<std::byte> device, std::shared_ptr<const Mapping> owner);
    // The kernel has filled the memory with a request.
    void received();

    [[nodiscard]] std::span<std::byte> reply_memory() override { return memory_; }
    [[nodiscard]] DeviceMemory device_memory() override { return {device_memory_, owner_}; }
    bool leave_memory_to_device() override;
    [[nodiscard]] unsigned queue() const { return queue_; }
    [[nodiscard]] std::uint64_t commit_id() const { return commit_id_; }
    [[nodiscard]] const iovec* vectors() const { return vectors_; }
    [[nodiscard]] std::size_t answer_size() const { return head_->entry.payload_size; }

protected:
    void send(int error, std::span<const iovec> parts) override;
    void release() override;

private:
    friend class UringWorker;
    bool gather(std::span<const iovec> parts, std::size_t& size);

    UringWorker* worker_ = nullptr;
    UringRequestHeader* head_ = nullptr;
    std::span<std::byte> memory_;
    std::span<std::byte> device_memory_;  // memory_ at its second address
    std::shared_ptr<const Mapping> owner_;
    iovec vectors_[2] = {};  // header and payload, for the registration
    std::uint64_t commit_id_ = 0;
    unsigned queue_ = 0;
    UringEntry* next_ = nullptr;  // in the list of answers that were given on other threads
};

}  // namespace kvfs::splitter
