// What a store evicted while its clients were at work, noted in the instant in which it says so.
//
// An eviction changes a client's directory without the client: on another thread, between or during its operations. It
// is part of the directory's history all the same, as exactly as an operation is: a file that is missing after a crash
// is only excused where the store had evicted it, and one that is there again is not where an fsync came after that.
//
// The store calls the hook under its own mutex, before it logs the eviction; a client says what it puts there before
// anybody can evict it. Locks: the store's, then this one, then the device's.
#pragma once

#include <map>
#include <optional>

#include "tests/crash_client.hpp"

namespace kvfs::crash {

class Evictions {
public:
    explicit Evictions(MemoryDevice& device) : device_(device) {}

    // From here on until the store is closed.
    void watch(store::Store& store);

    // `ino` is a file that may be evicted from now on.
    void add(std::uint64_t ino, History& history, Digest file);
    // Its client keeps it from being evicted, by a handle or by a pin; each as often as it lets go again.
    void hold(std::uint64_t ino, int by);
    // Its client is about to remove it or to put another in its place.
    void leaves(Digest file);
    // Of that directory, so far.
    std::size_t count(const History& history);

private:
    struct File {
        History* history;
        Digest digest;
        int holds = 0;
        bool leaving = false;
        std::optional<Time> at;  // of the first call for a file that leaves
    };
    void on_hook(std::uint64_t ino);

    MemoryDevice& device_;
    std::mutex mutex_;
    std::map<std::uint64_t, File> files_;
};

}  // namespace kvfs::crash
