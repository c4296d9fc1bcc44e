// One mounted KVFS1 volume.
//
// Threads. Callers (Python's, the splitter's) run the synchronous calls and start the asynchronous ones. The rings'
// reapers finish them. The committer writes the log and checkpoints. The cleaner brings space back and trims it
// (cleaner.cpp). The sweeper removes what has had its time (sweep.hpp). The evictor keeps some room free of live data
// (eviction.hpp). All of them take `mutex_` for instants; nobody holds it across I/O. Lock order: a File's lock, then
// `mutex_`, then a leaf lock of uring/.
//
// When a thread dies here the process dies with it (an escaped exception terminates): recovery is the answer, there is
// no half-alive state. When the device fails: reads and flushes return EIO; a failed log write turns the volume
// read-only, because nothing can be promised any more (health.hpp). When it does not answer, the clients are answered
// for it in time (answers.cpp, uring/patience.hpp), and the committer takes that as a failure too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "format/checksum.hpp"
#include "format/format.hpp"
#include "store/damage.hpp"
#include "store/eviction.hpp"
#include "store/file.hpp"
#include "store/granule.hpp"
#include "store/health.hpp"
#include "store/inodes.hpp"
#include "store/log.hpp"
#include "store/moving.hpp"
#include "store/names.hpp"
#include "store/ownership.hpp"
#include "store/physical.hpp"
#include "store/quota.hpp"
#include "store/segments.hpp"
#include "store/settings.hpp"
#include "uring/async.hpp"
#include "uring/buffers.hpp"
#include "uring/patience.hpp"
#include "uring/plain.hpp"
#include "uring/rings.hpp"

namespace kvfs::store {

using uring::Async;
using uring::Buffer;

class Scrubber;

struct Attributes {
    std::uint64_t ino, generation;
    std::uint32_t mode, nlink, uid, gid, rdev;
    std::uint64_t size, blocks;
    std::int64_t atime_ns, mtime_ns, ctime_ns;
};

enum SetFields : std::uint32_t {
    kSetMode = 1,
    kSetUid = 2,
    kSetGid = 4,
    kSetAtime = 8,
    kSetMtime = 16,
    kSetAtimeNow = 32,
    kSetMtimeNow = 64,
};

enum RenameFlags : std::uint32_t { kRenameNoReplace = 1, kRenameExchange = 2 };

struct Options {
    bool read_only = false;
    bool exclusive = true;  // take the volume's lock and, unless read_only, its superblock
    bool salvage = false;   // damaged metadata is no reason to refuse: use what is left of it (fsck)
    bool evict = false;     // drop cold files rather than refuse a write
    std::string owner;      // JSON, kept in the superblock
    format::Uuid host{};    // who opens it (ownership.hpp); all zero: whoever, and nothing is watched
    std::string host_name;
    // Of a mount for writing: called with the locked device before anything is read; what it throws comes out of the
    // constructor.
    std::function<void(int fd)> on_locked;
    std::size_t buffer_bytes = 0;
    std::size_t cache_bytes = 0;
    unsigned rings = 0;                      // 0: by the number of cores
    uring::Tap* tap = nullptr;               // sees every request to the device, outlives the store
    std::int64_t sweep_after_ns = 0;         // until an orphaned temporary file is removed; 0: never (sweep.hpp)
    std::chrono::nanoseconds io_timeout{0};  // 0: what the device does not answer is waited for without end
};

// Verified bytes [offset, offset + size) of a buffer.
struct ReadResult {
    Buffer buffer;
    std::size_t offset = 0;
    std::size_t size = 0;
};

struct LogEvent {
    int level;
    std::string text;
};
struct DropEvent {
    InodeNumber parent;
    std::string name;
};
using Event = std::variant<LogEvent, DropEvent>;

// A failure to open, with the errno and one line for a person.
class OpenError : public std::runtime_error {
public:
    OpenError(int error, const std::string& text) : std::runtime_error(text), error_(error) {}
    [[nodiscard]] int error() const { return error_; }

private:
    int error_;
};

struct Counters {
    std::atomic<std::uint64_t> reads{0}, read_bytes{0}, writes{0}, write_bytes{0}, lookups{0}, lookup_misses{0},
        creates{0}, unlinks{0}, renames{0}, flushes{0}, fsyncs{0}, checksum_errors{0}, files_dropped{0}, read_errors{0},
        write_errors{0}, log_frames{0}, log_bytes{0}, checkpoints{0}, checkpoint_bytes{0}, cleaned_segments{0},
        moved_blocks{0}, cut_blocks{0}, surveys{0}, recycled_segments{0}, trimmed_segments{0}, cache_hits{0},
        cache_misses{0}, read_ahead{0}, enospc{0}, settings_refused{0}, quota_refused{0}, sweeps{0}, orphans_removed{0},
        expired_removed{0}, swept_bytes{0}, device_full{0};
};

// Errors of metadata and data calls are negative errnos, as liburing has them.
class Store {
public:
    Store(const std::string& path, const Options& options);
    ~Store();
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;
    // 0, or what may have been lost: -EIO when the log could not be written to its end, -ETIMEDOUT when the device did
    // not answer. After that this must not be destroyed if is_abandoned(): a thread still waits for the device.
    int close();
    [[nodiscard]] bool is_abandoned() const { return abandoned_; }

