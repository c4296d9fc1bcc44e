#include "policy/learned.hpp"

#include <algorithm>

namespace kvfs::policy {
namespace {

constexpr unsigned kTickShift = 30;  // a tick: 2^30 ns, 1.07 s

// Lessons cost some 100 us. They come often while little is known, then every so many uses of the sample.
constexpr std::uint64_t kFirstLesson = 64;
constexpr std::uint64_t kLessonEvery = 1024;
// Uses of the sample after which old ones count half: reuse changes over days.
constexpr std::uint64_t kHalfLife = std::uint64_t{256} * 1024;

}  // namespace

Learned::Learned(const Host& host) : host_(host), next_lesson_(kFirstLesson), next_halving_(kHalfLife) {}

void Learned::advance(std::int64_t now_ns) {
    if (!started_) {
        started_ = true;
        origin_ns_ = now_ns;
    }
    const auto ticks = static_cast<std::uint64_t>(std::max<std::int64_t>(now_ns - origin_ns_, 0)) >> kTickShift;
    const auto passed = (static_cast<std::uint32_t>(ticks) - now_) & Reuse::kAgeMask;
    // more than half of all ages ahead is a step back
    if (passed <= Reuse::kAgeMask / 2) now_ = (now_ + passed) & Reuse::kAgeMask;
}

void Learned::insert(ObjectId id, Chain& chain) {
    const auto object_class = class_of(objects_[id]);
    auto& list = lists_[object_class];
    const auto last = chain.before(id, object_class);
    // `last` may have left the list since, or be another object by now: only where it still looks like one of the chain
    if (last != Order::kNone && is_resident(last) && class_of(objects_[last]) == object_class &&
        age(objects_[last]) <= kSameUse) {
        order_.insert_colder(list, last, id);
    } else {
        order_.push_hot(list, id);
    }
    chain.append(id, object_class, objects_[id].uses);
}

void Learned::count_use(ObjectId id) {
    auto& object = objects_[id];
    object.tick = now_ & Reuse::kAgeMask;
    const auto key = host_.key(id);
    if (sample_.includes(key)) sample_.used(key, class_of(object), now_, horizon());
}

void Learned::admitted(ObjectId id, std::uint64_t length, const Access& access) {
    if (is_resident(id)) return written_again(id, length, access);
    advance(access.now_ns);
    order_.reserve(id);
    if (id >= objects_.size()) Order::grow(objects_, id);
    const auto key = host_.key(id);
    auto& chain = chains_.admitted(key, access);
    const auto uses = ghosts_.take(key);
    if (uses != 0) ++ghost_hits_;
    ghosts_.reserve(++residents_);
    objects_[id] = {.tick = now_ & Reuse::kAgeMask,
                    .uses = std::min({uses, chain.uses, kMaxUses - 1}) & 3U,
                    .tail = chains_.is_partial(length, access) ? 1U : 0U,
                    .resident = 1};
    insert(id, chain);
    count_use(id);
    learn_now_and_then();
}

// It may have been a part of a block so far.
void Learned::written_again(ObjectId id, std::uint64_t length, const Access& access) {
    auto& object = objects_[id];
    if (object.tail && !chains_.is_partial(length, access)) {
        order_.erase(lists_[kTail], id);
        object.tail = 0;
        order_.push_hot(lists_[class_of(object)], id);
    }
    touched(id, access);
}

void Learned::touched(ObjectId id, const Access& access) {
    if (!is_resident(id)) return;
    advance(access.now_ns);
    auto& chain = chains_.used(access);
    auto& object = objects_[id];
    if (age(object) <= kSameUse) {
        object.tick = now_ & Reuse::kAgeMask;  // who keeps asking uses it once
        return chain.append(id, class_of(object), object.uses);
    }
    order_.erase(lists_[class_of(object)], id);
    object.uses = std::min<unsigned>(object.uses + 1U, kMaxUses - 1) & 3U;
    object.tick = now_ & Reuse::kAgeMask;
    insert(id, chain);
    count_use(id);
    learn_now_and_then();
}

void Learned::removed(ObjectId id) {
    if (!is_resident(id)) return;
    order_.erase(lists_[class_of(objects_[id])], id);
    objects_[id].resident = 0;
    --residents_;
    const auto key = host_.key(id);
    if (sample_.includes(key)) sample_.forget(key, now_);
}

void Learned::missed(Key key, const Access& access) {
    advance(access.now_ns);
    chains_.missed(key, access);
    if (sample_.includes(key)) sample_.missed(key, now_);
    learn_now_and_then();
}

std::uint32_t Learned::horizon() const {
    std::uint32_t oldest = 0;
    for (const auto& list : lists_) {
        if (!list.empty()) oldest = std::max(oldest, age(objects_[list.cold]));
    }
    // what may still become a hit, were the store several times as large; an hour at least
    return std::max(std::min(oldest, Reuse::kAgeMask / 8) * 8, 4096U);
}

void Learned::learn_now_and_then() {
    const auto events = reuse_.events();
    if (events < next_lesson_) return;
    next_lesson_ = events + std::clamp<std::uint64_t>(events / 8, kFirstLesson, kLessonEvery);
    if (events >= next_halving_) {
        reuse_.halve();
        next_halving_ = events + kHalfLife;
    }
    sample_.teach(now_);
}

std::uint64_t Learned::victims(std::uint64_t bytes_wanted, const Filter& filter, std::vector<ObjectId>& out) {
    struct Cursor {
        ObjectId id = Order::kNone;
        std::size_t left = 0;  // those that are refused go to the hot end and are not met again
    };
    std::array<Cursor, Reuse::kClasses> cursors;
    for (unsigned c = 0; c < Reuse::kClasses; ++c) cursors[c] = {lists_[c].cold, lists_[c].size};
    std::uint64_t bytes = 0;
    while (bytes < bytes_wanted) {
        auto coldest = Reuse::kClasses;
        float lowest = 0;
        for (unsigned c = 0; c < Reuse::kClasses; ++c) {
            if (cursors[c].left == 0) continue;
            const auto index = reuse_.index(c, age(objects_[cursors[c].id]));
            if (coldest != Reuse::kClasses && index >= lowest) continue;
            coldest = c;
            lowest = index;
        }
        if (coldest == Reuse::kClasses) break;
        auto& cursor = cursors[coldest];
        const auto id = cursor.id;
        cursor.id = order_.hotter(id);
        --cursor.left;
        if (filter && !filter(id)) continue;
        order_.erase(lists_[coldest], id);
        if (!host_.may_evict(id)) {
            order_.push_hot(lists_[coldest], id);
            ++refused_;
            continue;
        }
        objects_[id].resident = 0;
        --residents_;
        ghosts_.add(host_.key(id), objects_[id].uses + 1U);
        out.push_back(id);
        bytes += host_.space(id);
        ++evicted_;
    }
    return bytes;
}

Statistics Learned::statistics() const {
    return {.resident = residents_,
            .ghosts = ghosts_.places(),
            .ghost_hits = ghost_hits_,
            .evicted = evicted_,
            .refused = refused_,
            .memory_bytes = order_.memory_bytes() + objects_.capacity() * sizeof(Object) + ghosts_.memory_bytes() +
                            sample_.memory_bytes() + chains_.memory_bytes() + sizeof(*this)};
}

}  // namespace kvfs::policy
