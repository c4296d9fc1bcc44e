// The store under several threads at once, as the splitter uses it: store_drill SCENARIO PATH. Formats PATH, and ends
// with status 0, or with 1 and one line on what was expected and found. tests/t1_store/test_data_plane.py runs it.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "format/format.hpp"
#include "store/store.hpp"
#include "store/volume.hpp"
#include "tests/counting_malloc.hpp"
#include "tests/expect.hpp"

namespace kvfs::drill {
namespace {

using store::Attributes;
using store::Store;
using uring::block_on;
using uring::Buffer;

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::size_t kDataAt = kBlock;  // where a request's data lies in its buffer

template <typename A, typename B>
void expect_equal(A found, B expected, std::string_view what) {
    if (found != static_cast<A>(expected)) {
        fail(std::string(what) + ": expected " + std::to_string(expected) + ", found " + std::to_string(found));
    }
}

// Content that tells which file, which byte and which version of it this is.
void fill_pattern(std::uint64_t tag, std::uint64_t offset, std::span<std::byte> out) {
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::uint64_t word = ((offset + i) / 8 + tag * 0x9e3779b97f4a7c15ULL) * 0xd6e8feb86659fd93ULL;
        out[i] = static_cast<std::byte>((word ^ word >> 32) >> ((offset + i) % 8 * 8));
    }
}

void expect_pattern(std::uint64_t tag, std::uint64_t offset, std::span<const std::byte> found) {
    std::vector<std::byte> expected(found.size());
    fill_pattern(tag, offset, expected);
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (found[i] != expected[i]) {
            fail("byte " + std::to_string(offset + i) + " of file " + std::to_string(tag) + ": expected " +
                 std::to_string(static_cast<int>(expected[i])) + ", found " +
                 std::to_string(static_cast<int>(found[i])));
        }
    }
}

std::string format_at(const std::string& path, std::uint64_t size, std::uint64_t segment) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) fail(path + ": " + std::strerror(errno));
    ::close(fd);
    store::format_volume(path, {.size = size, .segment_size = segment, .label = "", .uuid = {}});
    return path;
}

std::uint64_t create(Store& store, const std::string& name) {
    Attributes made{};
    expect_equal(store.make(store::kRoot, name, S_IFREG | 0644, {}, {}, true, made), 0, "create " + name);
    expect_equal(store.open(made.ino, true), 0, "open " + name);
    return made.ino;
}

// As a request of the kernel: data in one of the pool's buffers.
std::int64_t write_buffer(Store& store, std::uint64_t ino, std::uint64_t tag, std::uint64_t offset, std::size_t size) {
    Buffer buffer = store.request_pool().acquire_blocking();
    fill_pattern(tag, offset, {buffer.data() + kDataAt, size});
    return block_on(store.write(ino, offset, std::move(buffer), kDataAt, size));
}

// Reads in pieces of that size, both ways, and compares.
void expect_file(Store& store, std::uint64_t ino, std::uint64_t tag, std::uint64_t from, std::uint64_t to,
                 std::size_t piece) {
    const Buffer memory = Buffer::heap(piece);
    for (std::uint64_t at = from; at < to; at += piece) {
        const std::size_t size = std::min<std::uint64_t>(piece, to - at);
        const std::int64_t got = block_on(store.read_into(ino, at, {memory.data(), piece}));
        expect_equal(got < 0 ? got : std::min<std::int64_t>(got, static_cast<std::int64_t>(size)), size, "read_into");
        expect_pattern(tag, at, {memory.data(), size});
        const Store::ReadOutcome outcome = block_on(store.read(ino, at, size));
        expect_equal(outcome.error, 0, "read");
        expect_equal(outcome.data.size, size, "bytes read");
        expect_pattern(tag, at, {outcome.data.buffer.data() + outcome.data.offset, size});
    }
}

void side_by_side(unsigned threads, const std::function<void(unsigned)>& work) {
    std::vector<std::thread> running;
    running.reserve(threads);
    for (unsigned i = 0; i < threads; ++i) running.emplace_back(work, i);
    for (auto& thread : running) thread.join();
}

