// What cleaning costs and how long it keeps writers waiting: cleaning_drill pool|trace|crash OPTION=VALUE... PATH.
// Formats PATH, fills it, goes on writing, reads everything back, and prints one line of JSON. tests/t8_cleaning runs
// it.
//
//   pool   a file that takes `fill` per cent of what statfs calls the store's capacity, overwritten at random in whole
//          pages of `page` KiB by `threads` threads: `turns` times its size; the second half of that is measured.
//   trace  the requests of a file, one a line: the size in bytes of the last block, then the ids of its blocks. A block
//          that is not there is written as a file of `page` KiB under a temporary name and renamed; what makes room for
//          it, so that never more than `fill` per cent are taken, are the least recently used ones (`evict=lru`) or any
//          (`evict=random`). Measured from the first time that it is full.
//   crash  a pool as above whose writer is killed `rounds` times, at any moment; every page is then one whole version,
//          the last that was synced or a later one.
//
// Write amplification: all bytes sent to the device, metadata included, by the bytes that clients wrote.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <list>
#include <map>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "format/format.hpp"
#include "store/check.hpp"
#include "store/store.hpp"
#include "store/volume.hpp"
#include "tests/expect.hpp"

namespace kvfs::drill {
namespace {

using store::Attributes;
using store::Store;
using uring::block_on;
using uring::Buffer;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::uint64_t kRequest = kMiB;        // what the kernel sends at most
constexpr std::uint64_t kInPlace = 256 * kKiB;  // from here on, requests go to the device out of their own buffer

class Options {
public:
    explicit Options(std::map<std::string, std::string> given) : given_(std::move(given)) {}
    [[nodiscard]] std::uint64_t number(const std::string& name, std::uint64_t otherwise) const {
        const auto it = given_.find(name);
        return it == given_.end() ? otherwise : std::strtoull(it->second.c_str(), nullptr, 10);
    }
    [[nodiscard]] std::string text(const std::string& name, const std::string& otherwise) const {
        const auto it = given_.find(name);
        return it == given_.end() ? otherwise : it->second;
    }

private:
    std::map<std::string, std::string> given_;
};

// Every block says which page, which block of it and which version this is.
void stamp(std::byte* data, std::uint64_t size, std::uint64_t page, std::uint64_t version, std::uint64_t first_block) {
    for (std::uint64_t at = 0; at < size; at += kBlock) {
        const std::uint64_t words[3] = {page, version, first_block + at / kBlock};
        std::memcpy(data + at, words, std::min<std::uint64_t>(sizeof words, size - at));
    }
}

struct Latencies {
    std::vector<double> ms;
    void add(std::chrono::steady_clock::time_point since) {
        ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - since).count());
    }
    double at(double share) {
        if (ms.empty()) return 0;
        std::sort(ms.begin(), ms.end());
        return ms[std::min(ms.size() - 1, static_cast<std::size_t>(share * static_cast<double>(ms.size())))];
    }
};

void write_page(Store& store, std::uint64_t ino, std::uint64_t offset, std::uint64_t size, std::uint64_t page,
                std::uint64_t version, Latencies& latencies) {
    for (std::uint64_t done = 0; done < size;) {
        const std::uint64_t n = std::min(kRequest, size - done);
        Buffer buffer = store.request_pool().acquire_blocking();
        std::byte* const data = buffer.data() + kBlock;
        stamp(data, n, page, version, done / kBlock);
        const auto begin = std::chrono::steady_clock::now();
        const std::int64_t wrote = n >= kInPlace
                                       ? block_on(store.write(ino, offset + done, std::move(buffer), kBlock, n))
                                       : block_on(store.write(ino, offset + done, {data, n}));
        latencies.add(begin);
        if (wrote != static_cast<std::int64_t>(n))
            fail("a write of " + std::to_string(n) + ": " + std::to_string(wrote));
        done += n;
    }
}