    // namespace.cpp ----------------------------------------------------------------
    // `client`: who asks (a process, a thread), for the eviction policy; 0 when nobody in particular.
    // Of an inode that was evicted while the kernel knew its number: -ESTALE, here and in all that takes a number.
    int lookup(std::uint64_t parent, std::string_view name, Attributes& out,
               std::uint32_t client = 0);  // -ENOENT when absent
    int getattr(std::uint64_t ino, Attributes& out);
    struct SetAttributes {
        std::uint32_t fields = 0, mode = 0, uid = 0, gid = 0;
        std::int64_t atime_ns = 0, mtime_ns = 0;
        std::uint32_t client = 0;
    };
    int setattr(std::uint64_t ino, const SetAttributes& set, Attributes& out);
    int make(std::uint64_t parent, std::string_view name, std::uint32_t mode, Owner owner, std::string_view target,
             bool defer_log, Attributes& out);
    int readlink(std::uint64_t ino, std::string& out);
    int link(std::uint64_t ino, std::uint64_t parent, std::string_view name, Attributes& out);
    int unlink(std::uint64_t parent, std::string_view name, std::uint64_t& ino);
    int rmdir(std::uint64_t parent, std::string_view name, std::uint64_t& ino);
    Async<int> rename(std::uint64_t parent, std::string name, std::uint64_t new_parent, std::string new_name,
                      std::uint32_t flags, std::uint32_t client = 0);
    void remember(std::uint64_t ino, std::uint32_t count);
    void forget(std::uint64_t ino, std::uint64_t count);
    int parent(std::uint64_t ino);
    int open(std::uint64_t ino, bool write, std::uint32_t client = 0);
    int release(std::uint64_t ino, bool write);
    int list(std::uint64_t ino, std::vector<NameId>& out);
    // What the entry is now, and with `remember` one more kernel reference to it; false when it is no longer in that
    // directory.
    bool entry(std::uint64_t directory, NameId id, std::string& name, Attributes& out, bool remember);
    void touch_atime(std::uint64_t ino);
    // `caller`: whose rights decide over settings (settings.hpp); nobody's: all of them.
    int setxattr(std::uint64_t ino, std::string_view name, std::string_view value, int flags,
                 std::optional<std::uint32_t> caller = std::nullopt);
    int getxattr(std::uint64_t ino, std::string_view name, std::string& out);
    int listxattr(std::uint64_t ino, std::vector<std::string>& out);
    int removexattr(std::uint64_t ino, std::string_view name, std::optional<std::uint32_t> caller = std::nullopt);
    struct Space {
        std::uint64_t blocks, blocks_free, files, files_free;
    };
    Space space();

