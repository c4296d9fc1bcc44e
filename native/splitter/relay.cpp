#include "splitter/relay.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "splitter/protocol.hpp"

namespace kvfs::splitter {
namespace {

// Of one message, either way. The default limit of an unprivileged socket is 208 KiB, with the kernel's bookkeeping;
// the largest request is a SETXATTR (64 KiB), the largest answers are those whose size `limit_answer` cuts.
constexpr std::size_t kLargestMessage = std::size_t{160} << 10;
constexpr std::uint32_t kLargestAnswer = 128U << 10;

void append(std::vector<std::byte>& out, Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

// Clients of directories and of .kvfs/ files loop until they have all: a shorter answer is no error to them.
void limit_answer(std::vector<std::byte>& message, std::uint32_t opcode) {
    if (opcode != FUSE_READ && opcode != FUSE_READDIR && opcode != FUSE_READDIRPLUS) return;
    if (message.size() < sizeof(fuse_in_header) + sizeof(fuse_read_in)) return;
    auto* in = reinterpret_cast<fuse_read_in*>(message.data() + sizeof(fuse_in_header));
    in->size = std::min(in->size, kLargestAnswer);
}

}  // namespace

Relay::Relay(int fuse_fd, Report report) : fuse_fd_(fuse_fd), report_(std::move(report)) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        throw std::system_error(errno, std::generic_category(), "socketpair");
    }
    socket_ = pair[0];
    peer_ = pair[1];
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Relay::~Relay() {
    close();
    for (const int fd : {socket_, peer_, wake_}) {
        if (fd >= 0) ::close(fd);
    }
}

int Relay::take_peer() { return std::exchange(peer_, -1); }

void Relay::greet(const fuse_in_header& header, const fuse_init_in& init) {
    struct {
        fuse_in_header header;
        fuse_init_in init;
    } message{header, init};
    message.header.len = sizeof message;
    message.init.minor = std::min<std::uint32_t>(init.minor, FUSE_KERNEL_MINOR_VERSION);
    message.init.flags &= ~static_cast<std::uint32_t>(FUSE_SPLICE_WRITE | FUSE_SPLICE_MOVE | FUSE_SPLICE_READ);
    message.init.flags2 = 0;
    greeting_ = header.unique;
    const Bytes bytes = std::as_bytes(std::span(&message, 1));
    send(Message(bytes.begin(), bytes.end()));
}

void Relay::start() {
    thread_ = std::thread([this] { run(); });
    notifier_ = std::thread([this] { notifier(); });
}

void Relay::forward(RequestHandle request) {
    const fuse_in_header header = request->header();
    Message message;
    message.reserve(header.len);
    append(message, std::as_bytes(std::span(&header, 1)));
    append(message, request->args());
    append(message, request->payload());
    if (message.size() > kLargestMessage) {
        report_(40, "a request of opcode " + std::to_string(header.opcode) + " and " + std::to_string(message.size()) +
                        " bytes does not fit into the relay: refused");
        request.reply(-E2BIG);
        return;
    }
    limit_answer(message, header.opcode);
    request->arguments_done();
    {
        const std::lock_guard guard(mutex_);
        if (closed_) return;  // EIO
        forwarded_.emplace(header.unique, std::move(request));
    }
    send(std::move(message));
}

void Relay::send(Message message) {
    const std::lock_guard guard(mutex_);
    if (unsent_.empty()) {
        if (::send(socket_, message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return;
        if (errno != EAGAIN && errno != ENOBUFS && errno != EINTR) return;  // the peer is gone: see close()
    }
    unsent_.push_back(std::move(message));
    const std::uint64_t one = 1;
    // fails only when the counter is at its maximum, and then it is readable already
    [[maybe_unused]] const auto rc = ::write(wake_, &one, sizeof one);
}

// False when the socket is full. The mutex is not held.
bool Relay::flush_queue() {
    const std::lock_guard guard(mutex_);
    while (!unsent_.empty()) {
        const Message& message = unsent_.front();
        if (::send(socket_, message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == ENOBUFS) return false;
        }
        unsent_.pop_front();
    }
    return true;
}

void Relay::run() {
    Message message(kLargestMessage);
    for (;;) {
        const bool emptied = flush_queue();
        pollfd events[2] = {{socket_, static_cast<short>(emptied ? POLLIN : POLLIN | POLLOUT), 0}, {wake_, POLLIN, 0}};
        if (::poll(events, 2, -1) < 0) continue;  // EINTR
        if ((events[1].revents & POLLIN) != 0) {
            std::uint64_t count = 0;
            [[maybe_unused]] const auto rc = ::read(wake_, &count, sizeof count);
            const std::lock_guard guard(mutex_);
            if (closed_) return;
        }
        if ((events[0].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
        const ssize_t size = ::recv(socket_, message.data(), message.size(), MSG_DONTWAIT | MSG_TRUNC);
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (size <= 0) return;  // Python has closed its end: the session is over
        if (static_cast<std::size_t>(size) > message.size()) {
            // the header is there, so its client can be told
            auto* out = reinterpret_cast<fuse_out_header*>(message.data());
            report_(40, "an answer of " + std::to_string(size) + " bytes to opcode " +
                            std::to_string(opcode_of(out->unique)) + " does not fit into the relay");
            out->len = sizeof *out;
            out->error = -EIO;
            answer({message.data(), sizeof *out});
            continue;
        }
        answer({message.data(), static_cast<std::size_t>(size)});
    }
}

// Of a request that Python holds; 0, which no opcode is, for any other.
std::uint32_t Relay::opcode_of(std::uint64_t unique) const {
    const std::lock_guard guard(mutex_);
    const auto it = forwarded_.find(unique);
    return it == forwarded_.end() ? 0 : it->second->header().opcode;
}

void Relay::answer(Bytes message) {
    if (message.size() < sizeof(fuse_out_header)) {
        report_(40, "an answer of " + std::to_string(message.size()) + " bytes is none: dropped");
        return;
    }
    fuse_out_header header;
    std::memcpy(&header, message.data(), sizeof header);
    if (header.unique == 0) {
        notify({message.begin(), message.end()});
        return;
    }
    if (header.unique == greeting_) {
        greeting_ = 0;
        if (header.error != 0) report_(40, "libfuse refused INIT: " + std::string(std::strerror(-header.error)));
        return;
    }
    std::unordered_map<std::uint64_t, RequestHandle>::node_type node;
    {
        const std::lock_guard guard(mutex_);
        node = forwarded_.extract(header.unique);
    }
    if (node.empty()) return;  // closed meanwhile
    if (header.error != 0) {
        node.mapped().reply(header.error);
    } else {
        node.mapped().reply(message.subspan(sizeof header));
    }
}

void Relay::notify(std::vector<std::byte> message) {
    const std::lock_guard guard(notify_mutex_);
    notifications_.push_back(std::move(message));
    notify_wake_.notify_one();
}

void Relay::notifier() {
    std::unique_lock guard(notify_mutex_);
    for (;;) {
        notify_wake_.wait(guard, [this] { return notify_stop_ || !notifications_.empty(); });
        if (notifications_.empty()) return;
        const Message message = std::move(notifications_.front());
        notifications_.pop_front();
        guard.unlock();
        // ENOENT: the kernel does not know that name or inode, so it has nothing stale; ENODEV: no mount any more
        if (::write(fuse_fd_, message.data(), message.size()) < 0 && errno != ENOENT && errno != ENOTDIR &&
            errno != ENODEV && errno != ENOTCONN && errno != ENOTEMPTY) {
            report_(30, "the kernel refused a notification: " + std::string(std::strerror(errno)));
        }
        guard.lock();
    }
}

void Relay::close() {
    std::unordered_map<std::uint64_t, RequestHandle> orphans;
    {
        const std::lock_guard guard(mutex_);
        closed_ = true;
        orphans.swap(forwarded_);
        unsent_.clear();
    }
    orphans.clear();
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto rc = ::write(wake_, &one, sizeof one);
    if (thread_.joinable()) thread_.join();
    {
        const std::lock_guard guard(notify_mutex_);
        notify_stop_ = true;
        notify_wake_.notify_one();
    }
    if (notifier_.joinable()) notifier_.join();
}

std::size_t Relay::waiting() const {
    const std::lock_guard guard(mutex_);
    return forwarded_.size();
}

}  // namespace kvfs::splitter
