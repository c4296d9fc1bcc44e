// Scrubbing: reading everything that is live, at prefetch's priority, to find what the medium has lost before somebody
// wants it.
//
// A pass walks the inodes by number and every file from its first block to its last; then it reads the superblocks, the
// checkpoint and the log. What does not verify goes as it does on a read: counted, logged, the file dropped. Damaged
// metadata costs a running volume nothing, it is all in memory: a new checkpoint replaces it.
//
// Concurrency: one thread, which the commands below start and end; its state is guarded by `mutex_`, a leaf lock that
// is never held across I/O or while the store's mutex is taken. Files may change and go while they are walked: a piece
// is planned under the store's mutex, which pins its segments against reuse, and read and verified without it; a file
// is dropped only when it still refers to what was read (Store::drop_corrupt). What is on its way to the device is left
// out, it was written just now. Files that come into being behind the cursor are the next pass's.
//
// The position outlives the command, the mount and the process: it is kept in the log as an attribute of the root
// directory that no client can see (kScrubRecord), at the end of a run and every half minute of it. A crash sets a pass
// back by no more than that.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <thread>

#include "store/inodes.hpp"
#include "uring/buffers.hpp"

namespace kvfs::store {

class Store;

inline constexpr std::string_view kHiddenPrefix = "trusted.kvfs.";  // attributes of the store's own
inline constexpr std::string_view kScrubRecord = "trusted.kvfs.scrub";

// Counts of one pass, over all its runs.
struct ScrubTally {
    std::uint64_t files = 0;
    std::uint64_t bytes = 0;       // of files, verified or not
    std::uint64_t damaged = 0;     // granules, superblocks and frames that did not verify
    std::uint64_t dropped = 0;     // files
    std::uint64_t unreadable = 0;  // requests that the device failed
};

struct ScrubStatus {
    bool running = false;
    InodeNumber next = 0;          // the inode that a run begins with; 0: no pass is under way
    std::uint64_t rate = 0;        // bytes a second at most; 0: unlimited
    std::uint64_t expected = 0;    // bytes of the whole pass, by what is live now
    ScrubTally tally;              // of this pass, or of the last one when none is under way
    std::int64_t started_ns = 0;   // of the pass, since 1970
    std::int64_t finished_ns = 0;  // of the last complete pass; 0: never
    std::uint64_t passes = 0;      // complete ones
};

struct ScrubReads;

class Scrubber {
public:
    // Reads the position that an earlier mount has left.
    explicit Scrubber(Store& store);
    ~Scrubber() { stop(); }
    Scrubber(const Scrubber&) = delete;
    Scrubber& operator=(const Scrubber&) = delete;

    // Begins a pass, or goes on with one; a run under way takes the new rate.
    void start(std::uint64_t rate);
    // Returns when the thread has ended (at most a request later). The position is kept.
    void stop();
    // stop(), and the next start() begins at the beginning.
    void cancel();
    ScrubStatus status();

    // One file, now, on the calling thread; what does not verify is dropped. For repairs.
    ScrubTally verify(InodeNumber ino);

private:
    void end_thread();
    void run();
    bool scrub_file(InodeNumber ino, ScrubTally& tally);
    bool scrub_piece(InodeNumber ino, std::uint64_t& at, ScrubTally& tally);
    void scrub_metadata(ScrubTally& tally);
    bool is_metadata_whole(ScrubTally& tally, bool count);
    bool pace(std::uint64_t bytes);
    void publish(InodeNumber next, const ScrubTally& tally);
    void load();
    void save();

    Store& store_;
    std::shared_ptr<ScrubReads> reads_;  // the thread's, and the device's while it has them
    std::mutex commands_;                // start, stop and cancel come one at a time; taken before mutex_
    std::mutex mutex_;
    std::condition_variable wake_;
    std::thread thread_;
    bool stop_ = false;
    ScrubStatus status_;
};

}  // namespace kvfs::store