// Requests of a size that the kernel sends cost no allocation once everything has its size.
void allocations(const std::string& path) {
    Store store(format_at(path, 256 * kMiB, 4 * kMiB), {.owner = "{}"});
    constexpr std::uint64_t kSize = 16 * kMiB;
    const std::uint64_t ino = create(store, "page");
    for (std::uint64_t at = 0; at < kSize; at += kMiB) {
        expect_equal(write_buffer(store, ino, ino, at, kMiB), kMiB, "write");
    }
    expect_equal(block_on(store.fsync(ino)), 0, "fsync");
    expect_equal(block_on(store.sync()), 0, "sync");
    const Buffer memory = Buffer::heap(kMiB);
    std::mt19937_64 random(1);  // NOLINT(cert-msc51-cpp): the same requests every time
    struct Kind {
        const char* name;
        std::size_t size;
        bool sequential;
        bool into;
    };
    for (const Kind& kind :
         {Kind{"4 KiB random", 4 * kKiB, false, false}, Kind{"64 KiB random", 64 * kKiB, false, false},
          Kind{"64 KiB in sequence", 64 * kKiB, true, false}, Kind{"128 KiB unaligned", 128 * kKiB - 512, false, false},
          Kind{"1 MiB in sequence", kMiB, true, false}, Kind{"1 MiB into memory", kMiB, true, true},
          Kind{"64 KiB into memory", 64 * kKiB, false, true}}) {
        const auto pass = [&](std::size_t count) {
            for (std::size_t i = 0; i < count; ++i) {
                const std::uint64_t slots = kSize / kind.size;
                const std::uint64_t at = (kind.sequential ? i % slots : random() % slots) * kind.size;
                if (kind.into) {
                    expect_equal(block_on(store.read_into(ino, at, {memory.data(), kind.size})), kind.size, kind.name);
                } else {
                    expect_equal(block_on(store.read(ino, at, kind.size)).data.size, kind.size, kind.name);
                }
            }
        };
        pass(300);
        start_counting();
        pass(1000);
        const Allocations seen = stop_counting();
        expect_equal(seen.count, 0U, std::string("allocations in 1000 reads, ") + kind.name);
    }
    // what grows is the map of extents and the note of what changed, never by buffers
    const std::uint64_t growing = create(store, "growing");
    constexpr std::uint64_t kWrites = 64;
    const auto grow = [&](std::uint64_t from) {
        for (std::uint64_t i = from; i < from + kWrites; ++i) {
            expect_equal(write_buffer(store, growing, growing, i * kMiB, kMiB), kMiB, "write");
        }
    };
    grow(0);
    expect_equal(block_on(store.fsync(growing)), 0, "fsync");
    start_counting();
    grow(kWrites);
    const Allocations seen = stop_counting();
    expect(seen.count <= 8 * kWrites, "at most 8 small allocations per write of 1 MiB, for the map; found " +
                                          std::to_string(seen.count) + " for " + std::to_string(kWrites));
    expect(seen.largest < 32 * kKiB, "no allocation of a buffer's size, found " + std::to_string(seen.largest));
    expect_equal(block_on(store.flush(growing)), 0, "flush");
    expect_file(store, growing, growing, 0, 2 * kWrites * kMiB, kMiB);
}

