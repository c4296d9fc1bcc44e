#include "tests/crash_client.hpp"

#include <linux/falloc.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/crash_evictions.hpp"

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

std::string pin_of(const std::string& name) { return name + " pin"; }

History::Allowed History::allowed(Time crash) const {
    Allowed out;
    for (const Promise& promise : promises) {
        if (promise.told > crash) continue;
        out.first = std::max(out.first, promise.state);
        out.evictions = std::max(out.evictions, promise.evictions);
    }
    out.last = states.size() - 1;
    while (states[out.last].from > crash) --out.last;
    return out;
}

std::pair<std::size_t, std::size_t> History::evictions_with(std::size_t state, Time crash) const {
    const auto before = [&](Time time) {
        const auto at = std::partition_point(evictions.begin(), evictions.end(),
                                             [&](const Eviction& eviction) { return eviction.at < time; });
        return static_cast<std::size_t>(at - evictions.begin());
    };
    // when the operation after the next is asked for, the next has come back
    const Time next_is_back = state + 2 < states.size() ? states[state + 2].from : kNever;
    return {before(states[state].from), before(std::min(next_is_back, crash + 1))};
}

Contents History::left_of(std::size_t state, std::size_t count) const {
    Contents out = states[state].contents;
    std::erase_if(out, [&](const auto& entry) {
        return std::any_of(evictions.begin(), evictions.begin() + static_cast<std::ptrdiff_t>(count),
                           [&](const Eviction& eviction) { return eviction.file == entry.second; });
    });
    return out;
}

Client::Client(MemoryDevice& device, std::string directory, std::uint64_t seed) : random(seed), device_(device) {
    history_.directory = std::move(directory);
    begin_with({});
}

void Client::attach(store::Store& store, Evictions* evictions) {
    store_ = &store;
    evictions_ = evictions;
    Attributes found{};
    if (store.lookup(store::kRoot, history_.directory, found) != 0) {
        expect_ok(store.make(store::kRoot, history_.directory, S_IFDIR | 0755, {}, {}, false, found), 0, "mkdir");
        expect_ok(block_on(store.fsync(found.ino)), 0, "fsync of a directory");
    }
    directory_ = found.ino;
    if (evictions_ == nullptr) return;
    for (const auto& [name, digest] : history_.states.back().contents) {
        const std::uint64_t ino = inode(name);
        evictions_->add(ino, history_, digest);
        forget(ino);
    }
}

std::uint64_t Client::inode(const std::string& name) {
    Attributes found{};
    expect_ok(store_->lookup(directory_, name, found), 0, "lookup of " + name);
    return found.ino;
}

std::optional<std::uint64_t> Client::inode_if_there(const std::string& name) {
    Attributes found{};
    const int rc = store_->lookup(directory_, name, found);
    if (rc == -ENOENT && evictions_ != nullptr) return std::nullopt;
    expect_ok(rc, 0, "lookup of " + name);
    return found.ino;
}

std::size_t Client::evicted() const { return evictions_ == nullptr ? 0 : evictions_->count(history_); }

void Client::leaves(const std::string& name) {
    if (evictions_ != nullptr && has(name)) evictions_->leaves(history_.states.back().contents.at(name));
}

void Client::begin_with(Contents contents) {
    const Digest digest = digest_of(contents);
    history_.states = {{std::move(contents), digest, 0}};
}

void Client::next(Contents contents) {
    const Digest digest = digest_of(contents);
    history_.states.push_back({std::move(contents), digest, device_.tick()});
}

void Client::promise() { promise(evicted()); }

void Client::promise(std::size_t evictions) {
    history_.promises.push_back({device_.tick(), history_.states.size() - 1, evictions});
}

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
    if (evictions_ != nullptr) evictions_->add(made.ino, history_, contents[name]);
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
        leaves(to);
        contents[to] = contents.at(from);
        contents.erase(from);
        next(std::move(contents));
    }
    const int rc = block_on(store_->rename(directory_, from, directory_, to, 0));
    if (rc == -ENOENT && evictions_ != nullptr) return take_back();
    expect_ok(rc, 0, "rename " + from + " to " + to);
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
    leaves(name);
    Contents contents = history_.states.back().contents;
    contents.erase(name);
    next(std::move(contents));
    std::uint64_t ino = 0;
    const int rc = store_->unlink(directory_, name, ino);
    // without it is what its directory is now, either way
    if (rc != -ENOENT || evictions_ == nullptr) expect_ok(rc, 0, "unlink " + name);
}

void Client::fsync(const std::string& name) {
    const auto ino = inode_if_there(name);
    if (!ino) return;
    const std::size_t before = evicted();
    const int rc = block_on(store_->fsync(*ino));
    forget(*ino);
    if (rc == -ESTALE && evictions_ != nullptr) return;
    expect_ok(rc, 0, "fsync of " + name);
    promise(before);
}

void Client::fsync_directory() {
    const std::size_t before = evicted();
    expect_ok(block_on(store_->fsync(directory_)), 0, "fsync of a directory");
    promise(before);
}

bool Client::pin(const std::string& name) {
    const auto ino = inode_if_there(name);
    if (!ino) return false;
    Contents contents = history_.states.back().contents;
    contents[pin_of(name)] = kPinned;
    next(std::move(contents));
    const int rc = store_->setxattr(*ino, kPin, "365d", 0);
    if (rc == -ESTALE) {
        take_back();
        forget(*ino);
        return false;
    }
    expect_ok(rc, 0, "pin " + name);
    evictions_->hold(*ino, 1);
    held_[name] = {*ino, true};
    return true;
}

bool Client::hold_open(const std::string& name) {
    const auto ino = inode_if_there(name);
    if (!ino) return false;
    const int rc = store_->open(*ino, false);
    if (rc == -ESTALE) {
        forget(*ino);
        return false;
    }
    expect_ok(rc, 0, "open " + name);
    evictions_->hold(*ino, 1);
    held_[name] = {*ino, false};
    return true;
}

void Client::let_go() {
    for (const auto& [name, held] : held_) {
        evictions_->hold(held.ino, -1);
        if (held.pinned) {
            Contents contents = history_.states.back().contents;
            contents.erase(pin_of(name));
            next(std::move(contents));
            expect_ok(store_->removexattr(held.ino, kPin), 0, "unpin " + name);
        } else {
            expect_ok(store_->release(held.ino, false), 0, "release " + name);
        }
        forget(held.ino);
    }
    held_.clear();
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
