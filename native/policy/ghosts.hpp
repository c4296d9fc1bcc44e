// How often evicted objects had been used: 2 bytes each, for as many as the table has places.
//
// Buckets of eight 16-bit entries, newest first: 13 bits of the key and a count of 1 to 7 (0: free). A new entry pushes
// the oldest of its bucket out, so that a bucket is a small FIFO and nothing has to be swept. A key is taken for
// another one's with probability 8 / 8192: good enough for a count that only ranks.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "policy/policy.hpp"

namespace kvfs::policy {

class Ghosts {
public:
    static constexpr unsigned kMaxUses = 7;
    static constexpr std::size_t kLeast = std::size_t{64} * 1024;

    Ghosts() : buckets_(kLeast / kWays) {}

    // Room for one and a half times as many. Keys are not kept: a bucket takes over those of the one whose part of all
    // keys it lies in, and some are lost. That is of no account: a store grows before it begins to evict.
    void reserve(std::size_t residents) {
        if (places() >= residents + residents / 2) return;
        std::vector<Bucket> larger((residents + residents / 8 * 6) / kWays + 1);
        for (std::size_t to = 0; to < larger.size(); ++to) larger[to] = buckets_[to * buckets_.size() / larger.size()];
        buckets_ = std::move(larger);
    }
    void add(Key key, unsigned uses) {
        auto& bucket = bucket_of(key);
        std::copy_backward(bucket.begin(), bucket.end() - 1, bucket.end());
        bucket[0] = static_cast<std::uint16_t>(tag(key) | std::min(uses, kMaxUses));
    }
    // Its uses, and forgets it; 0 when it is not known.
    unsigned take(Key key) {
        auto& bucket = bucket_of(key);
        for (auto entry = bucket.begin(); entry != bucket.end(); ++entry) {
            if (*entry == 0 || (*entry & ~kMaxUses) != tag(key)) continue;
            const unsigned uses = *entry & kMaxUses;
            std::copy(entry + 1, bucket.end(), entry);
            bucket.back() = 0;
            return uses;
        }
        return 0;
    }
    [[nodiscard]] std::size_t places() const { return buckets_.size() * kWays; }
    [[nodiscard]] std::size_t memory_bytes() const { return buckets_.capacity() * sizeof(Bucket); }

private:
    static constexpr std::size_t kWays = 8;
    using Bucket = std::array<std::uint16_t, kWays>;

    static std::uint16_t tag(Key key) { return static_cast<std::uint16_t>(key >> 48 & ~std::uint64_t{kMaxUses}); }
    // By the lower half, scaled to their number.
    Bucket& bucket_of(Key key) { return buckets_[(key & 0xffffffff) * buckets_.size() >> 32]; }

    std::vector<Bucket> buckets_;
};

}  // namespace kvfs::policy
