#include "splitter/handles.hpp"

#include <utility>

namespace kvfs::splitter {

Handles::~Handles() {
    for (const auto& chunk : chunks_) delete chunk.load(std::memory_order_relaxed);
}

std::uint64_t Handles::add(Handle handle) {
    const std::lock_guard guard(mutex_);
    std::uint32_t fh = 0;
    if (!free_.empty()) {
        fh = free_.back();
        free_.pop_back();
    } else {
        if (end_ == kChunk * kChunks) return 0;
        fh = end_++;
        auto& slot = chunks_[fh / kChunk];
        // release: whoever finds the chunk finds it constructed
        if (slot.load(std::memory_order_relaxed) == nullptr) slot.store(new Chunk, std::memory_order_release);
    }
    handle.in_use = true;
    (*chunks_[fh / kChunk].load(std::memory_order_relaxed))[fh % kChunk] = std::move(handle);
    count_.fetch_add(1, std::memory_order_relaxed);
    return fh;
}

Handle* Handles::find(std::uint64_t fh) const {
    if (fh >= kChunk * kChunks) return nullptr;
    Chunk* const chunk = chunks_[fh / kChunk].load(std::memory_order_acquire);
    if (chunk == nullptr || !(*chunk)[fh % kChunk].in_use) return nullptr;
    return &(*chunk)[fh % kChunk];
}

Handle Handles::remove(std::uint64_t fh) {
    const std::lock_guard guard(mutex_);
    Handle& entry = (*chunks_[fh / kChunk].load(std::memory_order_relaxed))[fh % kChunk];
    count_.fetch_sub(1, std::memory_order_relaxed);
    free_.push_back(static_cast<std::uint32_t>(fh));
    return std::exchange(entry, Handle{});
}

}  // namespace kvfs::splitter
