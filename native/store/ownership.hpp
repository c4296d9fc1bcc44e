// Which host a volume belongs to, and how a host notices that it does so no longer.
//
// A volume on a shared fabric can be reached by many hosts, and one of them writes. A lock of the kernel (flock,
// O_EXCL) keeps the processes of one host apart; between hosts there are two things:
//   a reservation   of the NVMe target, where it has them (kvfs/fabric/reservations.py): the target refuses the
//                   writes of everybody else, those included that were sent before and arrive late;
//   the record      on the volume itself, always: the superblock names its host and has an epoch, and two blocks
//                   beside it (format::HostMark) say what the superblock cannot, as it is rewritten by its owner.
//
// The volume belongs to the host that the highest epoch names, be it in a superblock or in the claim. A mount for
// writing is refused to every other host unless the last one closed it in order; a mount takes an epoch above both. It
// asks once more just before its first write, which is its superblock: recovery may take longer than a takeover.
// The owner of epoch E, once a second, on a thread of its own (a device that is slow to read must not hold up the log):
//   1. reads superblocks and claim. An epoch above E, E under another host's name, or another volume's superblock:
//      it has lost the volume. It is fenced: read-only for good, and nothing is sent to the device from then on;
//   2. writes its beat, with a count. Whoever watches two of them apart knows that the owner lives.
// The same look precedes each superblock. Frames of the log are written no later than kLease after a look that found
// all well; longer than that without one, and the log counts as failed. All of it ends up in one place: whoever finds
// the volume lost calls fence(), and what sends changes to the device asks is_fenced() first.
//
// To take a volume over without a reservation (kvfs/store/ownership.py; the idea is the delta lease of sanlock, and of
// Chockler and Malkhi, "Light-Weight Leases for Storage-Centric Coordination"): write the claim, with an epoch above
// all that are there; wait until the owner's beat says that it yields, or for longer than kLease; see that the claim is
// still one's own. A claim is one block: it is there or not, and until it is, nothing has happened.
//
// Who dies when:
//   the owner            Its host mounts again at once (the kernel let go of the lock). Another host takes over.
//   the owner's host mounts again while another one takes over      Whoever wrote last of superblock and claim has
//                        it: the mount is refused by the claim, or the claimant finds the superblock, and gives up.
//   the claimant, before its claim       Nothing has happened.
//   the claimant, after its claim        The volume is the claimant's host's; the old owner is fenced. The same host
//                        mounts it, any other takes it over again, the old owner too.
//   the claimant, between a reservation taken and its claim     The old owner's next beat is refused by the target: it
//                        is fenced. No host's mount is let in but by another takeover.
//   the new owner, in its first mount    As any crash: epochs only grow, so the old owner stays fenced.
//   an owner that sleeps (SIGSTOP, a VM that is suspended) through a takeover       It looks before it goes on with the
//                        log, as its last look is older than kLease. One request that had passed its look may still
//                        be sent, as may what the kernel's initiator kept while the path was down.
// That last one only a reservation prevents. Without one such a late write may hit a segment that the new owner has
// taken into use: every byte of data is verified when it is read, so it costs a file (a miss), never wrong bytes; a log
// that was hit is refused, and `kvfsctl fsck --repair` keeps the rest. A late superblock has the lower epoch, and does
// not count; the first mount after a takeover writes a checkpoint before anything else, so that the old owner's log is
// no part of the volume any more.
//
// What the old owner had acknowledged and not made durable is lost, as when a device is lost. What it can still read it
// verifies; once the new owner has used a segment again, the old one's reads of it fail with EIO.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "format/superblock.hpp"

namespace kvfs::store {

using OwnerClock = std::chrono::steady_clock;

inline constexpr std::chrono::milliseconds kLookInterval{1000};
inline constexpr std::chrono::milliseconds kLease{5000};
inline constexpr std::size_t kOwnerBytes = format::kSuperblockB + format::kBlock;  // from 0 on: all that is looked at

inline constexpr const char* kRefusedByTarget = "the target refuses writes, as another host has reserved the namespace";

// What the blocks from 0 to kOwnerBytes say; those that are no sound ones of this volume are left out.
struct OwnerRecord {
    std::optional<format::HostMark> beat, claim;
    std::array<std::optional<format::Superblock>, 2> superblocks;  // A, B, whichever volume they are of
};
OwnerRecord read_owner_record(const std::byte* data, const format::Uuid& uuid);

// What a mount for writing holds; does not change while it lives.
struct Holding {
    format::Uuid uuid{}, host{};
    std::uint64_t epoch = 0;
    std::string host_name, owner;
};

// Who took the volume from the holder of `mine`, in words; empty: nobody has.
std::string who_took(const OwnerRecord& record, const Holding& mine);

// Guarded by the store's mutex.
struct OwnershipState {
    bool is_watched = false;  // a host was named when the volume was opened
    bool has_yielded = false;
    bool is_taker_known = false;
    OwnerClock::time_point last_look;  // that found all well
    std::uint64_t looks = 0, failed_looks = 0, beats = 0;
};

}  // namespace kvfs::store
