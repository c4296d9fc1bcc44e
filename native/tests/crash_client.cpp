#include "tests/crash_client.hpp"

#include <linux/falloc.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace kvfs::crash {
namespace {

using store::Attributes;
using uring::block_on;
using uring::Buffer;

constexpr std::size_t kRequest = std::size_t{1} << 20;

// Bytes that nobody else ever wrote, so that another file's or another version's are told apart.
std::vector<std::byte> fresh_bytes(std::mt19937_64& random, std::size_t size) {
    std::vector<std::byte> out(format::round_up(size, sizeof(std::uint64_t)));
    for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
        const std::uint64_t word = random();
        std::memcpy(out.data() + at, &word, sizeof word);
    }
    out.resize(size);
    return out;
}

void write_direct(store::Store& store, std::uint64_t ino, std::uint64_t offset, std::span<const std::byte> data) {
    while (!data.empty()) {
        const std::size_t n = std::min(data.size(), kRequest);
        Buffer buffer = store.request_pool().acquire_blocking();
        std::memcpy(buffer.data() + kBlock, data.data(), n);
        expect_ok(block_on(store.write(ino, offset, std::move(buffer), kBlock, n)), static_cast<std::int64_t>(n),
                  "write");
        offset += n;
        data = data.subspan(n);
    }
}

}  // namespace

void expect_ok(std::int64_t found, std::int64_t expected, const std::string& what) {
    if (found == expected) return;
    std::fprintf(stderr, "crash_states: %s: expected %lld, found %lld\n", what.c_str(),
                 static_cast<long long>(expected), static_cast<long long>(found));
    std::_Exit(1);
}

Digest digest_of(std::span<const std::byte> bytes) {
    return XXH3_64bits_withSeed(bytes.data(), bytes.size(), bytes.size());
}

Digest digest_of(const Contents& contents) {
    Digest sum = 0;
    for (const auto& [name, digest] : contents) sum += XXH3_64bits_withSeed(name.data(), name.size(), digest);
    return sum;
}

std::pair<std::size_t, std::size_t> History::allowed(Time crash) const {
    std::size_t first = 0;
    for (const Promise& promise : promises) {
        if (promise.told <= crash) first = std::max(first, promise.state);
    }
    std::size_t last = states.size() - 1;
    while (states[last].from > crash) --last;
    return {first, last};
}

Client::Client(MemoryDevice& device, std::string directory, std::uint64_t seed) : random(seed), device_(device) {
    history_.directory = std::move(directory);
    begin_with({});
}

void Client::attach(store::Store& store) {
    store_ = &store;
    Attributes found{};
    if (store.lookup(store::kRoot, history_.directory, found) != 0) {
        expect_ok(store.make(store::kRoot, history_.directory, S_IFDIR | 0755, {}, {}, false, found), 0, "mkdir");
        expect_ok(block_on(store.fsync(found.ino)), 0, "fsync of a directory");
    }
    directory_ = found.ino;
}

std::uint64_t Client::inode(const std::string& name) {
    Attributes found{};
    expect_ok(store_->lookup(directory_, name, found), 0, "lookup of " + name);
    return found.ino;
}

void Client::begin_with(Contents contents) {
    const Digest digest = digest_of(contents);
    history_.states = {{std::move(contents), digest, 0}};
}

void Client::next(Contents contents) {
    const Digest digest = digest_of(contents);
    history_.states.push_back({std::move(contents), digest, device_.tick()});
}

void Client::promise() { history_.promises.push_back({device_.tick(), history_.states.size() - 1}); }

void Client::put(const std::string& name, std::size_t size, bool direct) {
    const auto bytes = fresh_bytes(random, size);
    Attributes made{};
    expect_ok(store_->make(directory_, name, S_IFREG | 0644, {}, {}, true, made), 0, "create " + name);
    expect_ok(store_->open(made.ino, true), 0, "open " + name);
    if (direct) {
        write_direct(*store_, made.ino, 0, bytes);
    } else {
        for (std::size_t at = 0; at < bytes.size();) {
            const std::size_t n = std::min(bytes.size() - at, 1 + random() % (128 * 1024));
            expect_ok(block_on(store_->write(made.ino, at, {bytes.data() + at, n})), static_cast<std::int64_t>(n),
                      "write");
            at += n;
        }
    }
    Contents contents = history_.states.back().contents;
    contents[name] = digest_of(bytes);
    next(std::move(contents));
    expect_ok(block_on(store_->flush(made.ino)), 0, "close " + name);
    expect_ok(store_->release(made.ino, true), 0, "release " + name);
    forget(made.ino);
}