    // read.cpp, write.cpp -------------------------------------------------------------
    struct ReadOutcome {
        int error = 0;
        ReadResult data;
    };
    Async<ReadOutcome> read(std::uint64_t ino, std::uint64_t offset, std::size_t size);
    // Fills all of `out` with what the file holds from `offset` on, verified: `offset` on a block boundary, `out`
    // page-aligned memory of whole blocks. Holes and what lies past the end are zeros. The bytes up to the end of the
    // file, or a negative errno; then `out` may hold anything, and nobody may be shown it.
    // Prefetch stands back behind demand.
    Async<std::int64_t> read_into(std::uint64_t ino, std::uint64_t offset, std::span<std::byte> out,
                                  uring::Priority priority = uring::Priority::kDemand);
    // The same into memory that lives as long as `owner` does: answered in time whatever the device does with it.
    // Without an owner the answer has to wait for the device once it has the memory.
    Async<std::int64_t> read_into(std::uint64_t ino, std::uint64_t offset, std::span<std::byte> out,
                                  uring::Priority priority, std::shared_ptr<const void> owner);
    // A call's answer may come while what does the work is still at it: what it was given must be its own.
    [[nodiscard]] bool may_answer_early() const { return patience_ != nullptr; }
    // Whether the memory of a read_into() may be kept by the device for long.
    [[nodiscard]] bool is_device_slow() const { return patience_ != nullptr && patience_->is_device_slow(); }
    // `data` must stay where it is until the answer.
    Async<std::int64_t> write(std::uint64_t ino, std::uint64_t offset, std::span<const std::byte> data);
    // The same for `size` bytes at buffer.data() + at (on a block boundary in memory, with room up to the next one
    // behind them): large block-aligned ones go to the device from this very buffer.
    Async<std::int64_t> write(std::uint64_t ino, std::uint64_t offset, Buffer buffer, std::size_t at, std::size_t size);
    // Registered buffers of a block, 1 MiB and another block, for requests of the kernel.
    uring::BufferPool& request_pool() { return *request_pool_; }
    // Called when an inode number is let go of for reuse, and when a corrupt file is dropped; under the store's mutex,
    // so it must not call back.
    void set_inode_hook(std::function<void(std::uint64_t ino)> hook);
    Async<int> truncate(std::uint64_t ino, std::uint64_t size);
    Async<int> flush(std::uint64_t ino);
    Async<int> fsync(std::uint64_t ino);
    Async<int> sync();

    // ranges.cpp ------------------------------------------------------------------------
    // `mode` as in fallocate(2): 0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE with or without KEEP_SIZE;
    // -EOPNOTSUPP for all others.
    Async<int> fallocate(std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t length);
    // SEEK_DATA or SEEK_HOLE, by blocks; bytes on their way to the device are data. -ENXIO where there is none.
    Async<std::int64_t> seek(std::uint64_t ino, std::uint64_t offset, int whence);
    // Bytes copied: fewer than `length` at the source's end and after the most that one call may take.
    Async<std::int64_t> copy_range(std::uint64_t ino_in, std::uint64_t offset_in, std::uint64_t ino_out,
                                   std::uint64_t offset_out, std::uint64_t length);

    // settings.cpp, quota.cpp, sweep.cpp --------------------------------------------------
    // Whether the store may remove this file by itself now, and what keeps it from that.
    Keep why_kept(std::uint64_t ino);
    struct QuotaReport {
        std::string path;
        InodeNumber directory;
        Quota quota;
        std::uint64_t counted_blocks, counted_files;  // anew, when that was asked for
    };
    std::vector<QuotaReport> quota_reports(bool recount);
    struct SettingsGauges {
        std::uint64_t quotas, inodes;
    };
    SettingsGauges settings_gauges();
    // All of it at once, as if it were `now`.
    void sweep_now(std::int64_t now);
    // eviction.cpp --------------------------------------------------------------------------
    EvictionStatistics eviction_statistics();

    // events for the log and for the kernel's dentries ------------------------------------
    void set_wakeup(std::function<void()> wakeup);
    std::vector<Event> take_events();
    // A line for the log, by logging's numeric levels.
    void say(int level, std::string text);

    // Of a store that was opened to be used.
    Scrubber& scrubber() { return *scrubber_; }

    [[nodiscard]] const Counters& counters() const { return counters_; }
    [[nodiscard]] const format::Superblock& superblock() const { return sb_; }
    [[nodiscard]] const uring::Rings& rings() const { return *rings_; }
    [[nodiscard]] bool is_read_only() const { return read_only_; }

    // health.cpp --------------------------------------------------------------------------
    [[nodiscard]] Health health();
    // Begins to bring a volume that turned read-only back; health() tells how that goes. 0, -EALREADY (it is at work),
    // -EINVAL (nothing is wrong), -EROFS (the volume was opened read-only).
    int recover();

    // ownership.cpp -----------------------------------------------------------------------
    [[nodiscard]] bool is_fenced() const { return is_fenced_; }
    [[nodiscard]] OwnershipState ownership();

    // physical.cpp ------------------------------------------------------------------------
    // What a look at the device, or at the file system under a store file, found in bytes. `rewrites_in_place`: blocks
    // that were written once keep their space.
    void set_physical(std::uint64_t total_bytes, std::uint64_t free_bytes, bool rewrites_in_place);
    void forget_physical();  // no news: what the store has is what there is
    PhysicalSpace physical_space();

