#include "splitter/uring_entry.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "splitter/uring_worker.hpp"

namespace kvfs::splitter {

namespace {

// From here on errors are the kernel's own (ERESTARTSYS and its like): it takes none of them from a server.
constexpr int kFirstKernelError = 512;

}  // namespace

void UringEntry::bind(UringWorker& worker, unsigned queue, UringRequestHeader& head, std::span<std::byte> payload,
                      std::span<std::byte> device, std::shared_ptr<const Mapping> owner) {
    worker_ = &worker;
    queue_ = queue;
    head_ = &head;
    memory_ = payload;
    device_memory_ = device;
    owner_ = std::move(owner);
    vectors_[0] = {&head, sizeof(head)};
    vectors_[1] = {payload.data(), payload.size()};
    header_ = reinterpret_cast<const fuse_in_header*>(head.in_out);
    payload_apart_ = true;
}

void UringEntry::received() {
    commit_id_ = head_->entry.commit_id;
    // The kernel tells the size of the payload and of the whole message; the first argument is the difference.
    const std::size_t payload = std::min<std::size_t>(head_->entry.payload_size, memory_.size());
    const std::size_t apart = sizeof(fuse_in_header) + payload;
    const std::size_t first = header_->len > apart ? header_->len - apart : 0;
    args_ = Bytes(head_->first_argument, std::min(first, sizeof(head_->first_argument)));
    payload_ = Bytes(memory_.data(), payload);
}

bool UringEntry::leave_memory_to_device() {
    std::byte* place = memory_.data();
    try {
        owner_ = map_twice(place, memory_.size());
    } catch (const std::exception& error) {
        worker_->say(std::string("a read that came late keeps its client waiting: ") + error.what());
        return false;
    }
    device_memory_ = owner_->memory();
    return true;
}

bool UringEntry::gather(std::span<const iovec> parts, std::size_t& size) {
    size = 0;
    for (const iovec& part : parts) size += part.iov_len;
    if (size > memory_.size()) return false;
    // From the last to the first, as a part may lie in this very memory, where what comes before it goes.
    std::size_t end = size;
    for (std::size_t i = parts.size(); i-- > 0;) {
        end -= parts[i].iov_len;
        std::byte* const place = memory_.data() + end;
        if (parts[i].iov_base != place && parts[i].iov_len > 0) {
            std::memmove(place, parts[i].iov_base, parts[i].iov_len);
        }
    }
    return true;
}

void UringEntry::send(int error, std::span<const iovec> parts) {
    std::size_t size = 0;
    if (error == 0 && !gather(parts, size)) {
        worker_->refuse(*this, size);
        error = -EIO;
    }
    if (error > 0 || error <= -kFirstKernelError) error = -EIO;
    if (error != 0) size = 0;
    const fuse_out_header out{static_cast<std::uint32_t>(sizeof(fuse_out_header) + size), error, header_->unique};
    std::memcpy(head_->in_out, &out, sizeof(out));
    head_->entry.payload_size = static_cast<std::uint32_t>(size);
    worker_->answer(*this);
}

// An entry comes back only with a commit, so what needs no answer gets an empty one.
void UringEntry::release() { send(0, {}); }

}  // namespace kvfs::splitter