// 16 writers of their own files and 8 of disjoint pieces of one, in every shape of write, while others read.
void writers(const std::string& path) {
    format_at(path, 512 * kMiB, 4 * kMiB);
    constexpr unsigned kThreads = 16;
    constexpr std::uint64_t kSize = 6 * kMiB;
    std::map<std::string, std::uint64_t> tags;
    {
        Store store(path, {.owner = "{}", .buffer_bytes = 16 * kMiB});
        std::vector<std::uint64_t> inos;
        inos.reserve(kThreads);
        for (unsigned i = 0; i < kThreads; ++i) inos.push_back(create(store, "own" + std::to_string(i)));
        const std::uint64_t shared = create(store, "shared");
        expect_equal(block_on(store.truncate(shared, 8 * kMiB)), 0, "truncate");
        for (unsigned i = 0; i < kThreads; ++i) tags["own" + std::to_string(i)] = inos[i];
        tags["shared"] = shared;
        side_by_side(kThreads + 8 + 2, [&](unsigned me) {
            std::mt19937_64 random(me);  // NOLINT(cert-msc51-cpp): the same requests every time
            if (me >= kThreads + 8) {    // readers of what is being written: an answer is zeros or the pattern
                const Buffer memory = Buffer::heap(64 * kKiB);
                std::vector<std::byte> expected(64 * kKiB);
                for (int i = 0; i < 400; ++i) {
                    const std::uint64_t at = random() % 128 * 64 * kKiB;
                    const std::int64_t got = block_on(store.read_into(shared, at, {memory.data(), 64 * kKiB}));
                    expect_equal(got, 64 * kKiB, "read of the shared file");
                    fill_pattern(shared, at, expected);
                    for (std::size_t b = 0; b < expected.size(); ++b) {
                        const std::byte found = memory.data()[b];
                        expect(found == expected[b] || found == std::byte{0}, "the written byte or zero");
                    }
                }
                return;
            }
            if (me >= kThreads) {
                const std::uint64_t begin = (me - kThreads) * kMiB;
                for (int round = 0; round < 6; ++round) {
                    if (random() % 2 == 0) {
                        expect_equal(write_buffer(store, shared, shared, begin, kMiB), kMiB, "write");
                    } else {
                        std::vector<std::byte> data(100 * kKiB + 77);
                        const std::uint64_t at = begin + random() % (kMiB - data.size());
                        fill_pattern(shared, at, data);
                        expect_equal(block_on(store.write(shared, at, data)), data.size(), "write");
                    }
                    if (random() % 3 == 0) expect_equal(block_on(store.flush(shared)), 0, "flush");
                }
                expect_equal(write_buffer(store, shared, shared, begin, kMiB), kMiB, "write");
                return;
            }
            const std::uint64_t ino = inos[me];
            for (std::uint64_t at = 0; at < kSize;) {
                const std::uint64_t left = kSize - at;
                if (random() % 2 == 0 && at % kBlock == 0) {
                    const std::size_t size =
                        std::min<std::uint64_t>(left, 256 * kKiB + random() % 3 * 256 * kKiB + random() % 2 * 1000);
                    expect_equal(write_buffer(store, ino, ino, at, size), size, "write");
                    at += size;
                } else {
                    std::vector<std::byte> data(std::min<std::uint64_t>(left, 1 + random() % (300 * kKiB)));
                    fill_pattern(ino, at, data);
                    expect_equal(block_on(store.write(ino, at, data)), data.size(), "write");
                    at += data.size();
                }
                if (random() % 4 == 0) {
                    const std::uint64_t from = random() % at / kBlock * kBlock;
                    expect_file(store, ino, ino, from, at, 64 * kKiB);
                }
                if (random() % 8 == 0) expect_equal(block_on(store.flush(ino)), 0, "flush");
            }
            expect_equal(block_on(store.fsync(ino)), 0, "fsync");
            expect_equal(store.release(ino, true), 0, "release");
        });
        expect_equal(block_on(store.fsync(shared)), 0, "fsync");
        expect_file(store, shared, shared, 0, 8 * kMiB, kMiB);
        expect_equal(store.release(shared, true), 0, "release");
        expect_equal(store.counters().checksum_errors.load(), 0U, "checksum errors");
        expect_equal(store.counters().write_errors.load(), 0U, "write errors");
    }
    Store again(path, {.owner = "{}"});
    for (const auto& [name, tag] : tags) {
        Attributes found{};
        expect_equal(again.lookup(store::kRoot, name, found), 0, "lookup of " + name);
        expect_equal(found.size, name == "shared" ? 8 * kMiB : kSize, "size of " + name);
        expect_file(again, found.ino, tag, 0, found.size, 256 * kKiB);
        if (name == "own0") {
            // an uninterrupted run of writes ends up in few extents, whoever else was writing
            expect(found.blocks == kSize / 512, "no more blocks than bytes");
        }
    }
}

// With as few buffers as there can be, everybody still comes to an end: idle tails give theirs up.
void exhaustion(const std::string& path) {
    Store store(format_at(path, 256 * kMiB, kMiB), {.owner = "{}", .buffer_bytes = 1});
    std::vector<std::uint64_t> inos;
    inos.reserve(40);
    for (unsigned i = 0; i < 40; ++i) inos.push_back(create(store, std::to_string(i)));
    side_by_side(16, [&](unsigned me) {
        for (unsigned round = 0; round < 40; ++round) {
            // most of them leave a tail behind, so that there are far more idle tails than buffers
            const std::uint64_t ino = inos[(me * 7 + round) % inos.size()];
            std::vector<std::byte> data(5000);
            fill_pattern(ino, 0, data);
            expect_equal(block_on(store.write(ino, 0, data)), data.size(), "write");
            if (round % 4 == 0) expect_equal(write_buffer(store, ino, ino, 0, kMiB), kMiB, "write");
            if (round % 8 == 0) expect_file(store, ino, ino, 0, 4096, 4096);
        }
    });
    expect_equal(block_on(store.sync()), 0, "sync");
    const auto gauges = store.gauges();
    expect_equal(gauges.buffers_idle, gauges.buffers, "idle buffers at rest");
    for (const std::uint64_t ino : inos) expect_file(store, ino, ino, 0, 5000, 8192);
}

