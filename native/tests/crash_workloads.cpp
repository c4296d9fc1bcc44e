#include "tests/crash_workloads.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "store/volume.hpp"
#include "tests/crash_evictions.hpp"

namespace kvfs::crash {
namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;

std::string numbered(const char* word, std::uint64_t number) { return word + std::to_string(number); }

// As engines offload: a temporary name, one write or several, perhaps fsync, rename; over the page that is there.
void replace_page(Client& client, const std::string& page, std::size_t size, bool durable) {
    client.put("tmp", size, client.random() % 2 == 0);
    if (durable) client.fsync("tmp");
    client.rename("tmp", page);
    if (durable && client.random() % 2 == 0) client.fsync_directory();
}

void nothing(Client& /*client*/, unsigned /*number*/) {}

void run_pages(Client& client, unsigned /*number*/) {
    constexpr std::array<std::size_t, 6> kSizes{4 * kKiB,   57'344 + 28,    100'000,
                                                256 * kKiB, 400 * kKiB + 5, kMiB + 4096};
    for (int i = 0; i < 40; ++i) {
        const std::string page = numbered("page", client.random() % 5);
        replace_page(client, page, kSizes[client.random() % kSizes.size()], client.random() % 2 == 0);
        if (client.random() % 8 == 0) client.unlink(page);
    }
}

void prepare_pool(Client& client, unsigned number) {
    client.open_pool("pool");
    client.write_pool(0, 768 * kKiB);
    // the second one's map is long enough to be logged by its changes
    for (std::size_t at = 0; number == 1 && at < 768 * kKiB; at += 8 * kKiB) client.write_pool(at, 4 * kKiB);
    client.close_pool();
}

void run_pool(Client& client, unsigned /*number*/) {
    constexpr std::array<std::size_t, 5> kSizes{100, 4 * kKiB, 20'000, 64 * kKiB, 300 * kKiB};
    client.open_pool("pool");
    for (int i = 0; i < 200; ++i) {
        const std::size_t at = client.random() % 150 * kBlock;
        const std::size_t size = kSizes[client.random() % kSizes.size()];
        switch (client.random() % 12) {
            case 0:
                client.punch_pool(at, size);
                break;
            case 1:
                client.truncate_pool(500 * kKiB + client.random() % (300 * kKiB));
                break;
            case 2:
            case 3:
            case 4:
                client.flush_pool(client.random() % 2 == 0);
                break;
            default:
                client.write_pool(at + (client.random() % 3 == 0 ? client.random() % kBlock : 0), size);
        }
    }
    client.close_pool();
}

void run_names(Client& client, unsigned /*number*/) {
    for (int i = 0; i < 150; ++i) {
        const std::string one = numbered("name", client.random() % 6);
        const std::string other = numbered("name", client.random() % 6);
        if (!client.has(one)) {
            client.put(one, 1 + client.random() % (12 * kKiB), false);
        } else if (one != other && client.has(other)) {
            client.random() % 2 == 0 ? client.rename(one, other) : client.exchange(one, other);
        } else if (one != other) {
            client.random() % 2 == 0 ? client.rename(one, other) : client.link(one, other);
            if (client.random() % 3 == 0) client.unlink(other);
        } else {
            client.unlink(one);
        }
        if (client.random() % 5 == 0) client.fsync_directory();
    }
}

void churn(Client& client, int files) {
    for (int i = 0; i < files; ++i) {
        const std::string file = numbered("file", client.random() % 3);
        if (client.has(file)) client.unlink(file);
        client.put(file, 400 * kKiB + client.random() % (700 * kKiB), true);
        if (client.random() % 3 == 0) client.fsync_directory();
    }
}

// Large files come and go, so that every segment is used again and again, also after it was trimmed, which the cleaner
// does when it finds nothing else to do.
void run_reuse(Client& client, unsigned /*number*/) {
    churn(client, 30);
    for (const char* const file : {"file0", "file1", "file2"}) {
        if (client.has(file)) client.unlink(file);
    }
    client.fsync_directory();
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (client.counters().trimmed_segments == 0 && std::chrono::steady_clock::now() < patience) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    churn(client, 15);
}

constexpr unsigned kCleaningPages = 36;  // of at most 192 KiB and two clients: most of what fits

void prepare_cleaning(Client& client, unsigned /*number*/) {
    for (unsigned i = 0; i < kCleaningPages; ++i) client.put(numbered("page", i), 128 * kKiB, true);
}

void run_cleaning(Client& client, unsigned /*number*/) {
    for (int i = 0; i < 130; ++i) {
        const std::string page = numbered("page", client.random() % kCleaningPages);
        replace_page(client, page, 96 * kKiB + client.random() % (64 * kKiB), client.random() % 4 == 0);
    }
}

// A store that is full all the time: every page that comes costs others theirs. Some that are durable are pinned or
// held open meanwhile. It begins with less than the evictor wants to be free, so that nothing goes before it is
// watched.
constexpr unsigned kEvictionPages = 30;

void prepare_eviction(Client& client, unsigned /*number*/) {
    for (unsigned i = 0; i < kEvictionPages; ++i) client.put(numbered("page", i), 128 * kKiB, true);
}

void run_eviction(Client& client, unsigned /*number*/) {
    constexpr std::array<std::size_t, 5> kSizes{57'344 + 28, 128 * kKiB, 256 * kKiB, 400 * kKiB + 5, 700 * kKiB};
    for (int i = 0; i < 70; ++i) {
        const std::string page = numbered("page", client.random() % (2 * kEvictionPages));
        if (!client.holds(page)) {
            const bool durable = client.random() % 3 == 0;
            replace_page(client, page, kSizes[client.random() % kSizes.size()], durable);
            if (durable && client.random() % 2 == 0)
                client.random() % 2 == 0 ? client.pin(page) : client.hold_open(page);
        }
        if (i % 12 == 11) client.let_go();
    }
    client.let_go();
}

std::uint64_t evicted_files(store::Store& store) {
    const auto files = store.eviction_statistics().files;
    return std::accumulate(files.begin(), files.end(), std::uint64_t{0});
}

// Names enough for a checkpoint of several frames, which takes the state of things one piece after the other while the
// clients go on. Inode numbers are handed out from low to high and used again from the one freed last, so files that
// replace each other have theirs on both sides of those that are only there, and in different pieces.
constexpr unsigned kStatic = 5200;
constexpr unsigned kPages = 20;

void prepare_checkpoint(Client& client, unsigned number) {
    if (number == 1) return client.put_empty(std::string(80, 'n'), kStatic);
    for (unsigned i = 0; i < 40 && number == 0; ++i) client.put(numbered("early", i), 100, false);
    for (unsigned i = 0; i < kPages; ++i) client.put(numbered("page", i), 3 * kKiB, false);
}

void run_checkpoint(Client& client, unsigned number) {
    if (number == 1) return;
    for (unsigned i = 0; i < 40 && number == 0; ++i) client.unlink(numbered("early", i));
    // one of them fills the log, one does not wait for anything
    const unsigned durable = number == 3 ? 90 : number == 0 ? 10 : 0;
    for (int i = 0; i < (number == 3 ? 300 : 700); ++i) {
        const std::string page = numbered("page", client.random() % kPages);
        replace_page(client, page, 1 + client.random() % (8 * kKiB), client.random() % 100 < durable);
    }
}

// Crash after crash on a store that is nearly full: each life takes a segment for its log, and none comes to its end.
void prepare_recovery(Client& client, unsigned /*number*/) {
    for (unsigned i = 0; i < 13; ++i) client.put(numbered("cold", i), 256 * kKiB, true);
}

void run_recovery(Client& client, unsigned /*number*/) {
    for (int i = 0; i < 6; ++i) {
        const std::string page = numbered("page", client.random() % 5);
        if (client.has("tmp")) client.unlink("tmp");
        replace_page(client, page, 1 + client.random() % (200 * kKiB), client.random() % 2 == 0);
    }
}

constexpr std::array<Workload, 8> kWorkloads{{
    {"pages", 24 * kMiB, 1, 3, nothing, run_pages, "renames",
     [](store::Store& store) { return store.counters().renames.load(); }},
    {"pool", 24 * kMiB, 1, 2, prepare_pool, run_pool, "flushes",
     [](store::Store& store) { return store.counters().flushes.load(); }},
    {"names", 16 * kMiB, 1, 3, nothing, run_names, "renames",
     [](store::Store& store) { return store.counters().renames.load(); }},
    {"reuse", 20 * kMiB, 1, 2, nothing, run_reuse, "trimmed segments",
     [](store::Store& store) { return store.counters().trimmed_segments.load(); }},
    {"cleaning", 24 * kMiB, 1, 2, prepare_cleaning, run_cleaning, "blocks moved, or segments written to again",
     [](store::Store& store) {
         return store.counters().moved_blocks.load() + store.counters().recycled_segments.load();
     }},
    {"eviction", 20 * kMiB, 1, 2, prepare_eviction, run_eviction, "evicted files", evicted_files, true},
    {"checkpoint", 32 * kMiB, 2, 4, prepare_checkpoint, run_checkpoint, "checkpoints",
     [](store::Store& store) { return store.counters().checkpoints.load(); }},
    {"recovery", 24 * kMiB, 1, 3, prepare_recovery, run_recovery, "renames",
     [](store::Store& store) { return store.counters().renames.load(); }},
}};

void make_device(const std::string& path, std::uint64_t size) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const bool done = fd >= 0 && ftruncate(fd, static_cast<off_t>(size)) == 0;
    if (fd >= 0) ::close(fd);
    if (!done) throw std::runtime_error(path + ": " + std::strerror(errno));
}

std::uint64_t live(const Workload& workload, MemoryDevice& device, const std::string& path,
                   std::vector<std::unique_ptr<Client>>& clients) {
    store::Options options = small_store(device);
    options.rings = 2;
    options.evict = workload.evicts;
    Evictions evictions(device);
    store::Store store(path, options);
    if (workload.evicts) evictions.watch(store);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < clients.size(); ++i) {
        clients[i]->attach(store, workload.evicts ? &evictions : nullptr);
        threads.emplace_back([&, i] { workload.run(*clients[i], i); });
    }
    for (auto& thread : threads) thread.join();
    store.close();
    for (auto& client : clients) client->promise();
    return workload.covered(store);
}

Recording run(const Workload& workload, std::vector<std::byte> base, std::vector<std::unique_ptr<Client>>& clients,
              MemoryDevice& device, const std::string& path, std::uint64_t seed) {
    Recording out;
    out.trace.base = std::move(base);
    out.evicts = workload.evicts ? 1 : 0;
    device.record(&out.trace, seed);
    out.covered = live(workload, device, path, clients);
    device.record(nullptr, 0);
    for (const auto& client : clients) out.histories.push_back(client->history());
    return out;
}

}  // namespace

