// What happens when the device fails, and how a volume comes back from that.
//
// A read or write of file data that fails is that file's affair: EIO to whoever asked, everything else goes on. A write
// or flush that the log, a checkpoint or the superblock needs is everybody's: after it nobody can say what the device
// holds, and the volume is read-only from then on. What was fsynced before is safe: it lies in front of the
// place that failed, and nothing there is touched until recover() is through. Who asks for recover() is a person, or,
// where the device is well and only the path to it was lost, kvfs/fs/paths.py.
//
// recover() is the committer's work, on the committer's thread, in this order; each step may fail, and then the volume
// stays as it was and can be told to recover again:
//   1. Every write and flush that the device still has comes back, or nothing happens: one that arrived late would land
//      in what is written next.
//   2. A look at who owns the volume (ownership.hpp): another host may have taken it while this one could not reach it.
//   3. A flush, to see that the device takes them again.
//   4. After a failed flush the drive may have lost what it had taken before. What was written since the last flush
//      that succeeded is read again and verified; a file that does not verify is dropped. None of it was ever promised
//      to last.
//   5. Headers of data segments that could not be written are written.
//   6. A new log segment, and a checkpoint of what is in memory, which is all that anybody was told was done. The
//      superblock's write is the moment of truth: a crash before it brings back the old checkpoint and log.
//   7. The old log's segments are free again, and the volume is writable.
//
// A volume that another host has taken is kFenced (ownership.hpp), and recover() is no way out of that. What a mount of
// it was told was done, and did not make durable, is lost.
//
// Records that were waiting for the log when it failed are in the checkpoint, as memory has their effect already.
#pragma once

#include <cstdint>
#include <string>

namespace kvfs::store {

enum class Condition : std::uint8_t { kHealthy, kReadOnly, kRecovering, kFenced };

// Guarded by the store's mutex.
struct HealthState {
    Condition condition = Condition::kHealthy;
    bool is_recovery_wanted = false;
    int error = 0;            // the negative errno that made the volume read-only
    std::string reason;       // one line, empty when healthy
    std::string last_answer;  // why the last recover() failed; empty when it did not
    std::int64_t since_ns = 0;
    std::uint64_t failures = 0, recoveries = 0, failed_recoveries = 0, verified_blocks = 0;
};

// A picture of it.
struct Health {
    HealthState state;
    std::uint64_t answers_given_up = 0;  // clients that got EIO because the device did not answer in time
    std::uint64_t still_unanswered = 0;  // of those, whose requests the device has even now
    std::int64_t oldest_request_ns = 0;  // age of the oldest request at the device
};

}  // namespace kvfs::store
