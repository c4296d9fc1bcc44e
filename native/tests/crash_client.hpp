// A client of a workload, and what it may find after a crash.
//
// A client is the only one who changes its directory, so what the directory can hold is a state of the client's own
// history: not an earlier one than a finished fsync promised, and not one that it had not asked for yet. That is
// promise 1 (whole or absent: no state has half a file in it) and promise 4 (what was fsynced is there) at once.
//
// Where the store evicts, a state is less what was evicted by then (crash_evictions.hpp). The log has one order: what
// was evicted before an operation was asked for is in front of it there, and what was evicted after it had come back is
// behind it.
#pragma once

#include <map>
#include <memory>
#include <optional>
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
// A pinned file has a second entry in its directory's contents.
std::string pin_of(const std::string& name);
inline constexpr Digest kPinned = 1;
inline constexpr const char* kPin = "user.kvfs.pin";

struct History {
    struct State {
        Contents contents;
        Digest digest = 0;
        Time from = 0;  // asked for at this time: not to be found before
    };
    struct Promise {
        Time told = 0;
        std::size_t state = 0;      // nothing earlier may be found once this was told
        std::size_t evictions = 0;  // nor any of the first so many files that were evicted
    };
    struct Eviction {
        Time at = 0;
        Digest file = 0;
    };
    std::string directory;
    std::vector<State> states;
    std::vector<Promise> promises;
    std::vector<Eviction> evictions;  // in their order

    // What a crash may leave: a state from first to last, less at least so many of the evictions.
    struct Allowed {
        std::size_t first = 0, last = 0, evictions = 0;
    };
    [[nodiscard]] Allowed allowed(Time crash) const;
    // How many of the evictions a log has that ends with that state: at least and at most.
    [[nodiscard]] std::pair<std::size_t, std::size_t> evictions_with(std::size_t state, Time crash) const;
    // What is left of it after the first `evictions`.
    [[nodiscard]] Contents left_of(std::size_t state, std::size_t evictions) const;
};

class Evictions;

class Client {
public:
    Client(MemoryDevice& device, std::string directory, std::uint64_t seed);

    // The store that the next calls go to; the first one gets the directory made. Where it evicts, a file may be gone
    // before its own client comes to it: then what was asked for does not take place.
    void attach(store::Store& store, Evictions* evictions);

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

    // Where the store evicts: from here on it must not take that file. False when it already has.
    bool pin(const std::string& name);
    bool hold_open(const std::string& name);
    // Lets go of all that this client pinned or holds open.
    void let_go();
    [[nodiscard]] bool holds(const std::string& name) const { return held_.contains(name); }

    // One file that stays open and is changed in place; a change is published by flush_pool().
    void open_pool(const std::string& name);
    void write_pool(std::size_t offset, std::size_t size);
    void punch_pool(std::size_t offset, std::size_t size);
    void truncate_pool(std::size_t size);
    void flush_pool(bool durable);
    void close_pool();

    // What was done so far survives: an fsync came back, or the store was closed in order.
    void promise();
    // Its last state is promised, less the evictions that were there before that was asked for.
    void promise(std::size_t evictions);
    [[nodiscard]] bool has(const std::string& name) const { return history_.states.back().contents.contains(name); }
    [[nodiscard]] const store::Counters& counters() const { return store_->counters(); }
    [[nodiscard]] const History& history() const { return history_; }

    std::mt19937_64 random;

private:
    std::uint64_t inode(const std::string& name);
    // With a reference that the caller gives back; nothing when it was evicted.
    std::optional<std::uint64_t> inode_if_there(const std::string& name);
    std::size_t evicted() const;
    void leaves(const std::string& name);
    void take_back() { history_.states.pop_back(); }  // what was asked for last did not take place
    void forget(std::uint64_t ino) { store_->forget(ino, 1); }
    void next(Contents contents);

    struct Held {
        std::uint64_t ino;
        bool pinned;
    };

    MemoryDevice& device_;
    store::Store* store_ = nullptr;
    Evictions* evictions_ = nullptr;
    std::map<std::string, Held> held_;
    History history_;
    std::uint64_t directory_ = 0;
    std::uint64_t pool_ino_ = 0;
    std::string pool_name_;
    std::vector<std::byte> pool_;
};

// Ends the program with one line when a call of the store does not do what it must.
void expect_ok(std::int64_t found, std::int64_t expected, const std::string& what);

}  // namespace kvfs::crash
