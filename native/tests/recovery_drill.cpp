// How long a store of many segments takes to come back after a crash: recovery_drill FILES|POOL SIZE_MIB SEGMENT_MIB
// PATH. Formats PATH, fills it until nothing more fits, and ends the process that did so without closing the store;
// then opens it and prints one line of JSON. tests/t4_scale runs it.
//
//   files  of 64 KiB, each with a 64-character name
//   pool   one file, written at random in pieces of 64 KiB
//
// Pages are stamped, and a tap answers for the device when one is written: recovery never looks at data, so nothing
// but the metadata has to be there. That recovery does not read any of it is a part of what is checked.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "format/format.hpp"
#include "store/store.hpp"
#include "store/volume.hpp"
#include "tests/expect.hpp"

namespace kvfs::drill {
namespace {

using store::Attributes;
using store::Store;
using uring::block_on;
using uring::Buffer;

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kPage = 64 * 1024;
constexpr std::uint64_t kStamp = 0x6b76667364617461;

// Keeps pages from the device, and counts what is read.
class WithoutData final : public uring::Tap {
public:
    std::optional<Answer> before(const Request& request) override {
        if (request.kind == uring::OpKind::kRead) {
            ++reads_;
            read_bytes_ += request.size;
        }
        std::uint64_t word = 0;
        if (request.kind == uring::OpKind::kWrite) std::memcpy(&word, request.data, sizeof word);
        if (word != kStamp) return std::nullopt;
        return Answer{static_cast<int>(request.size), {}};
    }
    [[nodiscard]] std::uint64_t reads() const { return reads_; }
    [[nodiscard]] std::uint64_t read_bytes() const { return read_bytes_; }

private:
    std::atomic<std::uint64_t> reads_{0};
    std::atomic<std::uint64_t> read_bytes_{0};
};

[[noreturn]] void fill(const std::string& what, const std::string& path) {
    WithoutData tap;
    Store store(path, {.owner = "{}", .tap = &tap});
    const Buffer page = Buffer::heap(kPage);
    std::memset(page.data(), 0, kPage);
    for (std::uint64_t at = 0; at < kPage; at += format::kBlock) std::memcpy(page.data() + at, &kStamp, sizeof kStamp);
    const auto make = [&](const std::string& name) -> std::uint64_t {
        Attributes made{};
        if (store.make(store::kRoot, name, S_IFREG | 0644, {}, {}, true, made) != 0) return 0;
        expect(store.open(made.ino, true) == 0, "open to succeed");
        return made.ino;
    };
    // the last hundredth stays free: finding the very end is another test's
    const std::uint64_t pages = store.space().blocks_free * format::kBlock / kPage / 100 * 99;
    if (what == "files") {
        for (std::uint64_t i = 0; i < pages; ++i) {
            char name[65];
            std::snprintf(name, sizeof name, "%064llx", static_cast<unsigned long long>(i));
            const std::uint64_t ino = make(name);
            if (ino == 0) break;  // no room for the metadata of more
            expect(block_on(store.write(ino, 0, {page.data(), kPage})) == static_cast<std::int64_t>(kPage), "a write");
            expect(block_on(store.flush(ino)) == 0, "flush to succeed");
            expect(store.release(ino, true) == 0, "release to succeed");
            store.forget(ino, 1);
        }
    } else {
        const std::uint64_t ino = make("pool");
        std::vector<std::uint64_t> order(pages);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), std::mt19937_64(1));  // NOLINT(cert-msc51-cpp): the same every time
        for (const std::uint64_t each : order) {
            expect(block_on(store.write(ino, each * kPage, {page.data(), kPage})) == static_cast<std::int64_t>(kPage),
                   "a write");
        }
    }
    expect(block_on(store.sync()) == 0, "sync to succeed");
    std::_Exit(0);
}

void recover(const std::string& what, const std::string& path) {
    WithoutData tap;
    const auto begin = std::chrono::steady_clock::now();
    Store store(path, {.owner = "{}", .tap = &tap});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const auto gauges = store.gauges();
    const std::uint64_t reads = tap.reads();
    const std::uint64_t read_bytes = tap.read_bytes();
    Attributes found{};
    expect(what == "files" || store.lookup(store::kRoot, "pool", found) == 0, "the pool to be there");
    std::printf(
        "{\"segments\": %llu, \"segments_used\": %llu, \"segments_metadata\": %llu, \"files\": %llu, \"live_bytes\": "
        "%llu, \"frames\": %llu, \"reads\": %llu, \"read_bytes\": %llu, \"metadata_bytes\": %llu, "
        "\"recovery_seconds\": %.3f, \"open_seconds\": %.3f}\n",
        static_cast<unsigned long long>(gauges.segments),
        static_cast<unsigned long long>(gauges.segments - gauges.segments_free),
        static_cast<unsigned long long>(gauges.segments_metadata), static_cast<unsigned long long>(gauges.files),
        static_cast<unsigned long long>(gauges.live_blocks * format::kBlock),
        static_cast<unsigned long long>(gauges.recovered_frames), static_cast<unsigned long long>(reads),
        static_cast<unsigned long long>(read_bytes),
        static_cast<unsigned long long>(gauges.segments_metadata * store.superblock().segment_size),
        static_cast<double>(gauges.recovery_ns) / 1e9, seconds);
}

}  // namespace
}  // namespace kvfs::drill

int main(int argc, char** argv) {
    using namespace kvfs::drill;
    const std::string what = argc == 5 ? argv[1] : "";
    if (what != "files" && what != "pool") {
        std::fprintf(stderr, "usage: recovery_drill files|pool SIZE_MIB SEGMENT_MIB PATH\n");
        return 2;
    }
    const std::string path = argv[4];
    try {
        const std::uint64_t size = std::strtoull(argv[2], nullptr, 10) * kMiB;
        const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) fail(path + ": " + std::strerror(errno));
        ::close(fd);
        const std::uint64_t segment = std::strtoull(argv[3], nullptr, 10) * kMiB;
        kvfs::store::format_volume(path, {.size = size, .segment_size = segment, .label = "", .uuid = {}});
        const pid_t child = fork();  // no store is open, so there is no other thread
        if (child == 0) fill(what, path);
        int status = 0;
        expect(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
               "the process that fills the store to get through");
        recover(what, path);
    } catch (const std::exception& failure) {
        fail(failure.what());
    }
    return 0;
}
