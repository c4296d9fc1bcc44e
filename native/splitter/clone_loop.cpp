#include "splitter/clone_loop.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "splitter/protocol.hpp"

namespace kvfs::splitter {
namespace {

// A WRITE's data must land on a block boundary of the buffer: the two structures before it end right there.
constexpr std::size_t kMessageAt = kDataAt - sizeof(fuse_in_header) - sizeof(fuse_write_in);
constexpr std::size_t kMostParts = 7;
constexpr int kWakeSignal = SIGURG;  // ignored by default: one that comes late does no harm

void on_wake(int) {}  // its only effect is EINTR

// Lets clients that an answer woke run first where they share a CPU with us: their next requests are there when we come
// to read, and neither side sleeps and is woken for each (a third less CPU time of both for 4 KiB reads from memory).
// But what else wants the CPU then runs for a whole time slice while requests wait: once that has happened, we stay for
// a while. Nobody else to run: it costs next to nothing.
class Courtesy {
public:
    void yield() {
        const auto before = Clock::now();
        if (before < not_before_) return;
        sched_yield();
        const auto after = Clock::now();
        if (after - before > kLong) not_before_ = after + kPause;
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::microseconds kLong{200};
    static constexpr std::chrono::milliseconds kPause{100};
    Clock::time_point not_before_;
};

}  // namespace

class CloneLoop::CloneRequest final : public Request {
public:
    CloneRequest(CloneLoop& loop, Worker& worker) : loop_(loop), worker_(worker) {}

    void take(uring::Buffer buffer, std::size_t size) {
        buffer_ = std::move(buffer);
        const std::byte* const message = buffer_.data() + kMessageAt;
        std::memcpy(&copy_, message, sizeof copy_);
        header_ = &copy_;
        args_ = {message + sizeof copy_, size - sizeof copy_};
    }
    uring::Buffer take_buffer() override { return std::move(buffer_); }
    void arguments_done() override;

protected:
    void send(int error, std::span<const iovec> parts) override;
    void release() override;

private:
    ssize_t write(int error, std::span<const iovec> parts) const;

    CloneLoop& loop_;
    Worker& worker_;
    uring::Buffer buffer_;
    fuse_in_header copy_{};  // outlives the buffer
};

struct CloneLoop::Worker {
    int fd = -1;
    bool owns_fd = false;
    std::thread thread;
    std::atomic<std::thread::id> id;  // set by the thread itself: only it can find itself here
    std::atomic<bool> running{false};
    uring::Buffer spare;  // the worker thread's own
    std::mutex mutex;
    std::vector<std::unique_ptr<CloneRequest>> all;
    std::vector<CloneRequest*> idle;

