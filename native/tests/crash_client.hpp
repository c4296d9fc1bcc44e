// A client of a workload, and what it may find after a crash.
//
// A client is the only one who changes its directory, so what the directory can hold is a state of the client's own
// history: not an earlier one than a finished fsync promised, and not one that it had not asked for yet. That is
// promise 1 (whole or absent: no state has half a file in it) and promise 4 (what was fsynced is there) at once.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "store/store.hpp"
#include "tests/crash_trace.hpp"

namespace kvfs::crash {

using Digest = std::uint64_t;
using Contents = std::map<std::string, Digest>;  // by name; of size and bytes

Digest digest_of(std::span<const std::byte> bytes);
Digest digest_of(const Contents& contents);

struct History {
    struct State {
        Contents contents;
        Digest digest = 0;
        Time from = 0;  // asked for at this time: not to be found before
    };
    struct Promise {
        Time told = 0;
        std::size_t state = 0;  // nothing earlier may be found once this was told
    };
    std::string directory;
    std::vector<State> states;
    std::vector<Promise> promises;

    // Of the states that a crash at that time may leave: first and last.
    [[nodiscard]] std::pair<std::size_t, std::size_t> allowed(Time crash) const;
};

class Client {
public:
    Client(MemoryDevice& device, std::string directory, std::uint64_t seed);

    // The store that the next calls go to; the first one gets the directory made.
    void attach(store::Store& store);

    // What a crash left is where this client's history begins.
    void begin_with(Contents contents);

    // A file that was not there: created, written, closed. In one write where `direct`, else in pieces.
    void put(const std::string& name, std::size_t size, bool direct);
    // Many files without content, of which only all together are a state.
    void put_empty(const std::string& prefix, unsigned count);
    void rename(const std::string& from, const std::string& to);
    void exchange(const std::string& one, const std::string& other);
    void link(const std::string& from, const std::string& to);
    void unlink(const std::string& name);
    void fsync(const std::string& name);
    void fsync_directory();

    // One file that stays open and is changed in place; a change is published by flush_pool().
    void open_pool(const std::string& name);
    void write_pool(std::size_t offset, std::size_t size);
    void punch_pool(std::size_t offset, std::size_t size);
    void truncate_pool(std::size_t size);
    void flush_pool(bool durable);
    void close_pool();

    // What was done so far survives: an fsync came back, or the store was closed in order.
    void promise();
    [[nodiscard]] bool has(const std::string& name) const { return history_.states.back().contents.contains(name); }
    [[nodiscard]] const store::Counters& counters() const { return store_->counters(); }
    [[nodiscard]] const History& history() const { return history_; }

    std::mt19937_64 random;

private:
    std::uint64_t inode(const std::string& name);
    void forget(std::uint64_t ino) { store_->forget(ino, 1); }
    void next(Contents contents);

    MemoryDevice& device_;
    store::Store* store_ = nullptr;
    History history_;
    std::uint64_t directory_ = 0;
    std::uint64_t pool_ino_ = 0;
    std::string pool_name_;
    std::vector<std::byte> pool_;
};

// Ends the program with one line when a call of the store does not do what it must.
void expect_ok(std::int64_t found, std::int64_t expected, const std::string& what);

}  // namespace kvfs::crash
