#include "store/names.hpp"

#include <sys/random.h>

#include <cstring>

#include "format/checksum.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kReserve = std::size_t{32}
                                 << 30;  // of address space: all that a 32-bit id of 8-byte units reaches
constexpr std::size_t kFirstSlots = 16;

std::size_t slots_for(std::size_t length) { return (offsetof(Name, text) + length + 7) / 8; }

}  // namespace

Names::Names() : reserved_(kReserve), seed_(0) {
    // a seed of its own for each mount, so that no one can choose names that collide
    if (getrandom(&seed_, sizeof seed_, 0) != sizeof seed_) seed_ = reinterpret_cast<std::uintptr_t>(this);
}

std::uint64_t Names::hash(InodeNumber parent, std::string_view name) const {
    return format::hash_name(parent, name, seed_);
}

// low 8 bits choose the shard, the next 8 are the tag, the upper 32 the place
std::size_t Names::slot_of(const Shard& shard, std::uint64_t hash) {
    return static_cast<std::size_t>((hash >> 32) * shard.ids.size() >> 32);
}

NameId Names::find(InodeNumber parent, std::string_view name) const {
    const std::uint64_t h = hash(parent, name);
    const Shard& shard = shards_[h & 0xff];
    if (shard.ids.empty()) return 0;
    const std::uint8_t tag = tag_of(h);
    for (std::size_t i = slot_of(shard, h);; i = i + 1 == shard.ids.size() ? 0 : i + 1) {
        const NameId id = shard.ids[i];
        if (id == 0) return 0;
        if (shard.tags[i] != tag) continue;
        const Name& found = at(id);
        if (found.parent == parent && found.view() == name) return id;
    }
}

void Names::place(Shard& shard, std::uint64_t hash, NameId id) {
    std::size_t i = slot_of(shard, hash);
    while (shard.ids[i] != 0) i = i + 1 == shard.ids.size() ? 0 : i + 1;
    shard.ids[i] = id;
    shard.tags[i] = tag_of(hash);
}

void Names::grow(Shard& shard) {
    const std::vector<NameId> old = std::move(shard.ids);
    const std::size_t size = old.empty() ? kFirstSlots : old.size() + old.size() / 8;
    shard.ids.assign(size, 0);
    std::vector<std::uint8_t>(size, 0).swap(shard.tags);
    for (const NameId id : old) {
        if (id != 0) place(shard, hash(at(id).parent, at(id).view()), id);
    }
}

NameId Names::insert(InodeNumber parent, std::string_view name, InodeNumber ino) {
    const std::size_t slots = slots_for(name.size());
    NameId id = free_[slots];
    if (id != 0) {
        free_[slots] = at(id).ino;  // a free slot keeps the next one there
    } else {
        if ((std::size_t{end_} + slots) * 8 > reserved_.size()) return 0;
        id = end_;
        end_ += static_cast<NameId>(slots);
    }
    Name& fresh = at(id);
    fresh.parent = parent;
    fresh.ino = ino;
    fresh.position = 0;
    fresh.length = static_cast<std::uint8_t>(name.size());
    std::memcpy(fresh.text, name.data(), name.size());

    const std::uint64_t h = hash(parent, name);
    Shard& shard = shards_[h & 0xff];
    if ((shard.used + 1) * 8 > shard.ids.size() * 7) grow(shard);
    place(shard, h, id);
    ++shard.used;
    ++count_;
    bytes_ += name.size();
    return id;
}

void Names::erase(NameId id) {
    Name& name = at(id);
    const std::uint64_t h = hash(name.parent, name.view());
    Shard& shard = shards_[h & 0xff];
    const std::size_t size = shard.ids.size();
    std::size_t hole = slot_of(shard, h);
    while (shard.ids[hole] != id) hole = hole + 1 == size ? 0 : hole + 1;
    // close the hole: an entry further on moves back unless its own place lies after the hole
    for (std::size_t i = hole + 1 == size ? 0 : hole + 1; shard.ids[i] != 0; i = i + 1 == size ? 0 : i + 1) {
        const Name& other = at(shard.ids[i]);
        const std::size_t home = slot_of(shard, hash(other.parent, other.view()));
        const bool stays = hole < i ? home > hole && home <= i : home > hole || home <= i;
        if (stays) continue;
        shard.ids[hole] = shard.ids[i];
        shard.tags[hole] = shard.tags[i];
        hole = i;
    }
    shard.ids[hole] = 0;
    --shard.used;
    --count_;
    bytes_ -= name.length;
    const std::size_t slots = slots_for(name.length);
    name.length = 0;
    name.ino = free_[slots];
    free_[slots] = id;
}

}  // namespace kvfs::store