    struct Gauges {
        std::uint64_t files, names, open_files, segments, segments_free, segments_metadata, live_blocks,
            reserved_blocks, capacity_blocks, log_pending_bytes, lsn_appended, lsn_durable, recovery_ns,
            recovered_frames, cut_frames, damaged_superblocks, buffers_idle, buffers;
    };
    Gauges gauges();

private:
    friend class Recovery;
    friend class Checkpoint;
    friend class Checker;
    friend class Repairer;
    friend class Scrubber;
    friend class EvictionHost;
    friend class EvictionJob;

    // store.cpp
    static constexpr std::uint32_t kEndCopy = 2;
    int write_superblock();
    int write_superblock_copy(std::uint32_t copy);
    int write_segment_header(SegmentId id, format::SegmentClass kind);
    void fill_segment_header(SegmentId id, format::SegmentClass kind, std::byte* out) const;
    void raise(Event event);
    std::uint64_t device_offset(SegmentId segment, std::uint64_t block) const {
        return sb_.first_segment + segment * sb_.segment_size + block * format::kBlock;
    }
    static std::int64_t now_ns();

    // namespace.cpp (the mutex is held)
    Attributes attributes(InodeNumber ino, const Inode& inode);
    std::uint32_t link_count(const Inode& inode) const;
    Inode* directory(std::uint64_t ino, int& error);
    NameId add_name(InodeNumber parent, std::string_view name, InodeNumber ino);
    void remove_name(NameId id);
    void touch_directory(InodeNumber ino, std::int64_t now);
    void log_name(NameId id);
    void log_attributes(InodeNumber ino);
    void lose_link(InodeNumber ino, NameId id, std::int64_t now);
    void free_if_unused(InodeNumber ino);
    int rename_locked(std::uint64_t parent, std::string_view name, std::uint64_t new_parent, std::string_view new_name,
                      std::uint32_t flags, std::uint32_t client);
    int check_writable(std::string_view name) const;
    // Of a change to a volume that is read-only.
    [[nodiscard]] int refusal() const { return log_error_ != 0 && !is_fenced() ? -EIO : -EROFS; }
    int find_to_remove(std::uint64_t parent, std::string_view name, NameId& id);
    void expect_metadata();
    bool has_metadata_space();
    std::uint64_t log_limit() const;
    std::uint64_t kept_for_metadata() const;
    void wait_for_log(std::unique_lock<std::mutex>& guard);

    // files with state (the mutex is held)
    class InUse;
    std::shared_ptr<File> file_of(InodeNumber ino);  // makes one
    std::shared_ptr<File> find_file(InodeNumber ino);
    void mark_dirty(File& file);
    void drop_file_if_idle(InodeNumber ino);
    void release_replaced(File& file, std::uint64_t lsn);

    // settings.cpp (the mutex is held)
    struct Effective {
        std::int64_t pinned_until_ns = 0;
        std::int64_t ttl_ns = 0;
        bool evictable = true;
    };
    int may_set(const Inode& inode, std::string_view name, std::optional<std::uint32_t> caller) const;
    int check_setting(InodeNumber ino, std::string_view name, std::string_view value,
                      std::optional<std::uint32_t> caller, std::string& normal);
    void apply_setting(InodeNumber ino, std::string_view name, std::optional<std::string_view> value);
    int get_usage(InodeNumber ino, std::string_view name, std::string& out);
    void complain(InodeNumber ino, const std::string& text);
    void load_settings();
    Effective effective_settings(InodeNumber ino);
    Keep keep_reason(InodeNumber ino);
    std::string path_of(InodeNumber ino);

    // quota.cpp (the mutex is held)
    class Admission;
    QuotaList quotas_in(InodeNumber directory);
    QuotaList quotas_over(InodeNumber ino);
    std::uint64_t blocks_of_file(const Inode& inode, const File* file) const;
    std::uint64_t charged_blocks(InodeNumber ino);
    std::uint64_t used_blocks(InodeNumber ino);
    void charge_new(InodeNumber ino);
    void settle_charge(File& file);
    void recharge(InodeNumber ino, const QuotaList& before);
    void release_charge(InodeNumber ino);
    void count_below(InodeNumber directory, std::uint64_t& blocks, std::uint64_t& files);
    void set_quota(InodeNumber directory, Setting which, std::optional<std::uint64_t> limit);
    static Quota* first_full(const QuotaList& quotas, std::uint64_t blocks, std::uint64_t files);
    int refuse(Quota& quota);
    int check_quotas_of_rename(InodeNumber moved, InodeNumber from, InodeNumber to, bool exchange);
    bool evict_within(const Quota& quota, std::uint64_t blocks, std::uint64_t files);
    void make_rename_fit(std::uint64_t parent, std::string_view name, std::uint64_t new_parent);
    Quota* admit(File& file, std::uint64_t from, std::uint64_t to, std::uint64_t& admitted);

