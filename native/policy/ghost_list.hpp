// Names of evicted objects in order of eviction, for peers whose papers ask for whole lists of them.
#pragma once

#include <cstddef>
#include <list>
#include <unordered_map>

#include "policy/policy.hpp"

namespace kvfs::policy {

class GhostList {
public:
    void push(Key key) {
        erase(key);
        places_[key] = keys_.insert(keys_.end(), key);
    }
    bool erase(Key key) {
        const auto found = places_.find(key);
        if (found == places_.end()) return false;
        keys_.erase(found->second);
        places_.erase(found);
        return true;
    }
    void pop_oldest() {
        places_.erase(keys_.front());
        keys_.pop_front();
    }
    [[nodiscard]] bool contains(Key key) const { return places_.contains(key); }
    [[nodiscard]] std::size_t size() const { return keys_.size(); }
    // What glibc and libstdc++ take for an entry of both.
    [[nodiscard]] std::size_t memory_bytes() const { return size() * (32 + 40) + places_.bucket_count() * 8; }

private:
    std::list<Key> keys_;
    std::unordered_map<Key, std::list<Key>::iterator> places_;
};

}  // namespace kvfs::policy
