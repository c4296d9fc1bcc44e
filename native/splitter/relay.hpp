// The other half of the file system: requests that Python answers, passed on unchanged over a pair of sockets.
//
//   worker --forward()--> SOCK_SEQPACKET --> libfuse and pyfuse3, which take the socket for /dev/fuse
//                                                 |
//   client <--answer by the request's loop-- relay thread <--+-- answers, by their unique number
//   kernel <--notifications, own thread--------------------- +-- (unique 0)
//
// A full socket must not stop a worker: what does not fit waits in a queue that the relay thread empties. A
// notification may block in the kernel until a request on its directory is answered, and that answer may come over
// this very socket: hence the third thread.
//
// When Python's side closes its end, or answers nothing any more, the requests that it holds stay unanswered until
// close(): they then get EIO (a dropped RequestHandle does that).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "splitter/request.hpp"

namespace kvfs::splitter {

class Relay {
public:
    using Report = std::function<void(int level, std::string text)>;

    // `fuse_fd` (the caller's) gets the notifications.
    Relay(int fuse_fd, Report report);
    ~Relay();
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    // The end for pyfuse3; the caller's from now on.
    [[nodiscard]] int take_peer();
    // Brings libfuse's session to life with an INIT that offers it what suits a socket: nothing spliced.
    void greet(const fuse_in_header& header, const fuse_init_in& init);
    void start();
    void forward(RequestHandle request);
    // To the kernel, from a thread that may block.
    void notify(std::vector<std::byte> message);
    void close();

    [[nodiscard]] std::size_t waiting() const;

private:
    using Message = std::vector<std::byte>;
    void run();
    void notifier();
    void send(Message message);
    bool flush_queue();
    void answer(Bytes message);
    [[nodiscard]] std::uint32_t opcode_of(std::uint64_t unique) const;

    int fuse_fd_;
    Report report_;
    int socket_ = -1;
    int peer_ = -1;
    int wake_ = -1;
    std::uint64_t greeting_ = 0;  // the INIT's unique number; its answer goes nowhere

    mutable std::mutex mutex_;
    std::unordered_map<std::uint64_t, RequestHandle> forwarded_;
    std::deque<Message> unsent_;
    bool closed_ = false;

    std::mutex notify_mutex_;
    std::condition_variable notify_wake_;
    std::deque<Message> notifications_;
    bool notify_stop_ = false;

    std::thread thread_;
    std::thread notifier_;
};

}  // namespace kvfs::splitter