    // sweep.cpp
    void sweeper();
    std::int64_t shortest_life() const;
    void sweep_pass(std::unique_lock<std::mutex>& guard, std::int64_t life);
    void sweep_slice(InodeNumber from, InodeNumber to, std::int64_t now, std::int64_t life);

    // Runs it to its end whoever started it; close() waits for that.
    void in_background(Async<int> task);

    // write.cpp
    class Reservation;
    int writable_file(std::uint64_t ino, InUse& out);
    std::uint64_t blocks_beyond_tail(const File& file, std::uint64_t offset, std::uint64_t size) const;
    void note_written(Inode& inode, File& file, std::uint64_t offset, std::uint64_t end);
    Async<std::int64_t> write_in_place(std::uint64_t ino, std::uint64_t offset, Buffer& buffer, std::size_t at,
                                       std::size_t size);
    Async<int> flush_locked(File& file);
    Async<int> finish_release(InodeNumber ino);
    bool has_space(std::uint64_t blocks);

    // placing.cpp
    bool take_places(std::uint32_t blocks, std::optional<SegmentId>& lease, std::uint64_t floor, Places& out,
                     Stream stream = Stream::kClients);
    void give_up_places(const Places& places);
    void finish_places(const Places& places);
    void open_segments(Places& places);
    Async<int> write_opened(SegmentId segment);
    Async<int> place(File& file, std::uint32_t blocks, Places& places);
    void checksum_places(const Places& places, std::uint64_t logical, const std::byte* data, Pieces& out) const;
    Async<int> write_places(const Places& places, std::byte* data, uring::Priority priority = uring::Priority::kDemand);
    void map_flight(Inode& inode, Flight& flight, Pieces& pieces);
    void launch(std::unique_ptr<Flight> flight);
    Async<int> fly(std::unique_ptr<Flight> flight);
    Async<int> wait_landed(File& file, std::uint64_t from, std::uint64_t to);
    bool is_on_its_way(const File& file, std::uint64_t from, std::uint64_t to) const;

    // tails.cpp
    Async<int> submit_tail(File& file);  // the file's lock is held
    Async<int> load_block(File& file, std::uint64_t block, std::byte* out);
    Async<Buffer> tail_buffer();
    void reclaim_tail();
    void clear_tail(File& file);
    void discard_tail(File& file);
    bool is_settling_due(const File& file) const;
    void settle_tails(std::unique_lock<std::mutex>& guard, std::int64_t now);

    // commit.cpp
    void unmap(Inode& inode, File& file, std::uint64_t from, std::uint64_t to);
    void commit(File& file);  // appends the transaction
    bool is_presentable(const File& file, const Inode& inode) const;
    bool commit_replaced();
    void revert(File& file);
    void log_moved(InodeNumber ino, const Inode& inode, const std::vector<Piece>& pieces);
    void serialise_committed(LogBuffer& out, InodeNumber ino);
    format::InodeBody body_of(InodeNumber ino, const Inode& inode) const;

    // eviction.cpp
    void admit_recovered();
    void note_there(InodeNumber ino, std::uint32_t client);
    void note_use(InodeNumber ino, std::uint32_t client);
    void note_gone(InodeNumber ino);
    std::uint64_t free_blocks() const;
    std::uint64_t low_water() const;
    std::uint64_t high_water() const;
    void evict_file(InodeNumber ino, EvictReason reason);
    Evicted evict_some(std::uint64_t blocks, std::uint64_t files, EvictReason reason,
                       const policy::Policy::Filter& filter);
    bool could_have_space(std::uint64_t blocks);
    bool make_metadata_space();
    void wake_evictor_when_low(std::uint64_t blocks);
    void evictor();
    void evict_ahead(std::unique_lock<std::mutex>& guard, EvictReason reason,
                     const std::function<std::uint64_t()>& wanted);

