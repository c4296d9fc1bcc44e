// Owns a FUSE connection: answers from the native store what native code can answer, relays the rest to pyfuse3.
//
// Native: READ, WRITE, OPEN, CREATE, RELEASE, FLUSH, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE, IOCTL, LOOKUP, FORGET,
// GETATTR, SETATTR, UNLINK, RMDIR, RENAME, STATFS, and GETXATTR of names that kvfs does not keep. Python: the rest, and
// all of .kvfs/.
// Both halves work on the same pool, whose calls are atomic by themselves; kernel references (lookups, open counts)
// are counted there, so it does not matter who answered the LOOKUP that a FORGET takes back. Open files are native,
// open directories and .kvfs/ handles are Python's.
//
// Threads: the loop's workers parse and answer; what waits for the device is a coroutine that ends, and answers, on
// a ring's thread. No lock of the splitter is held across a call into the store.
//
// What the kernel orders for us: it sends RELEASE after the last request that names a handle, holds a directory's
// lock during changes of its names, and an inode's during truncation and cached writes.
//
// How it ends. Unmounted: every worker finds ENODEV, ended_fd() turns readable, Python's loop is told. SIGTERM: Python
// calls stop(true): workers end, requests in hand are answered (Python still answers its share meanwhile), then Python
// detaches the mount. A worker that fails says so in the log and ends all the same way: a mount with one thread less is
// a mount that hangs for somebody.
#pragma once

#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "pool/pool.hpp"
#include "splitter/handles.hpp"
#include "splitter/handshake.hpp"
#include "splitter/loop.hpp"
#include "splitter/protocol.hpp"
#include "splitter/relay.hpp"
#include "warm/tier.hpp"

namespace kvfs::splitter {

struct Options {
    unsigned threads = 0;  // 0: by cores
    LoopKind loop = LoopKind::kClones;
    bool read_only = false;
    bool passthrough = true;       // where kernel and privileges allow
    std::uint64_t warm_bytes = 0;  // 0: no warm tier
};

inline constexpr std::size_t kOpcodes = 64;  // those of the kernel are below; 52 is the highest today

struct OpCounters {
    std::array<std::atomic<std::uint64_t>, kOpcodes> native{}, relayed{}, io_errors{};
    std::atomic<std::uint64_t> unknown{0}, malformed{0}, passthrough_opens{0}, warm_reads{0};
};

class Splitter final : public RequestSink {
public:
    // `fuse_fd`: a mounted connection whose INIT has not been read, or a socket in its place; the splitter's from now
    // on.
    Splitter(std::shared_ptr<pool::Pool> store, int fuse_fd, const Options& options);
    ~Splitter() override;
    Splitter(const Splitter&) = delete;
    Splitter& operator=(const Splitter&) = delete;

    // What pyfuse3 takes for /dev/fuse; the caller's from now on.
    [[nodiscard]] int take_socket() { return relay_.take_peer(); }
    // Answers INIT (waits for it) and starts the threads. Throws std::system_error.
    void start();
    // Takes no more requests, then waits until those in hand are answered; those that Python holds only when
    // `python_answers`, else they get EIO.
    void stop(bool python_answers);
    // stop(false), and gives the connection up. The store must still be open.
    void close();
    // Readable when the connection is over.
    [[nodiscard]] int ended_fd() const { return ended_fd_; }
    // 0, or the errno (negative) that ended the connection.
    [[nodiscard]] int end_error() const { return end_error_; }

    void handle(RequestHandle request) override;
    void ended(int error) override;

    [[nodiscard]] const OpCounters& counters() const { return counters_; }
    // Null before start() and after close().
    [[nodiscard]] const RequestLoop* loop() const { return loop_.get(); }
    [[nodiscard]] std::size_t relay_waiting() const { return relay_.waiting(); }
    [[nodiscard]] std::uint64_t open_files() const { return handles_.count(); }
    [[nodiscard]] bool passthrough() const { return passthrough_; }
    [[nodiscard]] const InitOut& negotiated() const { return init_; }
    [[nodiscard]] warm::Tier* tier() const { return tier_.get(); }

private:
    // init.cpp
    // `of_loop`: flags that the request loop wants
    InitOut negotiate(const Hello& hello, std::uint64_t of_loop);

    // names.cpp
    void lookup(RequestHandle request);
    void forget(RequestHandle request);
    void unlink(RequestHandle request, bool directory);
    void rename(RequestHandle request);
    uring::Detached rename_later(RequestHandle request, std::uint64_t parent, std::string name,
                                 std::uint64_t new_parent, std::string new_name, std::uint32_t flags);
    void create(RequestHandle request);