// A reader in sequence finds what comes next in memory and nothing is read twice; a random one costs what it asks for.
void read_ahead(const std::string& path) {
    Store store(format_at(path, 256 * kMiB, 4 * kMiB), {.owner = "{}"});
    constexpr std::uint64_t kSize = 8 * kMiB;
    const auto make = [&](const std::string& name) {
        const std::uint64_t ino = create(store, name);
        for (std::uint64_t at = 0; at < kSize; at += kMiB) write_buffer(store, ino, ino, at, kMiB);
        expect_equal(block_on(store.fsync(ino)), 0, "fsync");
        return ino;
    };
    for (const std::size_t piece : {64 * kKiB, 256 * kKiB, kMiB}) {
        const std::uint64_t ino = make("sequence" + std::to_string(piece));
        const std::uint64_t device = store.rings().statistics().read_bytes;
        const std::uint64_t ahead = store.counters().read_ahead;
        const Buffer memory = Buffer::heap(piece);
        for (std::uint64_t at = 0; at < kSize; at += piece) {
            expect_equal(block_on(store.read_into(ino, at, {memory.data(), piece})), piece, "read");
            expect_pattern(ino, at, {memory.data(), piece});
        }
        expect(store.counters().read_ahead - ahead >= kSize / (256 * kKiB) / 2,
               "most granules read ahead in pieces of " + std::to_string(piece));
        expect_equal(store.rings().statistics().read_bytes - device, kSize, "bytes from the device");
    }
    const std::uint64_t ino = make("random");
    const std::uint64_t ahead = store.counters().read_ahead;
    std::mt19937_64 random(1);  // NOLINT(cert-msc51-cpp): the same requests every time
    const Buffer memory = Buffer::heap(64 * kKiB);
    for (int i = 0; i < 300; ++i) {
        const std::uint64_t at = (1 + random() % (kSize / (64 * kKiB) - 1)) * 64 * kKiB;
        expect_equal(block_on(store.read_into(ino, at, {memory.data(), 64 * kKiB})), 64 * kKiB, "read");
    }
    expect_equal(store.counters().read_ahead - ahead, 0U, "granules read ahead of a random reader");
    // all pieces of one large request at once, as the kernel sends them
    const std::uint64_t large = make("large");
    side_by_side(8, [&](unsigned me) { expect_file(store, large, large, me * kMiB, (me + 1) * kMiB, kMiB); });
}

// Prefetch stands back and still arrives; the hook tells of every inode number that is let go.
void prefetch(const std::string& path) {
    Store store(format_at(path, 256 * kMiB, 4 * kMiB), {.owner = "{}"});
    std::mutex mutex;
    std::multiset<std::uint64_t> gone;
    store.set_inode_hook([&](std::uint64_t ino) {
        const std::lock_guard guard(mutex);
        gone.insert(ino);
    });
    constexpr std::uint64_t kSize = 32 * kMiB;
    const std::uint64_t ino = create(store, "page");
    for (std::uint64_t at = 0; at < kSize; at += kMiB) write_buffer(store, ino, ino, at, kMiB);
    expect_equal(block_on(store.fsync(ino)), 0, "fsync");
    const Buffer memory = Buffer::heap(kSize);
    std::atomic<std::uint64_t> arrived{0};
    for (std::uint64_t at = 0; at < kSize; at += 128 * kKiB) {
        uring::detach(store.read_into(ino, at, {memory.data() + at, 128 * kKiB}, uring::Priority::kPrefetch),
                      [&](std::int64_t got) {
                          expect_equal(got, 128 * kKiB, "prefetch");
                          arrived.fetch_add(1);
                          arrived.notify_all();
                      });
    }
    side_by_side(4, [&](unsigned me) { expect_file(store, ino, ino, me * 8 * kMiB, (me + 1) * 8 * kMiB, 256 * kKiB); });
    for (auto seen = arrived.load(); seen != kSize / (128 * kKiB); seen = arrived.load()) arrived.wait(seen);
    expect_pattern(ino, 0, {memory.data(), kSize});
    expect_equal(store.release(ino, true), 0, "release");
    std::uint64_t unlinked = 0;
    expect_equal(store.unlink(store::kRoot, "page", unlinked), 0, "unlink");
    expect_equal(gone.size(), 0U, "inodes let go of while the kernel holds one");
    store.forget(ino, 1);
    expect_equal(gone.count(ino), 1U, "calls of the hook for the inode");
    store.set_inode_hook({});
}

