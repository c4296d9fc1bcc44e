// A small cache of verified granules: what requests smaller than a granule read more than once, and what was read ahead
// for a reader that comes in small pieces.
//
// A slot is free, loading or ready. Whoever claims a slot brings its granule from the device straight into it, verifies
// it, and says so; others that want the same granule meanwhile wait for that instead of reading it once more. A pinned
// slot keeps its content; bytes are copied out of it without the cache's mutex.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

namespace kvfs::store {

// Keyed by place and checksum (which is seeded with the segment's generation), so that an entry can never be taken for
// what was written there later, be it in the segment's next life or into a gap of this one.
struct GranuleKey {
    std::uint64_t place = 0;  // segment << 32 | block
    std::uint64_t checksum = 0;
    bool operator==(const GranuleKey&) const = default;
};

class GranuleCache {
public:
    class Loaded;
    // Fields are guarded by the cache's mutex, but for the bytes: they belong to the loader, then to whoever has a pin.
    class Slot {
    public:
        [[nodiscard]] std::byte* data() const { return data_; }

    private:
        friend class GranuleCache;
        enum class State : std::uint8_t { kFree, kLoading, kReady };
        std::byte* data_ = nullptr;
        GranuleKey key_;
        Slot* next_ = nullptr;  // in its bucket
        Loaded* waiting_ = nullptr;
        std::uint32_t pins_ = 0;
        State state_ = State::kFree;
        bool used_again_ = false;  // second chance
        bool ahead_ = false;       // read ahead, and nobody has asked for it yet
    };

    // Owns the slots of `memory`; `slot_size` bytes each.
    GranuleCache(std::span<std::byte> memory, std::size_t slot_size);

    struct Found {
        Slot* slot = nullptr;  // pinned
        bool ready = false;    // else it is being loaded
    };
    Found find(const GranuleKey& key);
    enum class Claim : std::uint8_t { kMine, kExists, kRefused };
    // A slot to load, pinned: kMine. kExists when there is one for this granule by now. kRefused when all slots are in
    // use, or, for reading ahead, when enough of them hold what nobody has asked for.
    Claim claim(const GranuleKey& key, bool ahead, Slot*& slot);

    // By the one who claimed it: the granule is in the slot and verified, or it is not. Keeps the pin.
    void finish(Slot& slot, bool verified);
    // `consumed`: a reader went through to the granule's end and is not expected back.
    void unpin(Slot& slot, bool consumed = false);

    // Awaits the moment when a slot that was found loading is loaded; false when that failed.
    class Loaded {
    public:
        Loaded(GranuleCache& cache, Slot& slot) : cache_(cache), slot_(slot) {}
        bool await_ready() const { return false; }
        bool await_suspend(std::coroutine_handle<> waiter);
        bool await_resume() const;

    private:
        friend class GranuleCache;
        GranuleCache& cache_;
        Slot& slot_;
        std::coroutine_handle<> waiter_;
        Loaded* next_ = nullptr;
    };
    Loaded loaded(Slot& slot) { return {*this, slot}; }

private:
    [[nodiscard]] std::size_t bucket(const GranuleKey& key) const {
        return static_cast<std::size_t>((key.place ^ key.checksum << 17) * 0x9e3779b97f4a7c15ULL >> 32) &
               (buckets_.size() - 1);
    }
    Slot* look(const GranuleKey& key);
    Slot* victim();
    void forget(Slot& slot);

    std::mutex mutex_;
    std::vector<Slot> slots_;
    std::vector<Slot*> buckets_;
    std::size_t hand_ = 0;  // of the clock that looks for a victim
    std::size_t ahead_ = 0;
};

}  // namespace kvfs::store