std::span<const Workload> workloads() { return kWorkloads; }

Recording record(const Workload& workload, const std::string& path, std::uint64_t seed) {
    make_device(path, workload.size);
    std::vector<std::byte> image(workload.size);
    MemoryDevice device(image);
    store::format_volume(path, {.size = workload.size, .segment_size = kMiB, .label = "", .uuid = {}, .tap = &device});
    std::vector<std::unique_ptr<Client>> clients;
    {
        store::Store store(path, small_store(device));
        for (unsigned i = 0; i < workload.clients; ++i) {
            clients.push_back(std::make_unique<Client>(device, numbered("client", i), seed * 1000 + i));
            clients.back()->attach(store, nullptr);
            workload.prepare(*clients.back(), i);
            clients.back()->promise();
        }
    }
    device.keep();
    return run(workload, image, clients, device, path, seed);
}

Recording record_after(const Recording& before, const State& state, const std::vector<std::size_t>& found,
                       const std::string& path, std::uint64_t seed) {
    const Workload& workload = kWorkloads.back();
    make_device(path, before.trace.base.size());
    Images images(before.trace);
    MemoryDevice& device = images.at(state);
    device.keep();
    std::vector<std::byte> base(before.trace.base.size());
    device.read(0, base);
    std::vector<std::unique_ptr<Client>> clients;
    for (unsigned i = 0; i < found.size(); ++i) {
        clients.push_back(std::make_unique<Client>(device, before.histories[i].directory, seed * 1000 + i));
        clients.back()->begin_with(before.histories[i].states[found[i]].contents);
    }
    return run(workload, std::move(base), clients, device, path, seed);
}

}  // namespace kvfs::crash
