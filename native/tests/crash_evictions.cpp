#include "tests/crash_evictions.hpp"

namespace kvfs::crash {

void Evictions::watch(store::Store& store) {
    store.set_inode_hook([this](std::uint64_t ino) { on_hook(ino); });
}

void Evictions::add(std::uint64_t ino, History& history, Digest file) {
    const std::lock_guard guard(mutex_);
    files_[ino] = {&history, file, 0, false, std::nullopt};
}

void Evictions::hold(std::uint64_t ino, int by) {
    const std::lock_guard guard(mutex_);
    if (const auto it = files_.find(ino); it != files_.end()) it->second.holds += by;
}

void Evictions::leaves(Digest file) {
    const std::lock_guard guard(mutex_);
    for (auto& [ino, entry] : files_) entry.leaving = entry.leaving || entry.digest == file;
}

std::size_t Evictions::count(const History& history) {
    const std::lock_guard guard(mutex_);
    return history.evictions.size();
}

// Called when a file is evicted, and when its number is let go of, which for an evicted file that nobody looks at is
// right behind. One that its client removes has only the second call, unless it was evicted first.
void Evictions::on_hook(std::uint64_t ino) {
    const std::lock_guard guard(mutex_);
    const auto it = files_.find(ino);
    if (it == files_.end()) return;
    File& file = it->second;
    if (file.leaving && !file.at) {
        file.at = device_.tick();
        return;
    }
    expect_ok(file.holds, 0, "handles and pins of an evicted file");
    file.history->evictions.push_back({file.at ? *file.at : device_.tick(), file.digest});
    files_.erase(it);
}

}  // namespace kvfs::crash