    // attributes.cpp
    void getattr(RequestHandle request);
    void setattr(RequestHandle request);
    uring::Detached resize(RequestHandle request, fuse_setattr_in in);
    void finish_setattr(RequestHandle request, const fuse_setattr_in& in);
    void statfs(RequestHandle request);
    void getxattr(RequestHandle request);

    // files.cpp
    void open(RequestHandle request);
    uring::Detached open_later(RequestHandle request, std::uint64_t ino, std::uint32_t flags, bool created,
                               store::Attributes attributes);
    void choose_mode(Handle& handle, const warm::PagePtr& page, bool one_by_one, OpenOut& out);
    struct Writers {
        std::uint32_t all = 0;
        std::uint32_t mapping = 0;  // of these, who can write by mmap as well
    };
    Writers writers(std::uint64_t ino);
    void forget_open(const Handle& handle);
    void release(RequestHandle request);
    uring::Async<int> write_out(std::uint64_t ino, warm::PagePtr mapped, bool durable);
    void flush(RequestHandle request);
    void fsync(RequestHandle request);
    void fallocate(RequestHandle request);
    uring::Detached fallocate_later(RequestHandle request, std::uint64_t ino, fuse_fallocate_in in);
    void lseek(RequestHandle request);
    uring::Detached lseek_later(RequestHandle request, std::uint64_t ino, fuse_lseek_in in);
    void copy_file_range(RequestHandle request);
    uring::Detached copy_later(RequestHandle request, std::uint64_t from, std::uint64_t to, fuse_copy_file_range_in in);
    void ioctl(RequestHandle request);
    uring::Detached ioctl_later(RequestHandle request, std::uint64_t ino, fuse_ioctl_in in);

    // data.cpp
    void read(RequestHandle request);
    uring::Detached read_later(RequestHandle request, std::uint64_t ino, std::uint64_t offset, std::uint32_t size);
    uring::Detached read_in_place(RequestHandle request, std::uint64_t ino, std::uint64_t offset, std::uint32_t size);
    void write(RequestHandle request);
    void clear_set_id(std::uint64_t ino);
    void reply_written(RequestHandle request, std::int64_t n);
    uring::Detached write_later(RequestHandle request, uring::Buffer buffer, std::uint64_t ino, fuse_write_in in);

    uring::Async<int> keep_in_step(std::uint64_t ino, std::uint64_t offset, std::uint64_t length);

    void relay(RequestHandle request);
    void malformed(RequestHandle request);
    void fail(RequestHandle request, int error);  // counts EIO
    uring::Detached answer_status(RequestHandle request, uring::Async<int> task);
    void touch_atime(const Handle& handle) {
        if (handle.touches_atime) store_->touch_atime(handle.ino);
    }
    void forget_attributes(std::uint64_t ino);
    void report(int level, std::string text) { store_->say(level, std::move(text)); }

    std::shared_ptr<pool::Pool> store_;
    int fuse_fd_;
    Options options_;
    InitOut init_{};
    bool passthrough_ = false;
    bool allows_mmap_ = false;  // of files opened with FOPEN_DIRECT_IO
    OpCounters counters_;
    Handles handles_;
    Relay relay_;
    std::unique_ptr<warm::Tier> tier_;

    // The kernel refuses mixtures of cached and passthrough opens of an inode (see choose_mode). It keeps the same
    // counts; ours lag behind on the safe side (it lets go before RELEASE reaches us).
    struct Opens {
        std::uint32_t mappable = 0;     // open for reading and not passthrough: cached, or may become so by mmap
        std::uint32_t passthrough = 0;  // with the backing file of `page`
        Writers writers;
        warm::PagePtr page;
    };
    std::mutex opens_mutex_;
    std::unordered_map<std::uint64_t, Opens> opens_;

    int ended_fd_ = -1;
    std::atomic<int> end_error_{0};
    std::unique_ptr<RequestLoop> loop_;  // last: its threads use all of the above
};

// The kernel's picture of an inode, for LOOKUP, CREATE, GETATTR and SETATTR.
fuse_attr to_fuse(const store::Attributes& attributes);
fuse_entry_out to_entry(const store::Attributes& attributes);
std::uint64_t attributes_timeout(const store::Attributes& attributes);
// Would whoever asks make a program of a file that runs with that file's owner's rights? Only root may: the mount is
// nosuid, but the store may one day be reached by a path that is not.
bool takes_set_uid(std::uint32_t uid, std::uint32_t mode);
// The zero-terminated name at the start of `bytes`; empty (which no name is) when there is none.
std::string_view name_in(Bytes bytes);

}  // namespace kvfs::splitter
