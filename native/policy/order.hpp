// Lists of objects in arrays indexed by id: 8 bytes an object, whatever the number of lists; an object is in one at
// most.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "policy/policy.hpp"

namespace kvfs::policy {

class Order {
public:
    static constexpr ObjectId kNone = 0xffffffff;

    // From the cold end, where victims are taken, to the hot one.
    struct List {
        ObjectId cold = kNone;
        ObjectId hot = kNone;
        std::size_t size = 0;
        [[nodiscard]] bool empty() const { return size == 0; }
    };

    // Room for ids up to this one; invalidates nothing.
    void reserve(ObjectId id) {
        if (id >= links_.size()) grow(links_, id);
    }
    void push_hot(List& list, ObjectId id) {
        links_[id] = {.colder = list.hot, .hotter = kNone};
        (list.hot == kNone ? list.cold : links_[list.hot].hotter) = id;
        list.hot = id;
        ++list.size;
    }
    void push_cold(List& list, ObjectId id) {
        links_[id] = {.colder = kNone, .hotter = list.cold};
        (list.cold == kNone ? list.hot : links_[list.cold].colder) = id;
        list.cold = id;
        ++list.size;
    }
    void insert_colder(List& list, ObjectId than, ObjectId id) {
        const auto colder = links_[than].colder;
        links_[id] = {.colder = colder, .hotter = than};
        (colder == kNone ? list.cold : links_[colder].hotter) = id;
        links_[than].colder = id;
        ++list.size;
    }
    void erase(List& list, ObjectId id) {
        const Link link = links_[id];
        (link.colder == kNone ? list.cold : links_[link.colder].hotter) = link.hotter;
        (link.hotter == kNone ? list.hot : links_[link.hotter].colder) = link.colder;
        --list.size;
    }
    [[nodiscard]] ObjectId colder(ObjectId id) const { return links_[id].colder; }
    [[nodiscard]] ObjectId hotter(ObjectId id) const { return links_[id].hotter; }
    [[nodiscard]] std::size_t memory_bytes() const { return links_.capacity() * sizeof(Link); }

    // So that `id` fits: by a sixteenth at a time, for a file's share of what lies idle is to stay small.
    template <typename T>
    static void grow(std::vector<T>& by_id, ObjectId id) {
        const auto size = std::size_t{id} + id / 16 + 64;
        by_id.reserve(size);  // no more: resize() alone would double it
        by_id.resize(size);
    }

private:
    struct Link {
        ObjectId colder = kNone;
        ObjectId hotter = kNone;
    };
    std::vector<Link> links_;
};

}  // namespace kvfs::policy
