#include "store/scrub.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>

#include "format/superblock.hpp"
#include "store/granule.hpp"
#include "store/log_scan.hpp"
#include "store/store.hpp"

namespace kvfs::store {

// One round of reads. Shared with the task that waits for the device, which may have to wait for longer than the
// thread.
struct ScrubReads {
    explicit ScrubReads(uring::Buffer memory) : buffer(std::move(memory)) {}
    struct Read {
        const Granule* granule;  // the thread's
        std::uint64_t device = 0;
        std::size_t bytes = 0;
        int result = -ETIMEDOUT;
    };
    uring::Buffer buffer;
    std::vector<Read> reads;
};

namespace {

uring::Async<int> send_reads(uring::Ring& ring, std::shared_ptr<ScrubReads> round) {
    uring::Batch batch(ring, uring::Priority::kPrefetch);
    std::byte* at = round->buffer.data();
    for (const auto& read : round->reads) {
        batch.add(uring::OpKind::kRead, at, read.bytes, read.device);
        at += read.bytes;
    }
    const int rc = co_await batch;
    for (std::size_t n = 0; n < round->reads.size(); ++n) round->reads[n].result = batch.ops()[n].result;
    co_return rc;
}

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::uint64_t kPieceBlocks = 256;  // 1 MiB of a file, planned and read at a time
constexpr std::uint64_t kMostBlocks = kMaxFileBytes / kBlock;
constexpr auto kSaveInterval = 30s;
constexpr std::uint64_t kRecordVersion = 1;
constexpr int kMetadataRounds = 3;  // superblocks A and B are written in turn: two checkpoints rewrite both

// Where a chain of frames goes on.
class Follower final : public format::RecordVisitor {
public:
    std::optional<LogPosition> target;

private:
    void next(std::uint64_t segment, std::uint64_t generation) override {
        target = LogPosition{segment, generation, kBlock, 0};
    }
};

}  // namespace

Scrubber::Scrubber(Store& store) : store_(store) { load(); }

void Scrubber::start(std::uint64_t rate) {
    const std::lock_guard one(commands_);
    std::unique_lock guard(mutex_);
    status_.rate = rate;
    wake_.notify_all();
    if (status_.running) return;
    guard.unlock();
    end_thread();  // one that is through
    guard.lock();
    if (status_.next == 0) {
        status_.next = kRoot;
        status_.tally = {};
        status_.started_ns = Store::now_ns();
    }
    stop_ = false;
    status_.running = true;
    thread_ = std::thread([this] { run(); });
}

void Scrubber::stop() {
    const std::lock_guard one(commands_);
    end_thread();
}

void Scrubber::end_thread() {
    {
        const std::lock_guard guard(mutex_);
        stop_ = true;
        wake_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
}

void Scrubber::cancel() {
    const std::lock_guard one(commands_);
    end_thread();
    {
        const std::lock_guard guard(mutex_);
        status_.next = 0;
    }
    save();
}

ScrubStatus Scrubber::status() {
    std::uint64_t live = 0;
    {
        const std::lock_guard guard(store_.mutex_);
        live = store_.segments_.live_blocks() * kBlock;
    }
    const std::lock_guard guard(mutex_);
    ScrubStatus out = status_;
    out.expected = out.next == 0 ? out.tally.bytes : std::max(live, out.tally.bytes);
    return out;
}

void Scrubber::run() {
    InodeNumber ino = 0;
    ScrubTally tally;
    {
        const std::lock_guard guard(mutex_);
        ino = status_.next;
        tally = status_.tally;
    }
    auto saved = Clock::now();
    bool go_on = true;
    for (;; ++ino) {
        {
            const std::lock_guard guard(store_.mutex_);
            // to the next file; a million of other numbers are passed in milliseconds
            while (ino < store_.inodes_.end()) {
                const Inode* inode = store_.inodes_.find(ino);
                if (inode != nullptr && inode->is_regular()) break;
                ++ino;
            }
            if (ino >= store_.inodes_.end()) break;
        }
        publish(ino, tally);
        go_on = scrub_file(ino, tally);
        if (!go_on) break;
        if (Clock::now() - saved >= kSaveInterval) {
            publish(ino + 1, tally);
            save();
            saved = Clock::now();
        }
    }
    if (go_on) scrub_metadata(tally);
    publish(go_on ? 0 : ino, tally);
    {
        const std::lock_guard guard(mutex_);
        if (go_on) {
            ++status_.passes;
            status_.finished_ns = Store::now_ns();
        }
    }
    save();
    const std::lock_guard guard(mutex_);
    status_.running = false;
}

// False when the run is to end; then the file is the next run's to begin with.
bool Scrubber::scrub_file(InodeNumber ino, ScrubTally& tally) {
    const ScrubTally before = tally;
    for (std::uint64_t at = 0;;) {
        const std::uint64_t bytes = tally.bytes;
        if (!scrub_piece(ino, at, tally)) break;
        publish(ino, tally);
        if (pace(tally.bytes - bytes)) continue;
        // counted when it is read again; what was found wrong in it is gone by then
        tally.bytes = before.bytes;
        return false;
    }
    ++tally.files;
    return true;
}

// Reads and verifies what lies in the next kPieceBlocks blocks from `at` on that hold data, and moves `at` behind them.
// False when there are none, or no file to have them any more.
bool Scrubber::scrub_piece(InodeNumber ino, std::uint64_t& at, ScrubTally& tally) {
    Plan plan;
    {
        const std::lock_guard guard(store_.mutex_);
        const Inode* inode = store_.inodes_.find(ino);
        if (inode == nullptr || !inode->is_regular()) return false;
        const std::uint64_t from = store_.next_block(*inode, nullptr, at, kMostBlocks, true);
        if (from >= kMostBlocks) return false;
        at = from + kPieceBlocks;
        if (const auto file = store_.find_file(ino); file && store_.is_on_its_way(*file, from, at)) return true;
        store_.plan_read(*inode, from, at, plan);
    }
    bool dropped = false;
    for (std::size_t i = 0; i < plan.size() && !dropped;) {
        if (!reads_) reads_ = std::make_shared<ScrubReads>(uring::Buffer::heap(kPieceBlocks * kBlock));
        auto& reads = reads_->reads;
        reads.clear();
        std::uint64_t filled = 0;
        for (; i < plan.size(); ++i) {
            const Granule& granule = plan[i];
            // of a run that was overwritten in part, several views may need the same granule
            const bool again = !reads.empty() && reads.back().granule->key() == granule.key();
            if (!again && filled + granule.blocks > kPieceBlocks) break;
            tally.bytes += granule.wanted * kBlock;
            if (again) continue;
            reads.push_back({&granule, store_.device_offset(granule.segment, granule.block), granule.blocks * kBlock});
            filled += granule.blocks;
        }
        if (store_.wait_for(send_reads(store_.rings_->here(), reads_)) == -ETIMEDOUT) {
            reads_.reset();  // the device's now
            ++tally.unreadable;
            store_.say(40, "scrub: inode " + std::to_string(ino) + ": the device has not answered in time");
            break;
        }
        const std::byte* data = reads_->buffer.data();
        for (std::size_t n = 0; n < reads.size() && !dropped; data += reads[n].bytes, ++n) {
            const Granule& granule = *reads[n].granule;
            if (const int error = reads[n].result; error < 0) {
                ++tally.unreadable;
                store_.say(40, "scrub: inode " + std::to_string(ino) + " block " + std::to_string(granule.logical) +
                                   ", segment " + std::to_string(granule.segment) + " block " +
                                   std::to_string(granule.block) + ": cannot be read: " + std::strerror(-error));
            } else if (!store_.verify(granule, data)) {
                ++tally.damaged;
                dropped = store_.drop_corrupt(ino, granule, data);
                if (dropped) ++tally.dropped;
            }
        }
    }
    const std::lock_guard guard(store_.mutex_);
    store_.unpin(plan);
    return !dropped;
}

ScrubTally Scrubber::verify(InodeNumber ino) {
    ScrubTally tally;
    for (std::uint64_t at = 0; scrub_piece(ino, at, tally);) {
    }
    return tally;
}

// metadata -------------------------------------------------------------------------------------------

void Scrubber::scrub_metadata(ScrubTally& tally) {
    for (int round = 0; round < kMetadataRounds; ++round) {
        if (is_metadata_whole(tally, round == 0)) return;
        std::unique_lock guard(store_.mutex_);
        if (store_.read_only_) return;
        store_.await_checkpoint(guard, [this] { return store_.read_only_ || store_.stop_; });
    }
}

// Reads what recovery would read. `count`: what is wrong is counted and logged.
bool Scrubber::is_metadata_whole(ScrubTally& tally, bool count) {
    bool whole = true;
    bool is_silent = false;
    // not by a plain call: a device that is silent would keep it, and with it whoever unmounts
    const SegmentReader::Read read = [&](const std::shared_ptr<uring::Buffer>& buffer, std::size_t bytes,
                                         std::uint64_t offset) {
        const int rc = is_silent ? -ETIMEDOUT : store_.read_device(buffer, bytes, offset);
        is_silent = rc == -ETIMEDOUT;
        return rc == 0 ? static_cast<ssize_t>(bytes) : ssize_t{rc};
    };
    const auto give_up = [&] {
        ++tally.unreadable;
        store_.say(40, "scrub: metadata: the device has not answered in time");
        return true;  // a checkpoint would make nothing whole
    };
    const auto complain = [&](const std::string& what) {
        whole = false;
        if (!count) return;
        ++tally.damaged;
        store_.say(40, "scrub: " + what + "; a new checkpoint replaces it");
    };
    {
        const std::lock_guard guard(store_.superblock_mutex_);
        const auto block = std::make_shared<uring::Buffer>(uring::Buffer::heap(kBlock));
        for (const std::uint32_t copy : {0U, 1U, 2U}) {
            const std::uint64_t offset = format::superblock_offset(copy, store_.sb_.size);
            const std::string name =
                std::string("superblock ") + format::copy_name(copy) + " at byte " + std::to_string(offset);
            const ssize_t got = read(block, kBlock, offset);
            if (is_silent) return give_up();
            if (got < 0) {
                complain(name + " cannot be read");
                continue;
            }
            format::Superblock found{};
            std::memcpy(&found, block->data(), sizeof found);
            if (const auto check = format::check_superblock(found); check.fault != format::Fault::kValid) {
                complain(name + ": " + check.problem);
            }
        }
    }
    // a checkpoint that is written meanwhile sets segments free that are being read here: then it is all looked at anew
    for (;;) {
        LogPosition checkpoint;
        LogPosition log;
        std::uint64_t log_end = 0;
        {
            const std::lock_guard guard(store_.mutex_);
            const format::Superblock& sb = store_.sb_;
            checkpoint = {sb.checkpoint_segment, sb.checkpoint_generation, kBlock, 1};
            log = {sb.log_segment, sb.log_generation, sb.log_offset, sb.log_sequence};
            log_end = store_.log_position_.sequence;
        }
        // the place of the first frame that is not whole
        const auto walk = [&](LogPosition at, std::optional<std::uint64_t> end) -> std::optional<LogPosition> {
            while (!end || at.sequence < *end) {
                if (at.segment >= store_.sb_.segment_count) return at;
                SegmentReader reader(read, store_.sb_, static_cast<SegmentId>(at.segment));
                Follower follower;
                while (!follower.target && (!end || at.sequence < *end)) {
                    const auto frame = read_frame(reader, {store_.sb_.uuid, at.generation, at.sequence, at.offset});
                    if (!frame || !format::read_records(frame->payload, follower)) return at;
                    ++at.sequence;
                    at.offset += format::frame_bytes(frame->header.payload_bytes);
                    if (!end && (frame->header.flags & format::kCheckpointEnd) != 0) return std::nullopt;
                }
                if (follower.target) {
                    at.segment = follower.target->segment;
                    at.generation = follower.target->generation;
                    at.offset = kBlock;
                }
            }
            return std::nullopt;
        };
        const auto bad_checkpoint =
            checkpoint.segment == format::kNoSegment ? std::nullopt : walk(checkpoint, std::nullopt);
        const auto bad_log = walk(log, log_end);
        if (is_silent) return give_up();
        {
            const std::lock_guard guard(store_.mutex_);
            if (store_.sb_.checkpoint_generation != checkpoint.generation) continue;
        }
        const auto place = [](const LogPosition& at) {
            return "frame " + std::to_string(at.sequence) + " in segment " + std::to_string(at.segment) + " at byte " +
                   std::to_string(at.offset) + " cannot be read back";
        };
        if (bad_checkpoint) complain("the checkpoint's " + place(*bad_checkpoint));
        if (bad_log) complain("the log's " + place(*bad_log));
        return whole;
    }
}

// time and place ----------------------------------------------------------------------------------------

// After `bytes` were read: waits for as long as the rate asks. False when the run is to end.
bool Scrubber::pace(std::uint64_t bytes) {
    const auto began = Clock::now();
    std::unique_lock guard(mutex_);
    while (!stop_ && status_.rate != 0) {
        const std::uint64_t rate = status_.rate;
        const auto due = began + std::chrono::nanoseconds(bytes * 1'000'000'000 / rate);
        // a new rate counts at once
        if (!wake_.wait_until(guard, due, [&] { return stop_ || status_.rate != rate; })) break;
    }
    return !stop_;
}

void Scrubber::publish(InodeNumber next, const ScrubTally& tally) {
    const std::lock_guard guard(mutex_);
    status_.next = next;
    status_.tally = tally;
}

void Scrubber::load() {
    const std::lock_guard guard(store_.mutex_);
    const auto found = store_.inodes_.xattrs.find(kRoot);
    if (found == store_.inodes_.xattrs.end()) return;
    for (const auto& [name, value] : found->second) {
        if (name != kScrubRecord) continue;
        std::array<std::uint64_t, 10> at{};
        const char* next = value.data();
        const char* const end = next + value.size();
        for (std::uint64_t& field : at) {
            const auto [stop, error] = std::from_chars(next, end, field);
            if (error != std::errc{}) return;
            next = stop == end ? end : stop + 1;  // a space
        }
        if (at[0] != kRecordVersion) return;
        status_.next = static_cast<InodeNumber>(at[1]);
        status_.tally = {at[2], at[3], at[4], at[5], at[6]};
        status_.started_ns = static_cast<std::int64_t>(at[7]);
        status_.finished_ns = static_cast<std::int64_t>(at[8]);
        status_.passes = at[9];
    }
}

void Scrubber::save() {
    std::string value = std::to_string(kRecordVersion);
    {
        const std::lock_guard guard(mutex_);
        const ScrubTally& t = status_.tally;
        for (const std::uint64_t each : {std::uint64_t{status_.next}, t.files, t.bytes, t.damaged, t.dropped,
                                         t.unreadable, static_cast<std::uint64_t>(status_.started_ns),
                                         static_cast<std::uint64_t>(status_.finished_ns), status_.passes}) {
            value += ' ' + std::to_string(each);
        }
    }
    const std::lock_guard guard(store_.mutex_);
    Inode& root = *store_.inodes_.find(kRoot);
    if (store_.read_only_ || !root.has(kLogged)) return;
    auto& list = store_.inodes_.xattrs[kRoot];
    const auto it = std::find_if(list.begin(), list.end(), [](const auto& pair) { return pair.first == kScrubRecord; });
    if (it == list.end()) {
        list.emplace_back(kScrubRecord, value);
        store_.inodes_.xattr_bytes += kScrubRecord.size() + value.size() + 24;
    } else {
        it->second = value;
    }
    root.set(kHasXattrs);
    store_.log_.writer().xattr_set(kRoot, kScrubRecord, value);
    store_.log_.commit();
}

}  // namespace kvfs::store
