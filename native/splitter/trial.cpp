#include "splitter/trial.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <random>
#include <system_error>
#include <thread>
#include <vector>

#include "splitter/handshake.hpp"
#include "splitter/loops.hpp"

namespace kvfs::splitter {
namespace {

constexpr std::uint64_t kFile = 2;  // its inode number; the root is 1
constexpr std::uint64_t kForEver = 3600;
constexpr std::size_t kBuffer = kDataAt + kMaxWrite + 4096;
// A clone's thread has one buffer at a time: its answers come at once.
constexpr std::size_t kBuffers = 40;

constexpr std::uint64_t kWanted =
    FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES | std::uint64_t{FUSE_INIT_EXT};

fuse_attr attributes(std::uint64_t ino) {
    fuse_attr out{};
    out.ino = ino;
    out.blksize = 4096;
    out.uid = geteuid();
    out.gid = getegid();
    out.nlink = 1;
    out.mode = S_IFDIR | 0700;
    if (ino == kFile) {
        out.mode = S_IFREG | 0600;
        out.size = Trial::kFileBytes;
        out.blocks = Trial::kFileBytes / 512;
    }
    return out;
}

}  // namespace

Trial::Trial(int fuse_fd, LoopKind wanted, unsigned threads)
    : fuse_fd_(fuse_fd),
      wanted_(wanted),
      threads_(threads),
      arena_(kBuffers * kBuffer),
      // nobody co_awaits a buffer here
      buffers_(arena_, kBuffers, kBuffer, [](std::coroutine_handle<>) {}),
      zeros_(uring::Buffer::heap(kMaxWrite)) {
    std::fill_n(zeros_.data(), zeros_.size(), std::byte{0});
}

Trial::~Trial() { close(); }

void Trial::start() {
    LoopChoice loops(wanted_, fuse_fd_, threads_, buffers_, *this, [](int, const std::string&) {});
    const Hello hello = read_init(fuse_fd_);
    const std::uint64_t agreed = (hello.offered() & kWanted) | loops.agree(hello.offered());
    answer_init(fuse_fd_, hello, answer_to(hello, agreed));
    loop_ = loops.start();
    kind_ = loop_->kind();
}

void Trial::close() {
    if (fuse_fd_ < 0) return;
    if (loop_ != nullptr) loop_->stop();
    ::close(fuse_fd_);
    fuse_fd_ = -1;
    loop_.reset();
}

void Trial::handle(RequestHandle request) {
    switch (request->header().opcode) {
        case FUSE_LOOKUP: {
            fuse_entry_out out{};
            out.nodeid = kFile;
            out.entry_valid = out.attr_valid = kForEver;
            out.attr = attributes(kFile);
            return request.reply_with(out);
        }
        case FUSE_GETATTR: {
            fuse_attr_out out{};
            out.attr_valid = kForEver;
            out.attr = attributes(request->header().nodeid);
            return request.reply_with(out);
        }
        case FUSE_OPEN:
            return request.reply_with(fuse_open_out{});
        case FUSE_READ:
            return read(std::move(request));
        case FUSE_FLUSH:
        case FUSE_RELEASE:
            return request.reply(0);
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            return request.no_reply();
        default:
            return request.reply(-ENOSYS);
    }
}

void Trial::read(RequestHandle request) {
    const auto* in = request->in<fuse_read_in>();
    if (in == nullptr) return request.reply(-EINVAL);
    const std::uint64_t left = kFileBytes - std::min<std::uint64_t>(in->offset, kFileBytes);
    const std::size_t size = std::min<std::uint64_t>({in->size, left, kMaxWrite});
    const std::span<std::byte> own = request->reply_memory();
    // Pages of its own, as the device would need: the kernel is slow to read from its shared page of zeros.
    for (std::size_t i = 0; i < std::min(size, own.size()); i += kKernelPage) own[i] = std::byte{0};
    request.reply(own.size() >= size ? Bytes(own.first(size)) : Bytes(zeros_.data(), size));
}

double read_rate(int fd, unsigned readers, std::size_t size, double seconds) {
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> reads{0};
    std::atomic<int> error{0};
    const auto work = [&](unsigned seed) {
        const uring::Buffer memory = uring::Buffer::heap(size);
        std::minstd_rand draw(seed + 1);
        std::uint64_t own = 0;
        while (!stop.load(std::memory_order_relaxed)) {
            const off_t offset = static_cast<off_t>(draw() % (Trial::kFileBytes / size) * size);
            const ssize_t n = ::pread(fd, memory.data(), size, offset);
            if (n != static_cast<ssize_t>(size)) {
                error = n < 0 ? errno : EIO;
                break;
            }
            ++own;
        }
        reads += own;
    };
    std::vector<std::thread> threads;
    threads.reserve(readers);
    const auto begin = std::chrono::steady_clock::now();
    for (unsigned i = 0; i < readers; ++i) threads.emplace_back(work, i);
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    stop = true;
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    if (error != 0) throw std::system_error(error, std::generic_category(), "reading the file of a trial");
    return static_cast<double>(reads) / took.count();
}

}  // namespace kvfs::splitter
