// Every name of the volume: an arena of (parent, inode, name) and a hash index over it.
//
// A name is 13 bytes and its text, in slots of a multiple of 8 bytes; a NameId is the slot's place in the arena. The
// index is 256 shards of open addressing (id and an 8-bit tag per slot: 5 bytes), each grown by an eighth when 7/8
// full, so that no single insert rehashes more than a 256th of all names and the slack stays small.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "store/inodes.hpp"

namespace kvfs::store {

#pragma pack(push, 1)
struct Name {
    InodeNumber parent;
    InodeNumber ino;
    std::uint32_t position;  // in the parent's list of children
    std::uint8_t length;     // 0: a free slot
    char text[1];

    [[nodiscard]] std::string_view view() const { return {text, length}; }
};
#pragma pack(pop)
static_assert(offsetof(Name, text) == 13);

// Guarded by the store's mutex.
class Names {
public:
    Names();

    // 0 when absent.
    NameId find(InodeNumber parent, std::string_view name) const;
    // 64 well-mixed bits that stand for the name while the store is open.
    [[nodiscard]] std::uint64_t key(InodeNumber parent, std::string_view name) const { return hash(parent, name); }
    // The name must be absent and 1 to 255 bytes long. 0 when the arena is full.
    NameId insert(InodeNumber parent, std::string_view name, InodeNumber ino);
    void erase(NameId id);
    Name& at(NameId id) { return *reinterpret_cast<Name*>(reserved_.base() + std::size_t{id} * 8); }
    const Name& at(NameId id) const { return *reinterpret_cast<const Name*>(reserved_.base() + std::size_t{id} * 8); }
    // False for a slot that was freed since the id was taken.
    [[nodiscard]] bool is_live(NameId id) const { return at(id).length != 0; }
    [[nodiscard]] std::uint64_t count() const { return count_; }
    // Of all names' texts.
    [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
    template <typename Visit>
    void for_each(Visit&& visit) const {
        for (const Shard& shard : shards_) {
            for (const NameId id : shard.ids) {
                if (id != 0) visit(id);
            }
        }
    }

private:
    struct Shard {
        std::vector<NameId> ids;
        std::vector<std::uint8_t> tags;
        std::uint32_t used = 0;
    };
    static constexpr std::size_t kClasses = (13 + 255 + 7) / 8 + 1;

    std::uint64_t hash(InodeNumber parent, std::string_view name) const;
    static std::size_t slot_of(const Shard& shard, std::uint64_t hash);
    static std::uint8_t tag_of(std::uint64_t hash) { return static_cast<std::uint8_t>(hash >> 8 & 0xff); }
    void place(Shard& shard, std::uint64_t hash, NameId id);
    void grow(Shard& shard);

    Reserved reserved_;
    std::uint64_t seed_;
    NameId end_ = 1;
    std::array<NameId, kClasses> free_{};
    std::array<Shard, 256> shards_;
    std::uint64_t count_ = 0;
    std::uint64_t bytes_ = 0;
};

}  // namespace kvfs::store
