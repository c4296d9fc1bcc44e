// The FUSE protocol as the splitter hears it: from the kernel's end, and from Python's behind the relay.
//
//   input: requests one after the other | opcode | node | how its arguments are made | ...
//
// Requests go in where a loop would hand them over, in memory of exactly their size, so that a sanitizer sees who reads
// on behind an end. Every one of them has to be answered, once. Python's end answers what it is told to by the input as
// well: garbage, nothing wrong, or an error.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fuzz/image.hpp"
#include "splitter/splitter.hpp"
#include "store/check.hpp"
#include "warm/ioctl.hpp"

namespace {

using namespace kvfs;
using splitter::Bytes;

constexpr auto kPatience = std::chrono::seconds(20);

void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "violated: %s\n", what);
    std::abort();
}

// What has been handed over and not been answered yet.
class Ledger {
public:
    void opened() {
        const std::lock_guard guard(mutex_);
        ++open_;
    }
    void answered(std::uint32_t opcode, const std::string& body) {
        const std::lock_guard guard(mutex_);
        --open_;
        if (opcode == FUSE_CREATE && body.size() >= sizeof(fuse_entry_out) + 8) {
            remember(body, 0, nodes_);
            remember(body, sizeof(fuse_entry_out), handles_);
        } else if (opcode == FUSE_OPEN && body.size() >= 8) {
            remember(body, 0, handles_);
        } else if (opcode == FUSE_LOOKUP && body.size() >= 8) {
            remember(body, 0, nodes_);
        }
        done_.notify_all();
    }
    void wait() {
        std::unique_lock guard(mutex_);
        expect(done_.wait_for(guard, kPatience, [this] { return open_ == 0; }), "every request is answered");
    }
    std::uint64_t node(std::uint8_t which) { return pick(nodes_, which); }
    std::uint64_t handle(std::uint8_t which) { return pick(handles_, which); }

private:
    static void remember(const std::string& body, std::size_t at, std::deque<std::uint64_t>& list) {
        std::uint64_t value = 0;
        std::memcpy(&value, body.data() + at, sizeof value);
        list.push_front(value);
        if (list.size() > 6) list.pop_back();
    }
    std::uint64_t pick(const std::deque<std::uint64_t>& list, std::uint8_t which) {
        const std::lock_guard guard(mutex_);
        return list.empty() ? 1 : list[which % list.size()];
    }

    std::mutex mutex_;
    std::condition_variable done_;
    int open_ = 0;
    std::deque<std::uint64_t> nodes_{1};
    std::deque<std::uint64_t> handles_;
};

class FuzzRequest final : public splitter::Request {
public:
    FuzzRequest(std::shared_ptr<Ledger> ledger, const fuse_in_header& header, const std::string& args, bool apart)
        : ledger_(std::move(ledger)), copy_(header), args_memory_(args.size()) {
        if (!args.empty()) std::memcpy(args_memory_.data(), args.data(), args.size());
        header_ = &copy_;
        args_ = args_memory_;
        // as a ring has it: the structure here, names and data elsewhere
        if (apart && args.size() >= sizeof(fuse_write_in) && header.opcode == FUSE_WRITE) {
            payload_memory_.assign(args_memory_.begin() + sizeof(fuse_write_in), args_memory_.end());
            args_memory_.resize(sizeof(fuse_write_in));
            args_ = args_memory_;
            payload_ = payload_memory_;
            payload_apart_ = true;
        }
        ledger_->opened();
    }

protected:
    void send(int error, std::span<const iovec> parts) override {
        expect(!done_.exchange(true), "a request is answered once");
        expect(error <= 0 && error > -4096, "an error is a negative errno");
        std::string body;
        for (const iovec& part : parts) body.append(static_cast<const char*>(part.iov_base), part.iov_len);
        finish(error == 0 ? body : std::string{});
    }
    void release() override {
        expect(!done_.exchange(true), "a request is given back once");
        finish({});
    }

private:
    void finish(const std::string& body) {
        const auto ledger = ledger_;
        const std::uint32_t opcode = copy_.opcode;
        delete this;
        ledger->answered(opcode, body);
    }