void expect_page(Store& store, std::uint64_t ino, std::uint64_t offset, std::uint64_t size, std::uint64_t page,
                 std::uint64_t version) {
    const Buffer memory = Buffer::heap(format::round_up(size, kBlock));
    const std::uint64_t padded = format::round_up(size, kBlock);
    const std::int64_t got = block_on(store.read_into(ino, offset, {memory.data(), padded}));
    if (got < static_cast<std::int64_t>(size)) fail("page " + std::to_string(page) + ": read " + std::to_string(got));
    for (std::uint64_t at = 0; at + 24 <= size; at += kBlock) {
        std::uint64_t words[3];
        std::memcpy(words, memory.data() + at, sizeof words);
        if (words[0] == page && words[1] == version && words[2] == at / kBlock) continue;
        fail("page " + std::to_string(page) + " block " + std::to_string(at / kBlock) + ": expected version " +
             std::to_string(version) + ", found page " + std::to_string(words[0]) + " block " +
             std::to_string(words[2]) + " version " + std::to_string(words[1]));
    }
}

// Sees all that is written, whichever way.
class Meter final : public uring::Tap {
public:
    std::optional<Answer> before(const Request& /*request*/) override { return std::nullopt; }
    int after(const Request& request, int result) override {
        if (request.kind == uring::OpKind::kWrite && result > 0) bytes_.fetch_add(static_cast<std::uint64_t>(result));
        return result;
    }
    [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

private:
    std::atomic<std::uint64_t> bytes_{0};
};

struct Bytes {
    Bytes(const Store& store, const Meter& meter)
        : device(meter.bytes()),
          client(store.counters().write_bytes),
          moved(store.counters().moved_blocks * kBlock),
          read(store.rings().statistics().read_bytes) {}
    std::uint64_t device, client, moved, read;
};

void report(const Options& options, Store& store, const Meter& meter, const Bytes& before, std::vector<Latencies>& all,
            double seconds) {
    const Bytes after(store, meter);
    Latencies sum;
    for (const Latencies& each : all) sum.ms.insert(sum.ms.end(), each.ms.begin(), each.ms.end());
    const auto& c = store.counters();
    const auto space = store.space();
    const auto client = static_cast<double>(after.client - before.client);
    std::printf(
        "{\"fill_percent\": %.1f, \"page_kib\": %llu, \"client_bytes\": %.0f, \"device_bytes\": %llu, "
        "\"write_amplification\": %.4f, \"moved_bytes\": %llu, \"device_bytes_read\": %llu, \"surveys\": %llu, "
        "\"recycled_segments\": %llu, \"cleaned_segments\": %llu, \"cut_bytes\": %llu, \"checkpoints\": %llu, "
        "\"seconds\": %.2f, "
        "\"writes\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, \"max_ms\": %.3f}\n",
        100.0 * static_cast<double>(space.blocks - space.blocks_free) / static_cast<double>(space.blocks),
        static_cast<unsigned long long>(options.number("page", 64)), client,
        static_cast<unsigned long long>(after.device - before.device),
        static_cast<double>(after.device - before.device) / client,
        static_cast<unsigned long long>(after.moved - before.moved),
        static_cast<unsigned long long>(after.read - before.read), static_cast<unsigned long long>(c.surveys.load()),
        static_cast<unsigned long long>(c.recycled_segments.load()),
        static_cast<unsigned long long>(c.cleaned_segments.load()),
        static_cast<unsigned long long>(c.cut_blocks.load() * kBlock),
        static_cast<unsigned long long>(c.checkpoints.load()), seconds, sum.ms.size(), sum.at(0.5), sum.at(0.99),
        sum.at(0.999), sum.at(1));
}

void expect_sound(const std::string& path) {
    const auto found = store::check_volume(path, true, {});
    if (found.problem_count == 0) return;
    const auto& first = found.problems.front();
    fail("a sound volume, found " + std::to_string(found.problem_count) + " problems; first: " + first.kind + " " +
         first.where + " " + first.detail);
}

std::uint64_t create(Store& store, const std::string& name) {
    Attributes made{};
    const int rc = store.make(store::kRoot, name, S_IFREG | 0644, {}, {}, true, made);
    if (rc != 0 || store.open(made.ino, true) != 0) fail("create " + name + ": " + std::to_string(rc));
    return made.ino;
}

void pool(const Options& options, const std::string& path) {
    const std::uint64_t page = options.number("page", 64) * kKiB;
    const std::uint64_t threads = options.number("threads", 4);
    std::vector<std::uint64_t> versions;
    {
        Meter meter;
        Store store(path, {.owner = "{}", .tap = &meter});
        const auto space = store.space();
        const std::uint64_t size = space.blocks_free * kBlock / 100 * options.number("fill", 90);
        const std::uint64_t pages = size / page / threads * threads;
        versions.assign(pages, 1);
        const std::uint64_t ino = create(store, "pool");
        std::vector<Latencies> latencies(threads);
        for (std::uint64_t i = 0; i < pages; ++i) write_page(store, ino, i * page, page, i, 1, latencies[0]);
        expect(block_on(store.fsync(ino)) == 0, "fsync to succeed");
        const std::uint64_t writes = pages / threads * options.number("turns", 4) / 2;
        const auto half = [&](std::uint64_t seed) {
            for (auto& each : latencies) each.ms.clear();
            std::vector<std::thread> running;
            running.reserve(threads);
            for (std::uint64_t me = 0; me < threads; ++me) {
                running.emplace_back([&, me] {
                    std::mt19937_64 random(seed + me);  // NOLINT(cert-msc51-cpp): the same writes every time
                    for (std::uint64_t i = 0; i < writes; ++i) {
                        const std::uint64_t which = random() % (pages / threads) * threads + me;
                        write_page(store, ino, which * page, page, which, ++versions[which], latencies[me]);
                    }
                });
            }
            for (auto& thread : running) thread.join();
        };
        half(options.number("seed", 1));
        const Bytes before(store, meter);
        const auto begin = std::chrono::steady_clock::now();
        half(options.number("seed", 1) + threads);
        expect(block_on(store.fsync(ino)) == 0, "fsync to succeed");
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        report(options, store, meter, before, latencies, seconds);
        for (std::uint64_t i = 0; i < pages; ++i) expect_page(store, ino, i * page, page, i, versions[i]);
        expect(store.release(ino, true) == 0, "release to succeed");
        expect(store.counters().checksum_errors == 0, "no checksum errors");
        expect(store.counters().write_errors == 0, "no write errors");
    }
    expect_sound(path);
}

void trace(const Options& options, const std::string& path) {
    const std::uint64_t page = options.number("page", 64) * kKiB;
    const bool lru = options.text("evict", "lru") == "lru";
    struct Entry {
        std::uint64_t size = 0;
        std::list<std::uint64_t>::iterator place;
        std::size_t index = 0;
    };
    std::unordered_map<std::uint64_t, Entry> present;
    std::list<std::uint64_t> order;      // the least recently used first
    std::vector<std::uint64_t> anybody;  // for a random one
    std::ifstream requests(options.text("requests", ""));
    expect(static_cast<bool>(requests), "requests=FILE that can be read");
    std::mt19937_64 random(options.number("seed", 1));  // NOLINT(cert-msc51-cpp): the same choices every time
    const auto name = [](std::uint64_t id) {
        char text[65];
        std::snprintf(text, sizeof text, "%064llx", static_cast<unsigned long long>(id));
        return std::string(text);
    };
    {
        Meter meter;
        Store store(path, {.owner = "{}", .tap = &meter});
        const std::uint64_t allowed = store.space().blocks / 100 * options.number("fill", 90);
        std::uint64_t used = 0;
        std::vector<Latencies> latencies(1);
        std::optional<Bytes> before;
        auto begin = std::chrono::steady_clock::now();
        const auto remove = [&](std::uint64_t id) {
            std::uint64_t ino = 0;
            expect(store.unlink(store::kRoot, name(id), ino) == 0, "unlink to succeed");
            const Entry entry = present.at(id);
            used -= format::round_up(entry.size, kBlock) / kBlock;
            order.erase(entry.place);
            anybody[entry.index] = anybody.back();
            present.at(anybody.back()).index = entry.index;
            anybody.pop_back();
            present.erase(id);
        };
        std::string line;
        std::uint64_t left = options.number("most", ~std::uint64_t{0});
        while (left-- > 0 && std::getline(requests, line)) {
            std::istringstream in(line);
            std::uint64_t last = 0;
            in >> last;
            std::vector<std::uint64_t> ids;
            for (std::uint64_t id = 0; in >> id;) ids.push_back(id);
            for (const std::uint64_t id : ids) {
                if (const auto it = present.find(id); it != present.end()) {
                    order.splice(order.end(), order, it->second.place);
                    continue;
                }
                const std::uint64_t size = id == ids.back() ? std::clamp<std::uint64_t>(last, 1, page) : page;
                const std::uint64_t blocks = format::round_up(size, kBlock) / kBlock;
                while (used + blocks > allowed) {
                    if (!before) {
                        before.emplace(store, meter);
                        latencies[0].ms.clear();
                        begin = std::chrono::steady_clock::now();
                    }
                    remove(lru ? order.front() : anybody[random() % anybody.size()]);
                }
                const std::uint64_t ino = create(store, "tmp");
                write_page(store, ino, 0, size, id, 1, latencies[0]);
                expect(block_on(store.flush(ino)) == 0, "flush to succeed");
                expect(store.release(ino, true) == 0, "release to succeed");
                expect(block_on(store.rename(store::kRoot, "tmp", store::kRoot, name(id), 0)) == 0,
                       "rename to succeed");
                store.forget(ino, 1);
                used += blocks;
                present[id] = {size, order.insert(order.end(), id), anybody.size()};
                anybody.push_back(id);
            }
        }
        expect(before.has_value(), "requests that fill the store");
        expect(block_on(store.sync()) == 0, "sync to succeed");
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        report(options, store, meter, *before, latencies, seconds);
        for (const auto& [id, entry] : present) {
            Attributes found{};
            expect(store.lookup(store::kRoot, name(id), found) == 0, "a file that was not evicted to be there");
            expect(found.size == entry.size, "its size");
            expect_page(store, found.ino, 0, entry.size, id, 1);
            store.forget(found.ino, 1);
        }
        expect(store.counters().checksum_errors == 0, "no checksum errors");
        expect(store.counters().write_errors == 0, "no write errors");
    }
    expect_sound(path);
}

// Overwrites pages at random until it is killed, and says after each fsync which versions are durable.
[[noreturn]] void overwrite(const Options& options, const std::string& path, std::uint64_t pages,
                            std::vector<std::uint64_t> versions, int out) {
    const std::uint64_t page = options.number("page", 64) * kKiB;
    Store store(path, {.owner = "{}"});
    Attributes found{};
    std::uint64_t ino = 0;
    Latencies latencies;
    if (store.lookup(store::kRoot, "pool", found) == 0) {
        ino = found.ino;
        expect(store.open(ino, true) == 0, "open to succeed");
    } else {
        ino = create(store, "pool");
        for (std::uint64_t i = 0; i < pages; ++i) write_page(store, ino, i * page, page, i, 1, latencies);
    }
    std::mt19937_64 random(versions[0] + options.number("seed", 1));  // NOLINT(cert-msc51-cpp)
    std::vector<std::uint64_t> since;
    for (;;) {
        const std::uint64_t which = random() % pages;
        write_page(store, ino, which * page, page, which, ++versions[which], latencies);
        since.push_back(which);
        if (random() % 50 != 0) continue;
        expect(block_on(store.fsync(ino)) == 0, "fsync to succeed");
        for (const std::uint64_t each : since) {
            const std::uint64_t line[2] = {each, versions[each]};
            if (::write(out, line, sizeof line) != sizeof line) fail("a report cannot be written");
        }
        since.clear();
    }
}

void crash(const Options& options, const std::string& path) {
    const std::uint64_t page = options.number("page", 64) * kKiB;
    std::uint64_t pages = 0;
    {
        Store store(path, {.owner = "{}"});
        pages = store.space().blocks_free * kBlock / 100 * options.number("fill", 90) / page;
    }
    std::vector<std::uint64_t> versions(pages, 1);
    std::mt19937_64 random(options.number("seed", 1));  // NOLINT(cert-msc51-cpp): as many writes every time
    for (std::uint64_t round = 0; round < options.number("rounds", 10); ++round) {
        int reports[2];
        if (::pipe(reports) != 0) fail("no pipe");
        const pid_t child = ::fork();  // no store is open, so there is no other thread
        if (child == 0) overwrite(options, path, pages, versions, reports[1]);
        ::close(reports[1]);
        std::uint64_t line[2];
        const auto take = [&] {
            if (::read(reports[0], line, sizeof line) != sizeof line) return false;
            versions[line[0]] = std::max(versions[line[0]], line[1]);
            return true;
        };
        // in the first round, so many that all gaps have been used once
        for (std::uint64_t left = (round == 0 ? pages : 0) + random() % pages; left > 0 && take(); --left) {
        }
        ::kill(child, SIGKILL);
        int status = 0;
        ::waitpid(child, &status, 0);
        expect(WIFSIGNALED(status), "a writer that only a signal ends");
        while (take()) {
        }
        ::close(reports[0]);
        expect_sound(path);
        Store store(path, {.owner = "{}"});
        Attributes found{};
        expect(store.lookup(store::kRoot, "pool", found) == 0, "the pool to be there");
        const Buffer memory = Buffer::heap(kBlock);
        for (std::uint64_t i = 0; i < pages; ++i) {
            expect(block_on(store.read_into(found.ino, i * page, {memory.data(), kBlock})) > 0, "a page to be there");
            std::uint64_t words[3];
            std::memcpy(words, memory.data(), sizeof words);
            if (words[1] < versions[i]) {
                fail("page " + std::to_string(i) + ": expected version " + std::to_string(versions[i]) +
                     " or a later one, found " + std::to_string(words[1]));
            }
            versions[i] = words[1];
            expect_page(store, found.ino, i * page, page, i, versions[i]);
        }
        store.forget(found.ino, 1);
        expect(store.counters().checksum_errors == 0, "no checksum errors");
    }
    std::printf("{\"rounds\": %llu, \"pages\": %llu}\n", static_cast<unsigned long long>(options.number("rounds", 10)),
                static_cast<unsigned long long>(pages));
}

}  // namespace
}  // namespace kvfs::drill