    // ranges.cpp: make_room and zeroing hold the file's lock, the others the mutex
    Async<int> make_room(File& file, std::uint64_t blocks, std::function<bool()> take);
    Async<int> promise_range(File& file, std::uint64_t offset, std::uint64_t end, bool keep_size);
    Async<int> zero_range(File& file, std::uint64_t offset, std::uint64_t end, bool keep_size, bool keep_space);
    Async<int> zero_edge(File& file, std::uint64_t from, std::uint64_t to);
    Async<int> change_range(std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t end);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> without_space(const File& file, std::uint64_t from,
                                                                       std::uint64_t to);
    std::uint64_t next_block(const Inode& inode, const File* file, std::uint64_t from, std::uint64_t to, bool data);
    void promise(File& file, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& ranges);
    void release_promise(File& file, std::uint64_t from, std::uint64_t to);

    // what answers.cpp gives a deadline; `lender`: of memory that is the caller's
    using Borrowed = uring::Borrowed;
    Async<ReadOutcome> read_now(std::uint64_t ino, std::uint64_t offset, std::size_t size);
    Async<std::int64_t> read_into_now(std::uint64_t ino, std::uint64_t offset, std::span<std::byte> out,
                                      uring::Priority priority, Borrowed* lender);
    Async<std::int64_t> write_now(std::uint64_t ino, std::uint64_t offset, std::span<const std::byte> data,
                                  Borrowed* lender);
    Async<std::int64_t> write_now(std::uint64_t ino, std::uint64_t offset, Buffer buffer, std::size_t at,
                                  std::size_t size);
    Async<int> truncate_now(std::uint64_t ino, std::uint64_t size);
    Async<int> flush_now(std::uint64_t ino);
    Async<int> fsync_now(std::uint64_t ino);
    Async<int> sync_now();
    Async<int> rename_now(std::uint64_t parent, std::string name, std::uint64_t new_parent, std::string new_name,
                          std::uint32_t flags, std::uint32_t client, Borrowed* lender);
    Async<int> fallocate_now(std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t length);
    Async<std::int64_t> copy_range_now(std::uint64_t ino_in, std::uint64_t offset_in, std::uint64_t ino_out,
                                       std::uint64_t offset_out, std::uint64_t length);

    // read.cpp
    void plan_read(const Inode& inode, std::uint64_t from, std::uint64_t to, Plan& out);
    int plan_now(std::uint64_t number, std::uint64_t offset, std::uint64_t size, std::uint64_t& end, Plan& out);
    Async<int> plan_settled(std::uint64_t ino, std::uint64_t offset, std::uint64_t size, std::uint64_t& end, Plan& out);
    Async<int> fill(InodeNumber ino, Plan plan, std::uint64_t from, std::uint64_t to, std::byte* out,
                    uring::Priority priority);
    void copy_cached(const Granule& granule, GranuleCache::Slot& slot, std::uint64_t from, std::byte* out);
    bool verify(const Granule& granule, const std::byte* data);
    bool drop_corrupt(InodeNumber ino, const Granule& granule, const std::byte* data);
    bool refers_to(const Inode& inode, const Granule& granule) const;
    Async<int> read_granules(InodeNumber ino, Plan plan, std::uint64_t from, std::byte* out, uring::Priority priority);
    void unpin(const Plan& plan);

    // read_ahead.cpp
    void finish_read(InodeNumber ino, const Plan& plan, bool may_go_ahead);
    void plan_ahead(InodeNumber ino, std::uint64_t from, std::uint64_t to, Plan& out);
    Async<int> read_ahead(Plan plan);

    // log.cpp: the committer
    struct Durable;
    Durable durable(std::uint64_t lsn);
    void committer();
    void wake_committer();
    void await_checkpoint(std::unique_lock<std::mutex>& guard, const std::function<bool()>& is_over);
    int flush_log(std::unique_lock<std::mutex>& guard);
    int write_pending(std::unique_lock<std::mutex>& guard, bool sync_after);
    void wake_durable(std::unique_lock<std::mutex>& guard);
    int write_frame(std::unique_lock<std::mutex>& guard, const LogBuffer::Chunk& chunk);
    std::uint32_t unflushed_frames(const LogPosition& at) const;
    int flush_device(std::unique_lock<std::mutex>& guard);

    // physical.cpp (the mutex is held)
    std::uint64_t usable_physical() const;
    PhysicalLevel physical_level() const;
    std::uint64_t physical_blocks_left() const;
    void set_physical_goal();
    std::uint64_t physical_blocks_to_evict() const;
    void charge_physical(SegmentId segment, std::uint32_t blocks);