// One file, every way to change it, against an array of bytes.
void model(const std::string& path) {
    constexpr std::size_t kMost = 4 * kMiB;
    format_at(path, 64 * kMiB, kMiB);
    std::mt19937_64 random(7);  // NOLINT(cert-msc51-cpp): the same calls every time
    std::vector<std::byte> bytes;
    const Buffer memory = Buffer::heap(kMost);
    for (int mount = 0; mount < 4; ++mount) {
        Store store(path, {.owner = "{}"});
        Attributes found{};
        std::uint64_t ino = 0;
        if (mount == 0) {
            ino = create(store, "file");
        } else {
            expect_equal(store.lookup(store::kRoot, "file", found), 0, "lookup");
            ino = found.ino;
            expect_equal(store.open(ino, true), 0, "open");
        }
        for (int i = 0; i < 300; ++i) {
            const std::uint64_t tag = random();
            const unsigned what = random() % 10;
            if (what < 4) {
                const std::uint64_t at = random() % (kMost / kBlock - 256) * kBlock;
                const std::size_t size = std::min<std::uint64_t>(
                    random() % 2 == 0 ? 256 * kKiB + random() % (kMiB - 256 * kKiB) : kMiB, kMost - at);
                expect_equal(write_buffer(store, ino, tag, at, size), size, "write from a buffer");
                bytes.resize(std::max(bytes.size(), at + size));
                fill_pattern(tag, at, std::span(bytes).subspan(at, size));
            } else if (what < 7) {
                std::vector<std::byte> data(1 + random() % (200 * kKiB));
                const std::uint64_t at = random() % (kMost - data.size());
                fill_pattern(tag, at, data);
                expect_equal(block_on(store.write(ino, at, data)), data.size(), "write");
                bytes.resize(std::max(bytes.size(), at + data.size()));
                std::copy(data.begin(), data.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
            } else if (what == 7) {
                const std::size_t size = random() % kMost;
                expect_equal(block_on(store.truncate(ino, size)), 0, "truncate");
                bytes.resize(size);
            } else if (what == 8) {
                const std::uint64_t at = random() % kMost;
                const std::uint64_t length = 1 + random() % kMiB;
                expect_equal(block_on(store.fallocate(ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length)), 0,
                             "punch");
                for (std::uint64_t b = at; b < std::min<std::uint64_t>(at + length, bytes.size()); ++b) {
                    bytes[b] = std::byte{0};
                }
            } else {
                expect_equal(block_on(random() % 4 == 0 ? store.fsync(ino) : store.flush(ino)), 0, "flush");
            }
            const std::uint64_t from = random() % (kMost / kBlock) * kBlock;
            const std::size_t size = (1 + random() % 256) * kBlock;
            const std::int64_t got = block_on(store.read_into(ino, from, {memory.data(), size}));
            const std::size_t there = from < bytes.size() ? std::min(bytes.size() - from, size) : 0;
            expect_equal(got, there, "bytes up to the end");
            expect(std::equal(memory.data(), memory.data() + there,
                              bytes.begin() + static_cast<std::ptrdiff_t>(std::min(from, bytes.size()))),
                   "what was written last");
            expect(
                std::all_of(memory.data() + there, memory.data() + size, [](std::byte b) { return b == std::byte{0}; }),
                "zeros behind the end");
        }
        expect_equal(block_on(store.flush(ino)), 0, "flush");
        expect_equal(store.release(ino, true), 0, "release");
    }
}

constexpr std::uint64_t kPages = 4;

std::uint64_t version_tag(std::uint64_t page, std::uint64_t version) { return version * kPages + page; }

std::size_t version_size(std::uint64_t version) { return 2 * kMiB - version % 3 * 1000; }

// Writes new versions of a few pages, from number `first` on, until it is killed, and says which of them are durable.
[[noreturn]] void write_versions(const std::string& path, std::uint64_t first, int out) {
    Store store(path, {.owner = "{}"});
    std::vector<std::uint64_t> inos;
    for (std::uint64_t page = 0; page < kPages; ++page) {
        Attributes found{};
        const std::string name = std::to_string(page);
        if (store.lookup(store::kRoot, name, found) != 0) {
            inos.push_back(create(store, name));
        } else {
            inos.push_back(found.ino);
            expect_equal(store.open(found.ino, true), 0, "open");
        }
    }
    side_by_side(kPages, [&](unsigned page) {
        for (std::uint64_t version = first;; ++version) {
            const std::size_t size = version_size(version);
            for (std::uint64_t at = 0; at < size; at += kMiB) {
                const std::size_t n = std::min<std::uint64_t>(kMiB, size - at);
                expect_equal(write_buffer(store, inos[page], version_tag(page, version), at, n), n, "write");
            }
            expect_equal(block_on(store.truncate(inos[page], size)), 0, "truncate");
            expect_equal(block_on(store.fsync(inos[page])), 0, "fsync");
            const std::array<std::uint64_t, 2> line{page, version};
            if (::write(out, line.data(), sizeof line) != sizeof line) fail("a report cannot be written");
        }
    });
    std::_Exit(0);
}

// Killed at any moment, every page is one whole version: the last that was durable, or a later one.
void crash(const std::string& path) {
    format_at(path, 64 * kMiB, kMiB);
    std::mt19937_64 random(3);  // NOLINT(cert-msc51-cpp): as many versions every time
    for (int life = 0; life < 8; ++life) {
        std::array<int, 2> reports{};
        if (pipe(reports.data()) != 0) fail("no pipe");
        const pid_t child = fork();  // no store is open, so there is no other thread
        if (child == 0) write_versions(path, static_cast<std::uint64_t>(life) * 1'000'000, reports[1]);
        ::close(reports[1]);
        std::map<std::uint64_t, std::uint64_t> durable;
        std::array<std::uint64_t, 2> line{};
        const auto take = [&] {
            if (::read(reports[0], line.data(), sizeof line) != sizeof line) return false;
            durable[line[0]] = line[1];
            return true;
        };
        for (std::uint64_t left = 1 + random() % 40; left > 0 && take(); --left) {
        }
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        expect(WIFSIGNALED(status), "a writer that only a signal ends");
        while (take()) {
        }
        ::close(reports[0]);
        Store store(path, {.owner = "{}"});
        for (const auto& [page, version] : durable) {
            Attributes found{};
            expect_equal(store.lookup(store::kRoot, std::to_string(page), found), 0, "lookup of a durable page");
            std::array<std::byte, kBlock> first{};
            std::uint64_t is = version;
            const Store::ReadOutcome head = block_on(store.read(found.ino, 0, kBlock));
            expect_equal(head.error, 0, "read");
            for (; is <= version + 1; ++is) {
                fill_pattern(version_tag(page, is), 0, first);
                if (std::equal(first.begin(), first.end(), head.data.buffer.data())) break;
            }
            expect(is <= version + 1, "the durable version or the next one");
            expect_equal(found.size, version_size(is), "size of that version");
            expect_file(store, found.ino, version_tag(page, is), 0, found.size, 256 * kKiB);
        }
        expect_equal(store.counters().checksum_errors.load(), 0U, "checksum errors");
    }
}

}  // namespace
}  // namespace kvfs::drill

int main(int argc, char** argv) {
    using namespace kvfs::drill;
    const std::map<std::string, void (*)(const std::string&)> scenarios{
        {"allocations", allocations}, {"crash", crash},           {"exhaustion", exhaustion}, {"model", model},
        {"prefetch", prefetch},       {"read-ahead", read_ahead}, {"writers", writers}};
    const auto chosen = argc == 3 ? scenarios.find(argv[1]) : scenarios.end();
    if (chosen == scenarios.end()) {
        std::fprintf(stderr, "usage: store_drill SCENARIO PATH, where SCENARIO is one of:");
        for (const auto& [name, run] : scenarios) std::fprintf(stderr, " %s", name.c_str());
        std::fprintf(stderr, "\n");
        return 2;
    }
    try {
        chosen->second(argv[2]);
    } catch (const std::exception& failure) {
        std::fprintf(stderr, "store_drill: %s\n", failure.what());
        return 1;
    }
    return 0;
}