int main(int argc, char** argv) {
    using namespace kvfs::drill;
    const std::string what = argc > 2 ? argv[1] : "";
    if (what != "pool" && what != "trace" && what != "crash") {
        std::fprintf(stderr, "usage: cleaning_drill pool|trace|crash [NAME=VALUE...] PATH\n");
        return 2;
    }
    std::map<std::string, std::string> given;
    for (int i = 2; i + 1 < argc; ++i) {
        const std::string each = argv[i];
        const auto equals = each.find('=');
        if (equals == std::string::npos) fail("an option NAME=VALUE, found " + each);
        given[each.substr(0, equals)] = each.substr(equals + 1);
    }
    const Options options(std::move(given));
    const std::string path = argv[argc - 1];  // NOLINT(clang-analyzer-security.ArrayBound): argc > 2
    try {
        const std::uint64_t size = options.number("size", 512) * kMiB;
        const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) fail(path + ": " + std::strerror(errno));
        ::close(fd);
        kvfs::store::format_volume(
            path, {.size = size, .segment_size = options.number("segment", 4) * kMiB, .label = "", .uuid = {}});
        (what == "pool" ? pool : what == "trace" ? trace : crash)(options, path);
    } catch (const std::exception& failure) {
        fail(failure.what());
    }
    return 0;
}