void Client::put_empty(const std::string& prefix, unsigned count) {
    Contents contents = history_.states.back().contents;
    for (unsigned i = 0; i < count; ++i) {
        const std::string name = prefix + std::to_string(i);
        Attributes made{};
        expect_ok(store_->make(directory_, name, S_IFREG | 0644, {}, {}, false, made), 0, "create " + name);
        forget(made.ino);
        contents[name] = digest_of(std::span<const std::byte>{});
    }
    next(std::move(contents));
}

void Client::rename(const std::string& from, const std::string& to) {
    Contents contents = history_.states.back().contents;
    // two names of one file (nobody writes the same bytes twice) stay as they are
    const bool same = contents.contains(to) && contents.at(to) == contents.at(from);
    if (!same) {
        contents[to] = contents.at(from);
        contents.erase(from);
        next(std::move(contents));
    }
    expect_ok(block_on(store_->rename(directory_, from, directory_, to, 0)), 0, "rename " + from + " to " + to);
}

void Client::exchange(const std::string& one, const std::string& other) {
    Contents contents = history_.states.back().contents;
    std::swap(contents.at(one), contents.at(other));
    next(std::move(contents));
    expect_ok(block_on(store_->rename(directory_, one, directory_, other, store::kRenameExchange)), 0, "exchange");
}

void Client::link(const std::string& from, const std::string& to) {
    Contents contents = history_.states.back().contents;
    contents[to] = contents.at(from);
    const std::uint64_t ino = inode(from);
    next(std::move(contents));
    Attributes out{};
    expect_ok(store_->link(ino, directory_, to, out), 0, "link");
    store_->forget(ino, 2);
}

void Client::unlink(const std::string& name) {
    Contents contents = history_.states.back().contents;
    contents.erase(name);
    next(std::move(contents));
    std::uint64_t ino = 0;
    expect_ok(store_->unlink(directory_, name, ino), 0, "unlink " + name);
}

void Client::fsync(const std::string& name) {
    const std::uint64_t ino = inode(name);
    expect_ok(block_on(store_->fsync(ino)), 0, "fsync of " + name);
    promise();
    forget(ino);
}

void Client::fsync_directory() {
    expect_ok(block_on(store_->fsync(directory_)), 0, "fsync of a directory");
    promise();
}

void Client::open_pool(const std::string& name) {
    pool_name_ = name;
    if (!has(name)) {
        put(name, 0, false);
        pool_.clear();
    }
    pool_ino_ = inode(name);
    expect_ok(store_->open(pool_ino_, true), 0, "open " + name);
}

void Client::write_pool(std::size_t offset, std::size_t size) {
    const auto bytes = fresh_bytes(random, size);
    if (random() % 2 == 0) {
        write_direct(*store_, pool_ino_, offset, bytes);
    } else {
        expect_ok(block_on(store_->write(pool_ino_, offset, bytes)), static_cast<std::int64_t>(size), "write");
    }
    pool_.resize(std::max(pool_.size(), offset + size));
    std::copy(bytes.begin(), bytes.end(), pool_.begin() + static_cast<std::ptrdiff_t>(offset));
}

void Client::punch_pool(std::size_t offset, std::size_t size) {
    expect_ok(block_on(store_->fallocate(pool_ino_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size)), 0,
              "punch");
    const std::size_t end = std::min(offset + size, pool_.size());
    for (std::size_t at = offset; at < end; ++at) pool_[at] = std::byte{0};
}

void Client::truncate_pool(std::size_t size) {
    expect_ok(block_on(store_->truncate(pool_ino_, size)), 0, "truncate");
    pool_.resize(size);
}

void Client::flush_pool(bool durable) {
    Contents contents = history_.states.back().contents;
    contents[pool_name_] = digest_of(pool_);
    next(std::move(contents));
    expect_ok(block_on(durable ? store_->fsync(pool_ino_) : store_->flush(pool_ino_)), 0, "flush of a pool file");
    if (durable) promise();
}

void Client::close_pool() {
    flush_pool(false);
    expect_ok(store_->release(pool_ino_, true), 0, "release");
    forget(pool_ino_);
}

}  // namespace kvfs::crash
