// Which objects belong to one chain, found in the sequence of calls.
//
// A request of an engine looks like this: it uses the blocks that are there, block 0 first, misses one, and after it
// has computed them admits that one and those behind it, in order. Requests of one client follow each other closely,
// and what one admits comes between the look-ups of the next. So there are two chains for each client:
//
//   used       goes on until something is missed, or kPause passes without a use
//   admitted   begins with a block that was missed at least kCompute ago, by whomever: then it continues the chain that
//              was being used; it goes on until another such block is admitted, or kPatience passes without one
//
// What is missed just before it is admitted says nothing: creating a file, or renaming one into place, looks its name
// up.
//
// A chain remembers its last objects in each class, behind which the next one belongs, and how often its last object
// had been used: what follows in a chain is worth no more than what comes before it.
//
// A partial block is one that is shorter than what its client has been admitting.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "policy/order.hpp"
#include "policy/policy.hpp"
#include "policy/reuse.hpp"

namespace kvfs::policy {

struct Chain {
    static constexpr unsigned kAnyUses = 0xff;

    unsigned uses = kAnyUses;  // of its last object

    // In its class, the one before `id`, which may have been appended already (under a temporary name).
    [[nodiscard]] ObjectId before(ObjectId id, unsigned object_class) const {
        return last[object_class] == id ? last_but_one[object_class] : last[object_class];
    }
    void append(ObjectId id, unsigned object_class, unsigned object_uses) {
        if (last[object_class] != id) last_but_one[object_class] = last[object_class];
        last[object_class] = id;
        uses = object_uses;
    }

private:
    static constexpr std::array<ObjectId, Reuse::kClasses> none() {
        std::array<ObjectId, Reuse::kClasses> out{};
        out.fill(Order::kNone);
        return out;
    }
    std::array<ObjectId, Reuse::kClasses> last = none();
    std::array<ObjectId, Reuse::kClasses> last_but_one = none();
};

class Chains {
public:
    Chains() : clients_(kClients), misses_(kMisses) {}

    // The chain that an object belongs to which is used, or admitted, now.
    Chain& used(const Access& access) {
        auto& client = client_of(access);
        if (access.now_ns - client.used_ns > kPause) client.used = {};
        client.used_ns = access.now_ns;
        return client.used;
    }
    Chain& admitted(Key key, const Access& access) {
        auto& client = client_of(access);
        auto& miss = miss_of(key);
        if (miss.key == key && access.now_ns - miss.now_ns >= kCompute) {
            client.admitted = miss.after;
            miss = {};
        } else if (access.now_ns - client.admitted_ns > kPatience) {
            client.admitted = {};
        }
        client.admitted_ns = access.now_ns;
        return client.admitted;
    }
    void missed(Key key, const Access& access) {
        auto& client = client_of(access);
        auto& miss = miss_of(key);
        if (miss.key != key || access.now_ns - miss.now_ns > kForgotten) {
            const bool goes_on = access.now_ns - client.used_ns <= kPause;
            miss = {.key = key, .now_ns = access.now_ns, .after = goes_on ? client.used : Chain{}};
        }
        client.used = {};
    }
    bool is_partial(std::uint64_t length, const Access& access) {
        if (length == 0) return false;  // nobody has written it yet
        auto& full = client_of(access).full;
        const bool out = length < full;
        full = std::max(length, full - full / 16);  // it may get smaller for good
        return out;
    }
    [[nodiscard]] std::size_t memory_bytes() const {
        return clients_.capacity() * sizeof(Client) + misses_.capacity() * sizeof(Miss);
    }

private:
    static constexpr std::size_t kClients = 128;
    static constexpr std::size_t kMisses = 512;
    static constexpr std::int64_t kPause = 20'000'000;          // 20 ms: a request looks its blocks up in one go
    static constexpr std::int64_t kCompute = 5'000'000;         // 5 ms: it computes blocks before it writes them
    static constexpr std::int64_t kForgotten = 60'000'000'000;  // 60 s: by then it has written them, or never will
    static constexpr std::int64_t kPatience = 2'000'000'000;    // 2 s: it computes and writes between them

    struct Client {
        std::uint32_t client = 0;
        Chain used;
        Chain admitted;
        std::int64_t used_ns = 0;
        std::int64_t admitted_ns = 0;
        std::uint64_t full = 0;  // length of what it admits, but for partial blocks
    };
    struct Miss {
        Key key = 0;
        std::int64_t now_ns = 0;  // when it was missed first
        Chain after;
    };

    // Both tables are by hash; who is pushed out begins anew.
    Client& client_of(const Access& access) {
        auto& client = clients_[(access.client * 0x9e3779b1U) >> 25];
        if (client.client != access.client) {
            client = {};
            client.client = access.client;
        }
        return client;
    }
    Miss& miss_of(Key key) { return misses_[key & (kMisses - 1)]; }

    std::vector<Client> clients_;
    std::vector<Miss> misses_;
};

}  // namespace kvfs::policy
