// A small cache of verified granules, for requests smaller than one: read-ahead of 128 KiB must not read 256 KiB twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "uring/buffers.hpp"

namespace kvfs::store {

// Keyed by place and generation, so that an entry can never be taken for what was written there later.
struct GranuleKey {
    std::uint64_t place = 0;  // segment << 32 | block
    std::uint64_t generation = 0;
    bool operator==(const GranuleKey&) const = default;
};

struct GranuleKeyHash {
    std::size_t operator()(const GranuleKey& key) const {
        return static_cast<std::size_t>((key.place ^ key.generation << 17) * 0x9e3779b97f4a7c15ULL);
    }
};

class GranuleCache {
public:
    // Owns the slots of `memory`; `slot_size` bytes each.
    GranuleCache(std::span<std::byte> memory, std::size_t slot_size) : memory_(memory), slot_size_(slot_size) {
        slots_.resize(memory.size() / slot_size);
        for (std::uint32_t i = 0; i < slots_.size(); ++i) {
            lru_.push_back(i);
            slots_[i].lru = std::prev(lru_.end());
        }
    }

    // Copies [from, from + size) of the granule when it is here.
    bool copy_out(const GranuleKey& key, std::size_t from, std::size_t size, std::byte* out) {
        const std::lock_guard guard(mutex_);
        const auto it = index_.find(key);
        if (it == index_.end()) return false;
        Slot& slot = slots_[it->second];
        std::memcpy(out, memory_.data() + it->second * slot_size_ + from, size);
        lru_.splice(lru_.end(), lru_, slot.lru);
        return true;
    }

    void put(const GranuleKey& key, std::span<const std::byte> data) {
        const std::lock_guard guard(mutex_);
        if (slots_.empty() || index_.contains(key)) return;
        const std::uint32_t victim = lru_.front();
        Slot& slot = slots_[victim];
        if (slot.used) index_.erase(slot.key);
        slot.key = key;
        slot.used = true;
        index_.emplace(key, victim);
        std::memcpy(memory_.data() + victim * slot_size_, data.data(), data.size());
        lru_.splice(lru_.end(), lru_, slot.lru);
    }

private:
    struct Slot {
        GranuleKey key;
        bool used = false;
        std::list<std::uint32_t>::iterator lru;
    };
    std::span<std::byte> memory_;
    std::size_t slot_size_;
    std::mutex mutex_;
    std::vector<Slot> slots_;
    std::list<std::uint32_t> lru_;  // the one to replace next in front
    std::unordered_map<GranuleKey, std::uint32_t, GranuleKeyHash> index_;
};

}  // namespace kvfs::store