    // ownership.cpp
    void check_owner(const std::string& path, const Options& options);
    int look_at_owner();
    int confirm_owner(OwnerClock::duration age);
    int beat(format::HostState state);
    void fence(const std::string& reason);
    void yield_volume(std::unique_lock<std::mutex>& guard);
    void owner_watch();

    // health.cpp
    int wait_for(Async<int> task);
    // -ETIMEDOUT: the device may still write into the buffer.
    int read_device(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset);
    int write_device(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset);
    int device_sync();
    Async<int> send_read(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset);
    Async<int> send_write(std::shared_ptr<Buffer> data, std::size_t size, std::uint64_t offset);
    Async<int> send_sync();
    void fail_log(int error);  // the mutex is held
    void try_to_recover(std::unique_lock<std::mutex>& guard);
    int recover_now(std::unique_lock<std::mutex>& guard, std::string& step);
    int settle_changes(std::unique_lock<std::mutex>& guard);
    int look_for_another_host(std::unique_lock<std::mutex>& guard);
    int verify_unflushed(std::unique_lock<std::mutex>& guard);
    int start_log(std::unique_lock<std::mutex>& guard);
    Async<int> verify_plan(Plan plan);
    void drop_lost(InodeNumber ino);
    void note_unflushed(SegmentId segment);
    struct TrimPass;
    Async<int> make_physical_room();
    void trim_everything(std::unique_lock<std::mutex>& guard);

    // cleaner.cpp (its thread, the mutex is held)
    static constexpr std::uint64_t kNoFlush = ~std::uint64_t{0};
    void cleaner();
    std::uint64_t wanted_stock() const;
    bool is_space_due() const;
    bool is_stuck() const { return cleaner_has_ended_ || (cleaner_stuck_ && segments_.deaths() < quiet_until_); }
    bool shorten_log(std::unique_lock<std::mutex>& guard);
    bool make_space(std::unique_lock<std::mutex>& guard);
    // Leaves `keep` segments as they are, for the next writers.
    bool trim_one(std::unique_lock<std::mutex>& guard, std::size_t keep = 4);

    // survey.cpp
    bool walk_extents(
        std::unique_lock<std::mutex>& guard,
        const std::function<void(InodeNumber ino, std::uint64_t logical, const Extent& extent, bool replaced)>& visit);
    bool survey(std::unique_lock<std::mutex>& guard, std::uint64_t wanted, std::uint32_t least);

    // moving.cpp
    bool clean_some(std::unique_lock<std::mutex>& guard);
    Inode* still_there(const Move& move);
    void run_moves(std::unique_lock<std::mutex>& guard, std::vector<Move>& moves);
    Async<Moved> move_extent(const Move& move, MoveRun& run);

    int fd_ = -1;
    uring::PlainIo io_;  // on fd_
    bool block_device_ = false;
    std::atomic<bool> read_only_ = false;  // written under the mutex
    bool owns_ = false;
    bool closed_ = false;
    bool abandoned_ = false;
    std::atomic<bool> is_fenced_ = false;   // written under the mutex, with read_only_ and log_error_, and for good
    std::atomic<bool> is_refused_ = false;  // the target has refused a write of metadata for a reservation
    bool is_behind_ = false;                // read-only, and perhaps written by its owner, another host, at this moment
    format::Superblock sb_{};
    format::DataChecksum checksum_{format::Uuid{}};

