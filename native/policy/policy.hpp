// Which object goes when room is wanted: the one interface of eviction policies, under the store and under
// `kvfs-replay cachesim` alike.
//
// A policy is told what happens to objects and names victims. It does no I/O, takes no lock, reads no clock and draws
// no random number from outside: the same calls give the same victims. Whoever owns it calls it from one thread at a
// time (the store: under its mutex).
//
// What the store tells, and what the simulator derives from a trace in the same way:
//
//   missed    a name was looked up and is not there
//   admitted  an object is there from now on: a file is complete under its final name. After a restart the store admits
//             what it finds, in order of atime, with now_ns = atime
//   touched   an object was used: opened, looked up by name, or read
//   removed   an object is gone for another reason than eviction: unlinked, replaced
//   victims   room is wanted
//
// Chains. Engines name KV pages by a hash chained over the prefix and look the names of a request up in order, block 0
// first, until the first that is missing; then they write the missing ones in order. Nobody says "request" to a file
// system: what there is to see is the sequence of calls by one client. So a policy gets `client` with each call and has
// to find chains in the sequence by itself; the simulator gives it nothing more than that.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace kvfs::policy {

// A small number that an object has while it is resident, and another may have after it (the store: the inode's).
// Policies keep arrays indexed by it, so their memory grows with the largest one in use.
using ObjectId = std::uint32_t;

// What an object is called, whenever it comes back (the store: a hash of directory and name). 64 well-mixed bits.
using Key = std::uint64_t;

struct Access {
    std::int64_t now_ns = 0;   // from any origin; a step back counts as no time at all
    std::uint32_t client = 0;  // who: calls of one client follow each other (the store: the thread, as FUSE names it)
};

// What a policy asks its owner about objects, so that it need not keep it. Called from within the policy's own calls.
class Host {
public:
    virtual ~Host() = default;
    [[nodiscard]] virtual std::uint64_t space(ObjectId id) const = 0;  // bytes that its eviction gives back
    [[nodiscard]] virtual Key key(ObjectId id) const = 0;
    // False while it is open, pinned, being written...: it stays, and is asked about again when its turn comes again.
    [[nodiscard]] virtual bool may_evict(ObjectId id) const = 0;
};

struct Statistics {
    std::uint64_t resident = 0;      // objects
    std::uint64_t ghosts = 0;        // evicted objects that are remembered
    std::uint64_t ghost_hits = 0;    // of what was admitted, remembered
    std::uint64_t evicted = 0;       // named by victims()
    std::uint64_t refused = 0;       // by may_evict()
    std::uint64_t memory_bytes = 0;  // of all that the policy keeps
};

class Policy {
public:
    // Of whose objects victims() is to choose (a tenant's, a namespace's); empty: of all.
    using Filter = std::function<bool(ObjectId)>;

    virtual ~Policy() = default;
    Policy(const Policy&) = delete;
    Policy& operator=(const Policy&) = delete;

    // An id that is resident already is touched instead.
    // `length`: its bytes; a shorter one at the end of a chain is a partial block.
    virtual void admitted(ObjectId id, std::uint64_t length, const Access& access) = 0;
    // Of an id that is not resident: nothing happens.
    virtual void touched(ObjectId id, const Access& access) = 0;
    // While the host still knows its key.
    virtual void removed(ObjectId id) = 0;
    virtual void missed(Key key, const Access& access) = 0;

    // Appends objects, coldest first, until they add up to `bytes_wanted` or nobody is left who may go; returns their
    // bytes. They are evicted as far as the policy is concerned: one that stays after all is to be admitted again.
    virtual std::uint64_t victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) = 0;

    [[nodiscard]] virtual Statistics statistics() const = 0;

protected:
    Policy() = default;
};

struct Options {
    std::uint64_t capacity_bytes = 0;  // of all residents together, as the owner means to keep it
};

// `name`: one of names(). Null for another one. The host must outlive the policy.
std::unique_ptr<Policy> make_policy(std::string_view name, const Host& host, const Options& options);

// What make_policy knows; the first is the store's.
const std::vector<std::string_view>& names();

}  // namespace kvfs::policy