    ~Worker() {
        if (owns_fd) ::close(fd);
    }
    [[nodiscard]] bool is_me() const { return std::this_thread::get_id() == id; }
    CloneRequest& next(CloneLoop& loop) {
        const std::lock_guard guard(mutex);
        if (idle.empty()) {
            all.push_back(std::make_unique<CloneRequest>(loop, *this));
            idle.reserve(all.capacity());  // so that giving back cannot fail
            return *all.back();
        }
        CloneRequest& request = *idle.back();
        idle.pop_back();
        return request;
    }
    void give_back(CloneRequest& request) {
        const std::lock_guard guard(mutex);
        idle.push_back(&request);
    }
};

void CloneLoop::CloneRequest::arguments_done() {
    if (worker_.is_me() && !worker_.spare) worker_.spare = std::move(buffer_);
    buffer_.reset();
}

void CloneLoop::CloneRequest::release() {
    arguments_done();
    CloneLoop& loop = loop_;  // this request may be used again once it is given back
    worker_.give_back(*this);
    // last, and release: whoever then finds nothing in hand may destroy the loop
    loop.counters_.in_hand.fetch_sub(1, std::memory_order_release);
}

ssize_t CloneLoop::CloneRequest::write(int error, std::span<const iovec> parts) const {
    fuse_out_header out{};
    std::array<iovec, kMostParts + 1> all;
    all[0] = {&out, sizeof out};
    std::size_t size = sizeof out;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        all[i + 1] = parts[i];
        size += parts[i].iov_len;
    }
    out.len = static_cast<std::uint32_t>(size);
    out.error = error;
    out.unique = copy_.unique;
    return ::writev(worker_.fd, all.data(), static_cast<int>(parts.size() + 1));
}

void CloneLoop::CloneRequest::send(int error, std::span<const iovec> parts) {
    if (parts.size() > kMostParts || write(error, parts) < 0) {
        const int reason = parts.size() > kMostParts ? EMSGSIZE : errno;
        loop_.counters_.replies_refused.fetch_add(1, std::memory_order_relaxed);
        // ENOENT: the client was killed and the kernel gave the request up; ENODEV, ENOTCONN: the mount is gone
        if (reason != ENOENT && reason != ENODEV && reason != ENOTCONN && reason != ECONNABORTED) {
            loop_.report_(40, "the kernel refused the answer to opcode " + std::to_string(copy_.opcode) + " (unique " +
                                  std::to_string(copy_.unique) + "): " + std::strerror(reason));
            if (!parts.empty()) write(-EIO, {});  // whatever becomes of it: the client must not wait for ever
        }
    } else {
        loop_.counters_.replies.fetch_add(1, std::memory_order_relaxed);
    }
    release();
}

CloneLoop::CloneLoop(int fuse_fd, unsigned threads, uring::BufferPool& buffers, RequestSink& sink, Report report)
    : buffers_(buffers), sink_(sink), report_(std::move(report)) {
    for (unsigned i = 0; i < threads; ++i) {
        auto& worker = *workers_.emplace_back(std::make_unique<Worker>());
        worker.fd = fuse_fd;
        if (i == 0) continue;
        const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
        if (fd < 0) continue;
        auto source = static_cast<std::uint32_t>(fuse_fd);
        if (::ioctl(fd, kDeviceClone, &source) == 0) {
            worker.fd = fd;
            worker.owns_fd = true;
        } else {
            ::close(fd);
        }
    }
}

CloneLoop::~CloneLoop() { stop(); }

unsigned CloneLoop::clones() const {
    unsigned count = 0;
    for (const auto& worker : workers_) count += worker->owns_fd ? 1 : 0;
    return count;
}

void CloneLoop::start() {
    struct sigaction wake {};
    wake.sa_handler = on_wake;  // without SA_RESTART
    sigaction(kWakeSignal, &wake, nullptr);
    for (const auto& worker : workers_) {
        worker->running = true;
        worker->thread = std::thread([this, &each = *worker] { work(each); });
    }
}

void CloneLoop::stop() {
    stop_ = true;
    for (const auto& worker : workers_) {
        if (!worker->thread.joinable()) continue;
        // A signal that arrives just before read() goes to sleep is lost, so it is sent until it has been heard.
        while (worker->running) {
            pthread_kill(worker->thread.native_handle(), kWakeSignal);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        worker->thread.join();
    }
}

void CloneLoop::work(Worker& worker) {
    worker.id = std::this_thread::get_id();
    int ended = 0;
    Courtesy courtesy;
    while (!stop_) {
        if (!worker.spare) worker.spare = buffers_.acquire_blocking();
        courtesy.yield();
        const ssize_t size = ::read(worker.fd, worker.spare.data() + kMessageAt, worker.spare.size() - kMessageAt);
        if (size < 0) {
            // ENOENT: the request was taken back while it was being read
            if (errno == EINTR || errno == EAGAIN || errno == ENOENT) continue;
            ended = errno == ENODEV ? 0 : -errno;
            break;
        }
        if (static_cast<std::size_t>(size) < sizeof(fuse_in_header)) {
            report_(40, "a message of " + std::to_string(size) + " bytes is no request: dropped");
            if (size == 0) break;  // the peer of a socket in the device's place is gone
            continue;
        }
        CloneRequest& request = worker.next(*this);
        request.take(std::move(worker.spare), static_cast<std::size_t>(size));
        counters_.requests.fetch_add(1, std::memory_order_relaxed);
        counters_.in_hand.fetch_add(1, std::memory_order_relaxed);
        RequestHandle handle(request);
        if (handle->header().len != static_cast<std::size_t>(size)) {
            handle.reply(-EINVAL);
        } else {
            sink_.handle(std::move(handle));
        }
    }
    worker.spare.reset();
    worker.running = false;
    sink_.ended(ended);
}

}  // namespace kvfs::splitter
