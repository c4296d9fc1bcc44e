#include "uring/frames.hpp"

#include <array>
#include <cstdint>
#include <mutex>
#include <new>

namespace kvfs::uring {
namespace {

// An address sanitizer can only see a frame that is used after its end when frames are not used again.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPooling = false;
#else
constexpr bool kPooling = true;
#endif

constexpr std::size_t kStep = 128;
constexpr std::size_t kClasses = 32;  // frames beyond 4 KiB are none of a request's
constexpr std::uint32_t kKept = 8;    // by a thread, of each size
constexpr std::uint32_t kHandful = 4;
constexpr std::size_t kSheet = 32;

struct Free {
    Free* next;
};

struct Shared {
    std::mutex mutex;
    Free* first = nullptr;
};

// Never destroyed: threads may end after static destructors have run.
std::array<Shared, kClasses>& shared() {
    static auto* const lists = new std::array<Shared, kClasses>;
    return *lists;
}

struct Kept {
    Free* first = nullptr;
    std::uint32_t count = 0;
};

// Moves up to `most` frames from this thread's list to the shared one.
void hand_over(Kept& kept, std::size_t index, std::uint32_t most) {
    if (kept.first == nullptr || most == 0) return;
    Free* const first = kept.first;
    Free* last = first;
    std::uint32_t moved = 1;
    for (; moved < most && last->next != nullptr; ++moved) last = last->next;
    kept.first = last->next;
    kept.count -= moved;
    Shared& list = shared()[index];
    const std::lock_guard guard(list.mutex);
    last->next = list.first;
    list.first = first;
}

struct Mine {
    std::array<Kept, kClasses> classes{};
    ~Mine();
};

thread_local bool ended = false;  // trivial, so it can still be asked when `mine` is gone
thread_local Mine mine;

Mine::~Mine() {
    ended = true;
    for (std::size_t i = 0; i < kClasses; ++i) hand_over(classes[i], i, classes[i].count);
}

// Takes a handful from the shared list, which gets a new sheet of them when it is empty.
void fetch(Kept& kept, std::size_t index) {
    Shared& list = shared()[index];
    const std::lock_guard guard(list.mutex);
    if (list.first == nullptr) {
        const std::size_t size = (index + 1) * kStep;
        auto* const sheet = static_cast<std::byte*>(::operator new(kSheet* size));
        for (std::size_t i = 0; i < kSheet; ++i) {
            auto* const frame = reinterpret_cast<Free*>(sheet + i * size);
            frame->next = list.first;
            list.first = frame;
        }
    }
    while (kept.count < kHandful && list.first != nullptr) {
        Free* const frame = list.first;
        list.first = frame->next;
        frame->next = kept.first;
        kept.first = frame;
        ++kept.count;
    }
}

}  // namespace

void* take_frame(std::size_t size) {
    const std::size_t index = (size - 1) / kStep;
    if (!kPooling || index >= kClasses) return ::operator new(size);
    Kept late;  // a thread that is past the end of its own lists gets one frame, and leaves the rest where it was
    Kept& kept = ended ? late : mine.classes[index];
    if (kept.first == nullptr) fetch(kept, index);
    Free* const frame = kept.first;
    kept.first = frame->next;
    --kept.count;
    if (ended) hand_over(late, index, late.count);
    return frame;
}

void give_frame(void* frame, std::size_t size) noexcept {
    const std::size_t index = (size - 1) / kStep;
    if (!kPooling || index >= kClasses) {
        ::operator delete(frame);
        return;
    }
    auto* const free = static_cast<Free*>(frame);
    Kept late;
    Kept& kept = ended ? late : mine.classes[index];
    free->next = kept.first;
    kept.first = free;
    if (++kept.count > kKept || ended) hand_over(kept, index, ended ? 1 : kHandful);
}

}  // namespace kvfs::uring