    std::shared_ptr<Ledger> ledger_;
    fuse_in_header copy_;
    std::vector<std::byte> args_memory_;
    std::vector<std::byte> payload_memory_;
    std::atomic<bool> done_{false};
};

// Python's end of the relay.
class Peer {
public:
    Peer(int socket, std::string answers) : socket_(socket), answers_(std::move(answers)), thread_([this] { run(); }) {}
    ~Peer() {
        ::shutdown(socket_, SHUT_RDWR);
        thread_.join();
        ::close(socket_);
    }

private:
    void run() {
        std::vector<std::byte> message(std::size_t{256} << 10);
        for (std::size_t count = 0;; ++count) {
            const ssize_t size = ::recv(socket_, message.data(), message.size(), 0);
            if (size <= 0) return;
            expect(static_cast<std::size_t>(size) >= sizeof(fuse_in_header), "what is relayed has a header");
            fuse_in_header in{};
            std::memcpy(&in, message.data(), sizeof in);
            if (in.opcode == FUSE_INIT) continue;
            answer(in.unique, count);
        }
    }
    void answer(std::uint64_t unique, std::size_t count) {
        fuse_out_header out{};
        const std::uint8_t how = answers_.empty() ? 0 : static_cast<std::uint8_t>(answers_[count % answers_.size()]);
        std::string body;
        if (how % 4 == 1) body = answers_.substr(0, how);
        if (how % 4 == 2) {  // to a question that nobody asked, before the one that somebody did
            out.unique = how;
            out.len = sizeof out;
            ::send(socket_, &out, how % sizeof out, MSG_NOSIGNAL);
            if (how >= 4) ::send(socket_, &out, sizeof out, MSG_NOSIGNAL);
        }
        out.unique = unique;
        out.error = how % 4 == 0 ? -ENOSYS : how % 4 == 3 ? -static_cast<int>(how) : 0;
        out.len = static_cast<std::uint32_t>(sizeof out + body.size());
        std::string all(reinterpret_cast<const char*>(&out), sizeof out);
        all += body;
        ::send(socket_, all.data(), all.size(), MSG_NOSIGNAL);
    }

    int socket_;
    std::string answers_;
    std::thread thread_;
};

