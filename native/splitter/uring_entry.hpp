// One entry of a ring queue: the memory of one request, and the Request that it is while somebody has it in hand.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "splitter/request.hpp"
#include "splitter/uring_protocol.hpp"

namespace kvfs::splitter {

class UringWorker;

class UringEntry final : public Request {
public:
    // `payload` is page-aligned.
    void bind(UringWorker& worker, unsigned queue, UringRequestHeader& head, std::span<std::byte> payload);
    // The kernel has filled the memory with a request.
    void received();

    [[nodiscard]] std::span<std::byte> reply_memory() override { return memory_; }
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
    iovec vectors_[2] = {};  // header and payload, for the registration
    std::uint64_t commit_id_ = 0;
    unsigned queue_ = 0;
    UringEntry* next_ = nullptr;  // in the list of answers that were given on other threads
};

}  // namespace kvfs::splitter