    std::mutex mutex_;
    Inodes inodes_;
    Names names_;
    Segments segments_;
    LogBuffer log_;
    LogPosition log_position_;
    std::uint64_t log_flushed_ = 0;        // frames below this one are on the medium
    std::vector<SegmentId> log_segments_;  // oldest first, those that recovery would read
    std::vector<SegmentId> checkpoint_segments_;
    std::uint64_t log_bytes_since_checkpoint_ = 0;
    std::uint64_t lsn_written_ = 0;
    std::uint64_t lsn_durable_ = 0;
    std::vector<std::pair<std::uint64_t, std::coroutine_handle<>>> durable_waiters_;
    std::unordered_set<InodeNumber> touched_directories_;
    std::unordered_map<InodeNumber, std::shared_ptr<File>> files_;
    TailList tails_;
    SettingsTable settings_;
    Quotas quotas_;
    std::int64_t complaints_since_ns_ = 0;
    std::uint64_t complaints_ = 0;
    std::int64_t sweep_after_ns_ = 0;
    std::atomic<std::uint32_t> tail_buffers_wanted_{0};  // by coroutines that wait for one
    std::uint64_t reserved_blocks_ = 0;                  // promised to tails and by fallocate, not handed out yet
    std::uint32_t headers_in_flight_ = 0;
    bool data_unflushed_ = false;              // the device has data that no flush followed
    std::vector<SegmentId> unflushed_;         // where data lies that no flush followed (Segment::unflushed)
    std::vector<SegmentId> suspect_segments_;  // where it lay when a flush failed
    std::vector<SegmentId> failed_headers_;    // data segments without one
    // Of a log or a checkpoint that could not be written: not to be used again before recover().
    std::vector<SegmentId> given_up_metadata_;
    std::vector<std::coroutine_handle<>> trim_waiters_;
    Holding holding_;
    OwnershipState owner_;
    HealthState health_;
    PhysicalLedger physical_;
    std::vector<std::coroutine_handle<>> space_waiters_;
    std::uint32_t space_wanted_ = 0;         // by one of them, in one piece: what a gap must have
    std::uint32_t busy_rounds_ = 0;          // for which the cleaner has waited for readers of gaps
    std::uint64_t quiet_until_ = 0;          // deaths before the cleaner looks again where it found nothing
    std::uint64_t flush_wanted_ = kNoFlush;  // by the cleaner: it is told when the log is durable up to there
    std::uint64_t reverts_ = 0;              // see survey.cpp
    bool cleaner_has_ended_ = false;
    bool cleaner_stuck_ = false;  // a full pass freed nothing: waiting for space is pointless
    bool evicts_ = false;         // set once, at open
    bool evictor_wanted_ = false;
    bool no_room_was_said_ = false;
    bool is_inherited_ = false;  // from a host that did not close it in order
    int log_error_ = 0;          // what clients are told once the log has failed; 0: it has not
    EvictionHost eviction_host_{*this};
    std::unique_ptr<policy::Policy> policy_;  // null while nothing may be written
    std::array<Evicted, kEvictReasons.size()> evicted_{};
    std::uint64_t evicted_by_writers_ = 0;
    std::size_t spare_level_ = 0;  // see evict_some()
    std::int64_t spare_less_until_ns_ = 0;

    std::unique_ptr<uring::BufferArena> arena_;
    std::unique_ptr<uring::BufferPool> write_pool_;  // of tails
    std::unique_ptr<uring::BufferPool> read_pool_;
    std::unique_ptr<uring::BufferPool> small_pool_;  // of small reads
    std::unique_ptr<uring::BufferPool> request_pool_;
    std::unique_ptr<GranuleCache> cache_;
    std::unique_ptr<uring::Rings> rings_;
    std::unique_ptr<uring::Patience> patience_;  // null: without a deadline
    std::mutex background_mutex_;
    std::condition_variable background_done_;
    std::uint32_t background_ = 0;  // tasks that nobody awaits; guarded by background_mutex_

    std::condition_variable committer_wake_;
    std::condition_variable cleaner_wake_;
    std::condition_variable sweeper_wake_;
    std::condition_variable evictor_wake_;
    std::condition_variable owner_wake_;
    std::condition_variable headers_done_;
    bool commit_now_ = false;
    bool stop_ = false;
    bool checkpoint_wanted_ = false;  // by the scrubber (damage on the device), or by who waits for a short log
    bool checkpoint_under_way_ = false;
    bool committer_is_busy_ = false;
    std::uint32_t trims_under_way_ = 0;
    unsigned threads_ = 0;  // that have not ended
    std::condition_variable threads_done_;
    std::uint64_t checkpoint_attempts_ = 0;
    std::condition_variable checkpoint_done_;
    std::mutex superblock_mutex_;  // a leaf: superblocks are being written, or read back
    std::unique_ptr<Scrubber> scrubber_;
    std::thread committer_;
    std::thread cleaner_;
    std::thread sweeper_;
    std::thread evictor_;
    std::thread owner_watch_;

    std::mutex events_mutex_;
    std::vector<Event> events_;
    std::function<void()> wakeup_;

    std::function<void(std::uint64_t)> inode_hook_;  // guarded by mutex_

    Counters counters_;
    std::uint64_t recovery_ns_ = 0;
    std::uint64_t recovered_frames_ = 0;
    std::uint64_t cut_frames_ = 0;
    std::vector<Damage> superblock_damage_;
    std::vector<Damage> metadata_damage_;
};

}  // namespace kvfs::store