template <typename T>
void put(std::string& out, const T& value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Arguments that have the right shape and any values.
std::string arguments(std::uint32_t opcode, fuzz::Input& input, Ledger& ledger) {
    std::string out;
    const auto handle = [&] {
        const auto which = input.take<std::uint8_t>();
        return which < 0xf0 ? ledger.handle(which) : input.take<std::uint64_t>();
    };
    const auto offset = [&] { return input.number(200) * (input.take<std::uint8_t>() % 2 == 0 ? 4096 : 1); };
    const auto name = [&] { out += input.name() + '\0'; };
    switch (opcode) {
        case FUSE_LOOKUP:
        case FUSE_UNLINK:
        case FUSE_RMDIR:
            name();
            break;
        case FUSE_RENAME:
        case FUSE_RENAME2: {
            const std::uint64_t target = ledger.node(input.take<std::uint8_t>());
            put(out, input.take<std::uint8_t>() % 8 == 0 ? input.take<std::uint64_t>() : target);
            if (opcode == FUSE_RENAME2) put(out, std::uint64_t{input.take<std::uint8_t>()} % 8);
            name();
            name();
            break;
        }
        case FUSE_CREATE:
        case FUSE_OPEN: {
            fuse_create_in in{};
            in.flags = input.take<std::uint32_t>() & (O_ACCMODE | O_TRUNC | O_EXCL | O_DIRECT | O_APPEND | O_NOATIME);
            in.mode = input.take<std::uint16_t>();
            if (opcode == FUSE_OPEN) {
                put(out, fuse_open_in{in.flags, 0});
            } else {
                put(out, in);
                name();
            }
            break;
        }
        case FUSE_READ: {
            fuse_read_in in{};
            in.fh = handle();
            in.offset = offset();
            in.size = static_cast<std::uint32_t>(input.number(255)) * 1024;
            put(out, in);
            break;
        }
        case FUSE_WRITE: {
            fuse_write_in in{};
            in.fh = handle();
            in.offset = offset();
            const std::size_t size = (input.take<std::uint16_t>() % 40'000);
            in.size =
                input.take<std::uint8_t>() % 16 == 0 ? input.take<std::uint32_t>() : static_cast<std::uint32_t>(size);
            put(out, in);
            out.append(size, 'w');
            break;
        }
        case FUSE_SETATTR: {
            fuse_setattr_in in{};
            in.valid = input.take<std::uint16_t>();
            in.fh = handle();
            in.size = offset();
            in.atime = input.number(100);
            in.mtime = input.number(100);
            in.atimensec = input.take<std::uint32_t>();
            in.mtimensec = input.take<std::uint32_t>();
            in.mode = input.take<std::uint16_t>();
            in.uid = input.take<std::uint32_t>();
            in.gid = input.take<std::uint8_t>();
            put(out, in);
            break;
        }
        case FUSE_FALLOCATE: {
            fuse_fallocate_in in{};
            in.fh = handle();
            in.offset = offset();
            in.length = offset();
            in.mode = input.take<std::uint8_t>() % 64;
            put(out, in);
            break;
        }
        case FUSE_LSEEK: {
            fuse_lseek_in in{};
            in.fh = handle();
            in.offset = offset();
            in.whence = input.take<std::uint8_t>() % 8;
            put(out, in);
            break;
        }
        case FUSE_COPY_FILE_RANGE: {
            fuse_copy_file_range_in in{};
            in.fh_in = handle();
            in.off_in = offset();
            in.nodeid_out = ledger.node(input.take<std::uint8_t>());
            in.fh_out = handle();
            in.off_out = offset();
            in.len = offset();
            put(out, in);
            break;
        }
        case FUSE_IOCTL: {
            static constexpr std::uint32_t kCommands[] = {warm::kIocWarm, warm::kIocWarmState, warm::kIocWarmEvict, 0};
            fuse_ioctl_in in{};
            in.fh = handle();
            in.cmd = kCommands[input.take<std::uint8_t>() % std::size(kCommands)];
            in.in_size = input.take<std::uint8_t>() % 64;
            in.out_size = input.take<std::uint8_t>() % 8 == 0 ? input.take<std::uint32_t>() : sizeof(warm::Report);
            put(out, in);
            const auto report = input.bytes(sizeof(warm::Report));
            out.append(reinterpret_cast<const char*>(report.data()), report.size());
            break;
        }
        case FUSE_BATCH_FORGET: {
            fuse_batch_forget_in in{};
            in.count = static_cast<std::uint32_t>(input.number(4));
            put(out, in);
            for (int i = 0; i < 3; ++i) {
                const std::uint64_t node = ledger.node(input.take<std::uint8_t>());
                put(out, fuse_forget_one{node, input.number(3)});
            }
            break;
        }
        case FUSE_FORGET:
            put(out, fuse_forget_in{input.number(3)});
            break;
        case FUSE_GETXATTR: {
            put(out, fuse_getxattr_in{input.take<std::uint16_t>(), 0});
            name();
            break;
        }
        default: {  // RELEASE, FLUSH, FSYNC, GETATTR, and what is relayed: a handle and then anything
            put(out, handle());
            const auto rest = input.bytes(input.take<std::uint8_t>());
            out.append(reinterpret_cast<const char*>(rest.data()), rest.size());
            if (input.take<std::uint8_t>() % 4 != 0) out.append(48, '\0');
        }
    }
    return out;
}

// An empty volume, its store, a splitter on it, and both far ends.
class Mount {
public:
    explicit Mount(std::string answers) {
        const std::uint8_t nothing = 0;
        fuzz::Input none(&nothing, 0);
        image_.build(none);
        store::Options options;
        options.owner = "{}";
        options.buffer_bytes = 16 << 20;
        options.cache_bytes = 1 << 20;
        options.rings = 1;
        store_ = std::make_shared<pool::Pool>(std::make_shared<store::Store>(image_.path(), options));
        int pair[2];
        expect(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "a pair of sockets");
        kernel_ = pair[0];
        splitter_ = std::make_unique<splitter::Splitter>(
            store_, pair[1],
            splitter::Options{.threads = 1, .passthrough = false, .warm_bytes = std::uint64_t{8} << 20});
        peer_ = std::make_unique<Peer>(splitter_->take_socket(), std::move(answers));
        struct {
            fuse_in_header header;
            fuse_init_in init;
        } hello{};
        hello.header.len = sizeof hello;
        hello.header.opcode = FUSE_INIT;
        hello.header.unique = 2;
        hello.init.major = FUSE_KERNEL_VERSION;
        hello.init.minor = FUSE_KERNEL_MINOR_VERSION;
        hello.init.flags = ~std::uint32_t{0};
        expect(::send(kernel_, &hello, sizeof hello, 0) == sizeof hello, "INIT is sent");
        splitter_->start();
        // notifications come here, as many as there are: nobody must wait because nobody reads them
        drain_ = std::thread([this] {
            std::byte message[4096];
            while (::recv(kernel_, message, sizeof message, 0) > 0) {
            }
        });
    }
    ~Mount() {
        ::shutdown(kernel_, SHUT_RDWR);
        drain_.join();
        splitter_->close();
        peer_.reset();
        splitter_.reset();
        ::close(kernel_);
        store_->take_events();
        store_->close();
        const auto report = store::check_volume(image_.path(), true, {});
        for (const auto& problem : report.problems) std::fprintf(stderr, "fsck: %s\n", problem.detail.c_str());
        expect(report.problem_count == 0, "whatever is asked for, the volume stays clean");
    }
    splitter::Splitter& splitter() { return *splitter_; }

private:
    fuzz::Image image_;
    std::shared_ptr<pool::Pool> store_;
    int kernel_ = -1;
    std::unique_ptr<splitter::Splitter> splitter_;
    std::unique_ptr<Peer> peer_;
    std::thread drain_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 8 || size > 4096) return 0;
    static constexpr std::uint8_t kOften[] = {
        FUSE_CREATE,   FUSE_WRITE,      FUSE_READ,    FUSE_OPEN,      FUSE_LOOKUP,          FUSE_RELEASE,
        FUSE_SETATTR,  FUSE_UNLINK,     FUSE_RENAME2, FUSE_FALLOCATE, FUSE_COPY_FILE_RANGE, FUSE_LSEEK,
        FUSE_IOCTL,    FUSE_FSYNC,      FUSE_FLUSH,   FUSE_GETATTR,   FUSE_FORGET,          FUSE_BATCH_FORGET,
        FUSE_GETXATTR, FUSE_STATFS,     FUSE_RENAME,  FUSE_RMDIR,     FUSE_INTERRUPT,       FUSE_MKDIR,
        FUSE_SETXATTR, FUSE_READDIRPLUS};
    fuzz::Input input(data, size);
    const auto raw = input.bytes(7);
    Mount mount(std::string(reinterpret_cast<const char*>(raw.data()), raw.size()));
    const auto ledger = std::make_shared<Ledger>();
    for (std::uint64_t unique = 4; !input.empty(); unique += 2) {
        const auto choice = input.take<std::uint8_t>();
        fuse_in_header header{};
        header.unique = unique;
        header.opcode = choice < 0xf0 ? kOften[choice % std::size(kOften)] : input.take<std::uint32_t>();
        const auto which = input.take<std::uint8_t>();
        header.nodeid = which < 0xf0   ? (which % 2 == 0 ? 1 : ledger->node(which / 2))
                        : which < 0xf8 ? splitter::kFirstVirtual + which % 4
                                       : input.take<std::uint64_t>();
        header.uid = which % 3;
        std::string args = arguments(header.opcode, input, *ledger);
        const auto shape = input.take<std::uint8_t>();
        if (shape >= 0xf0) args.resize(args.size() * (shape - 0xf0U) / 16);  // cut off somewhere
        header.len = static_cast<std::uint32_t>(sizeof header + args.size());
        splitter::RequestHandle request(*new FuzzRequest(ledger, header, args, shape % 2 == 0));
        mount.splitter().handle(std::move(request));
        if (shape % 4 != 3) ledger->wait();  // else the next one meets this one under way
    }
    ledger->wait();
    return 0;
}
