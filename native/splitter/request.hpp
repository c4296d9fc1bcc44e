// One request of the kernel in hand, whichever loop brought it.
//
// Ownership: a loop makes a Request for every message that it takes from the kernel and gives it away as a
// RequestHandle. Whoever holds the handle answers once, from any thread; the request then goes back to its loop, which
// uses it again for another message. A handle that is dropped unanswered answers EIO: no client waits for ever for a
// bug in here.
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "uring/buffers.hpp"

namespace kvfs::splitter {

using Bytes = std::span<const std::byte>;

// Where the data of a WRITE begins in a buffer that Request::take_buffer() gives away: on a block boundary.
inline constexpr std::size_t kDataAt = 4096;

class Request {
public:
    Request() = default;
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
    virtual ~Request() = default;

    [[nodiscard]] const fuse_in_header& header() const { return *header_; }
    // The structure that follows the header. Null when the message is too short for it.
    template <typename T>
    [[nodiscard]] const T* in() const {
        return args_.size() < sizeof(T) ? nullptr : reinterpret_cast<const T*>(args_.data());
    }
    // What follows the first `head` bytes of arguments: names, or the data of a WRITE.
    [[nodiscard]] Bytes rest(std::size_t head) const {
        if (!payload_apart_) return head <= args_.size() ? args_.subspan(head) : Bytes{};
        return payload_;
    }
    // All that follows the header, in order: for whoever passes the message on.
    [[nodiscard]] Bytes args() const { return args_; }
    [[nodiscard]] Bytes payload() const { return payload_; }

    // Page-aligned memory from which an answer's payload goes out without a further copy when it is the only part of
    // the reply; empty when the loop has none. As large as the largest answer that the kernel may ask for.
    [[nodiscard]] virtual std::span<std::byte> reply_memory() { return {}; }
    // The same memory at an address for devices: it stays while `owner` lives, also once the request has been answered.
    struct DeviceMemory {
        std::span<std::byte> bytes;
        std::shared_ptr<const void> owner;
    };
    [[nodiscard]] virtual DeviceMemory device_memory() { return {}; }
    // The request is about to be answered while a device may still write into device_memory(): puts other memory into
    // the place of reply_memory(). False when there is none to be had: the request must wait for the device.
    virtual bool leave_memory_to_device() { return false; }
    // Of a WRITE: gives away the buffer with the data, which begins at kDataAt. Empty when the loop keeps its memory;
    // header(), in() and rest() stay valid as long as the buffer lives.
    [[nodiscard]] virtual uring::Buffer take_buffer() { return {}; }
    // in() and rest() will not be asked again: what holds them may serve another request. header() stays.
    virtual void arguments_done() {}

protected:
    friend class RequestHandle;
    // Sends the answer and takes the request back: nobody may touch it after this. `error` is 0 or a negative errno.
    virtual void send(int error, std::span<const iovec> parts) = 0;
    // Takes the request back without an answer, for the few opcodes that have none.
    virtual void release() = 0;

    const fuse_in_header* header_ = nullptr;
    Bytes args_;
    Bytes payload_;
    bool payload_apart_ = false;  // arguments and payload are not one piece of memory
};

class RequestHandle {
public:
    explicit RequestHandle(Request& request) : request_(&request) {}
    RequestHandle(RequestHandle&& other) noexcept : request_(std::exchange(other.request_, nullptr)) {}
    RequestHandle(const RequestHandle&) = delete;
    RequestHandle& operator=(const RequestHandle&) = delete;
    RequestHandle& operator=(RequestHandle&&) = delete;
    ~RequestHandle() {
        if (request_ != nullptr) reply(-EIO);
    }

    Request* operator->() const { return request_; }
    Request& operator*() const { return *request_; }

    void reply(int error) { std::exchange(request_, nullptr)->send(error, {}); }
    void reply(std::span<const iovec> parts) { std::exchange(request_, nullptr)->send(0, parts); }
    void reply(Bytes part) {
        const iovec one{const_cast<std::byte*>(part.data()), part.size()};
        reply(std::span(&one, 1));
    }
    template <typename T>
    void reply_with(const T& structure) {
        reply(std::as_bytes(std::span(&structure, 1)));
    }
    void no_reply() { std::exchange(request_, nullptr)->release(); }

private:
    Request* request_;
};

}  // namespace kvfs::splitter
