#include "splitter/splitter.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "splitter/handshake.hpp"
#include "splitter/loops.hpp"

namespace kvfs::splitter {
Splitter::Splitter(std::shared_ptr<pool::Pool> store, int fuse_fd, const Options& options)
    : store_(std::move(store)),
      fuse_fd_(fuse_fd),
      options_(options),
      relay_(fuse_fd, [this](int level, std::string text) { report(level, std::move(text)); }) {
    ended_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ended_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Splitter::~Splitter() {
    close();
    ::close(ended_fd_);
}

void Splitter::close() {
    if (fuse_fd_ < 0) return;
    stop(false);
    store_->set_inode_hook({});
    tier_.reset();  // gives back its backing files, for which the connection has to be there
    ::close(fuse_fd_);
    fuse_fd_ = -1;
    loop_.reset();  // closes its own descriptors of the connection, which ends with the last
}

void Splitter::start() {
    LoopChoice loops(options_.loop, fuse_fd_, options_.threads, store_->request_pool(), *this,
                     [this](int level, std::string text) { report(level, std::move(text)); });
    const Hello hello = read_init(fuse_fd_);
    init_ = negotiate(hello, loops.agree(hello.offered()));
    answer_init(fuse_fd_, hello, init_);
    relay_.greet(hello.header, hello.init);
    if (options_.warm_bytes != 0) {
        tier_ = std::make_unique<warm::Tier>(*store_, warm::Options{.budget_bytes = options_.warm_bytes,
                                                                    .fuse_fd = fuse_fd_,
                                                                    .passthrough = passthrough_,
                                                                    .system_root = {}});
        store_->set_inode_hook([this](std::uint64_t ino) { tier_->forget(ino); });
    }
    relay_.start();
    loop_ = loops.start();
}

void Splitter::stop(bool python_answers) {
    if (loop_ == nullptr) return;
    loop_->stop();
    if (!python_answers) relay_.close();
    // What is in hand now is at the device, or Python's: neither needs a worker to come to its end.
    while (loop_->counters().in_hand.load() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    relay_.close();
}

void Splitter::ended(int error) {
    if (error != 0) {
        int none = 0;
        end_error_.compare_exchange_strong(none, error);
        report(40, "a thread of the request loop ended: " + std::string(std::strerror(-error)));
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto rc = ::write(ended_fd_, &one, sizeof one);
}

void Splitter::handle(RequestHandle request) {
    const uring::Turn turn;  // who waits for what this request lets go of comes after it
    const fuse_in_header& header = request->header();
    const std::uint32_t opcode = header.opcode;
    if (opcode >= kOpcodes) {
        counters_.unknown.fetch_add(1, std::memory_order_relaxed);
        return request.reply(-ENOSYS);
    }
    const bool is_virtual = header.nodeid >= kFirstVirtual;
    // -ENOSYS, which is all that pyfuse3 has for these, would tell the kernel that no file of this mount can do them
    if (is_virtual && opcode == FUSE_LSEEK) return fail(std::move(request), -EINVAL);
    if (is_virtual && (opcode == FUSE_FALLOCATE || opcode == FUSE_COPY_FILE_RANGE)) {
        return fail(std::move(request), -EOPNOTSUPP);
    }
    if (is_virtual && opcode == FUSE_WRITE) {
        const auto* in = request->in<fuse_write_in>();
        if (in != nullptr && in->size > kMaxVirtualWrite) return fail(std::move(request), -EINVAL);
    }
    if (is_virtual && opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT) {
        return relay(std::move(request));
    }
    const auto native = [&] { counters_.native[opcode].fetch_add(1, std::memory_order_relaxed); };
    switch (opcode) {
        case FUSE_READ:
            native();
            return read(std::move(request));
        case FUSE_WRITE:
            native();
            return write(std::move(request));
        case FUSE_LOOKUP: {
            const std::string_view name = name_in(request->rest(0));
            if (is_control_name(header.nodeid, name) || name == "." || name == "..") return relay(std::move(request));
            native();
            return lookup(std::move(request));
        }
        case FUSE_GETATTR:
            native();
            return getattr(std::move(request));
        case FUSE_OPEN:
            native();
            return open(std::move(request));
        case FUSE_RELEASE:
            native();
            return release(std::move(request));
        case FUSE_FLUSH:
            native();
            return flush(std::move(request));
        case FUSE_CREATE:
            if (is_control_name(header.nodeid, name_in(request->rest(sizeof(fuse_create_in))))) {
                return relay(std::move(request));
            }
            native();
            return create(std::move(request));
        case FUSE_RENAME:
        case FUSE_RENAME2:
            native();
            return rename(std::move(request));
        case FUSE_UNLINK:
        case FUSE_RMDIR:
            if (is_control_name(header.nodeid, name_in(request->rest(0)))) return relay(std::move(request));
            native();
            return unlink(std::move(request), opcode == FUSE_RMDIR);
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
            native();
            return forget(std::move(request));
        case FUSE_SETATTR:
            native();
            return setattr(std::move(request));
        case FUSE_FSYNC:
            native();
            return fsync(std::move(request));
        case FUSE_FALLOCATE:
            native();
            return fallocate(std::move(request));
        case FUSE_LSEEK:
            native();
            return lseek(std::move(request));
        case FUSE_COPY_FILE_RANGE:
            native();
            return copy_file_range(std::move(request));
        case FUSE_IOCTL:
            native();
            return ioctl(std::move(request));
        case FUSE_STATFS:
            native();
            return statfs(std::move(request));
        case FUSE_GETXATTR:
            return getxattr(std::move(request));
        case FUSE_INTERRUPT:
            // Nothing here waits for anything but the device or the log, and those come to an end.
            native();
            return request.no_reply();
        case FUSE_DESTROY:
            native();
            return request.reply(0);
        case FUSE_READLINK:
        case FUSE_SYMLINK:
        case FUSE_MKNOD:
        case FUSE_MKDIR:
        case FUSE_LINK:
        case FUSE_SETXATTR:
        case FUSE_LISTXATTR:
        case FUSE_REMOVEXATTR:
        case FUSE_OPENDIR:
        case FUSE_READDIR:
        case FUSE_READDIRPLUS:
        case FUSE_RELEASEDIR:
        case FUSE_FSYNCDIR:
            return relay(std::move(request));
        default:
            counters_.unknown.fetch_add(1, std::memory_order_relaxed);
            return request.reply(-ENOSYS);
    }
}

void Splitter::relay(RequestHandle request) {
    counters_.relayed[request->header().opcode].fetch_add(1, std::memory_order_relaxed);
    relay_.forward(std::move(request));
}

void Splitter::malformed(RequestHandle request) {
    counters_.malformed.fetch_add(1, std::memory_order_relaxed);
    request.reply(-EINVAL);
}

void Splitter::fail(RequestHandle request, int error) {
    if (error == -EIO) counters_.io_errors[request->header().opcode].fetch_add(1, std::memory_order_relaxed);
    request.reply(error);
}

uring::Detached Splitter::answer_status(RequestHandle request, uring::Async<int> task) {
    const int rc = co_await std::move(task);
    fail(std::move(request), rc < 0 ? rc : 0);
}

std::string_view name_in(Bytes bytes) {
    const auto* text = reinterpret_cast<const char*>(bytes.data());
    const auto* end = static_cast<const char*>(bytes.empty() ? nullptr : std::memchr(text, 0, bytes.size()));
    return end == nullptr ? std::string_view{} : std::string_view(text, static_cast<std::size_t>(end - text));
}

}  // namespace kvfs::splitter
