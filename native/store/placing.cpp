#include "store/placing.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/in_use.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::uint64_t kBlock = format::kBlock;
constexpr std::uint64_t kMostEvicted = 1024;  // files in one hold of the mutex

struct SpaceWait {
    std::mutex& mutex;
    std::vector<std::coroutine_handle<>>& waiters;
    std::uint32_t& wanted;
    std::uint32_t blocks;
    std::condition_variable& cleaner;
    const bool& has_ended;
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) {
        const std::lock_guard guard(mutex);
        if (has_ended) return false;
        waiters.push_back(waiter);
        wanted = std::max(wanted, blocks);
        cleaner.notify_one();
        return true;
    }
    void await_resume() const {}
};

bool overlaps(const Flight* flights, std::uint64_t from, std::uint64_t to) {
    for (const Flight* flight = flights; flight != nullptr; flight = flight->next) {
        if (flight->from < to && from < flight->to) return true;
    }
    return false;
}

}  // namespace

// Adds to `out` until it has `blocks`. False when there are no more without going below `floor` free segments: what is
// in `out` stays. The mutex is held.
bool Store::take_places(std::uint32_t blocks, std::optional<SegmentId>& lease, std::uint64_t floor, Places& out,
                        Stream stream) {
    std::uint32_t placed = 0;
    for (const Place& place : out) placed += place.blocks;
    while (placed < blocks) {
        const auto got = segments_.allocate(blocks - placed, lease, floor, stream);
        if (!got) return false;
        Segment& segment = segments_.at(got->segment);
        if (got->opened) {
            ++headers_in_flight_;
            log_.writer().segment_open(
                {got->segment, segment.generation, static_cast<std::uint32_t>(format::SegmentClass::kData), 0});
            log_.commit();
        }
        ++segment.readers;
        charge_physical(got->segment, got->blocks);
        placed += got->blocks;
        out.push_back({got->segment, got->block, got->blocks, segment.generation, got->opened});
    }
    if (is_space_due()) cleaner_wake_.notify_one();
    return true;
}

// Nothing was written there, or nobody will refer to it. The mutex is held.
void Store::give_up_places(const Places& places) {
    for (const Place& place : places) segments_.remove_live(place.segment, place.blocks, 0);
    finish_places(places);
}

// The device is through with them. The mutex is held.
void Store::finish_places(const Places& places) {
    for (const Place& place : places) {
        segments_.end_request(place.segment);
        note_unflushed(place.segment);
    }
}

// The mutex is not held, and nothing may be waited for between take_places() and this.
void Store::open_segments(Places& places) {
    for (Place& place : places) {
        if (std::exchange(place.opened, false)) in_background(write_opened(place.segment));
    }
}

Async<int> Store::write_opened(SegmentId segment) {
    const Buffer header = Buffer::heap(kBlock);
    {
        const std::lock_guard guard(mutex_);
        fill_segment_header(segment, format::SegmentClass::kData, header.data());
    }
    uring::Batch batch(rings_->here());
    batch.add(uring::OpKind::kWrite, header.data(), kBlock, device_offset(segment, 0));
    int rc = co_await batch;
    if (rc == -ENOSPC) {
        co_await make_physical_room();
        uring::Batch again(rings_->here());
        again.add(uring::OpKind::kWrite, header.data(), kBlock, device_offset(segment, 0));
        rc = co_await again;
    }
    const std::lock_guard guard(mutex_);
    note_unflushed(segment);
    if (rc != 0) {
        counters_.write_errors.fetch_add(1, std::memory_order_relaxed);
        failed_headers_.push_back(segment);
        fail_log(rc);  // the log names this segment: it must not claim what the device does not have
    }
    if (--headers_in_flight_ == 0) headers_done_.notify_all();
    co_return rc;
}

// Space for `blocks` that were reserved, waiting for the cleaner where there is none. Every block that it gets is no
// longer reserved; on an error none of them is, and there are no places.
Async<int> Store::place(File& file, std::uint32_t blocks, Places& places) {
    std::size_t held = 0;  // places that are counted as waiting
    for (;;) {
        bool done = false;
        int error = 0;
        {
            const std::lock_guard guard(mutex_);
            for (std::size_t i = 0; i < held; ++i) --segments_.at(places[i].segment).waiting;
            held = 0;
            const std::uint64_t before = segments_.live_blocks();
            // this space was promised when the bytes were taken: once cleaning is at its end, the reserve keeps the
            // promise
            done = take_places(blocks, file.lease, is_stuck() ? kept_for_metadata() : segments_.reserve(), places);
            reserved_blocks_ -= segments_.live_blocks() - before;
            if (!done && is_stuck() && evicts_ &&
                evict_some(segments_.blocks(), kMostEvicted, EvictReason::kSpace, {}).files != 0) {
                cleaner_stuck_ = false;  // there is more to gain now
            }
            if (!done && (is_stuck() || read_only_)) {
                error = read_only_ ? -EIO : -ENOSPC;
                reserved_blocks_ -= blocks;
                for (const Place& each : places) reserved_blocks_ += each.blocks;
                give_up_places(places);
            }
            // the cleaner must not try to empty what it is to make room for
            if (!done && error == 0) {
                for (const Place& each : places) ++segments_.at(each.segment).waiting;
                held = places.size();
            }
        }
        open_segments(places);
        if (done) co_return 0;
        if (error != 0) {
            places.clear();
            counters_.enospc.fetch_add(1, std::memory_order_relaxed);
            co_return error;
        }
        std::uint32_t left = blocks;
        for (const Place& each : places) left -= each.blocks;
        const auto piece = std::min<std::uint32_t>(left, format::kGranuleBlocks);
        co_await SpaceWait{mutex_, space_waiters_, space_wanted_, piece, cleaner_wake_, cleaner_has_ended_};
    }
}

// The extents of data that goes to these places and to the file's blocks from `logical` on.
void Store::checksum_places(const Places& places, std::uint64_t logical, const std::byte* data, Pieces& out) const {
    for (const Place& place : places) {
        Extent extent{place.segment, place.block, place.blocks, 0, place.blocks, {}};
        extent.checksums.reserve((place.blocks + format::kGranuleBlocks - 1) / format::kGranuleBlocks);
        for (std::uint32_t at = 0; at < place.blocks; at += format::kGranuleBlocks) {
            const std::uint32_t n = std::min<std::uint32_t>(format::kGranuleBlocks, place.blocks - at);
            extent.checksums.push_back(
                checksum_({data, n * kBlock}, place.segment, place.generation, place.block + at));
            data += n * kBlock;
        }
        out.push_back({logical, std::move(extent)});
        logical += place.blocks;
    }
}

Async<int> Store::write_places(const Places& places, std::byte* data, uring::Priority priority) {
    if (is_fenced()) co_return -EROFS;
    uring::Batch batch(rings_->here(), priority);
    for (const Place& place : places) {
        batch.add(uring::OpKind::kWrite, data, place.blocks * kBlock, device_offset(place.segment, place.block));
        data += place.blocks * kBlock;
    }
    const int rc = co_await batch;
    co_return rc;
}

// The file's blocks are now those pieces, which the device is about to be sent. The mutex is held; launch() follows.
void Store::map_flight(Inode& inode, Flight& flight, Pieces& pieces) {
    File& file = *flight.file;
    if (inodes_.mapped_blocks(inode) > 0 && inode.has(kLogged)) {
        inodes_.visit(inode, flight.from, flight.to, [&](std::uint64_t, const Extent&) { file.in_place = true; });
    }
    unmap(inode, file, flight.from, flight.to);
    for (Piece& piece : pieces) inodes_.insert(inode, piece.logical, std::move(piece.extent));
    file.changed.add(flight.from, flight.to);
    flight.previous = nullptr;
    flight.next = file.flights;
    if (file.flights != nullptr) file.flights->previous = &flight;
    file.flights = &flight;
    ++file.in_flight;
}

void Store::launch(std::unique_ptr<Flight> flight) { in_background(fly(std::move(flight))); }

Async<int> Store::fly(std::unique_ptr<Flight> flight) {
    int rc = co_await write_places(flight->places, flight->data);
    if (rc == -ENOSPC) {  // a thin device is full: what it was not told of yet may be all that it needs
        co_await make_physical_room();
        rc = co_await write_places(flight->places, flight->data);
    }
    flight->buffer.reset();  // before anybody is woken who may want it
    FlightWait* landed = nullptr;
    bool settle = false;
    {
        const std::lock_guard guard(mutex_);
        File& file = *flight->file;
        settle = rc == 0 && is_settling_due(file);
        file.settling = file.settling || settle;
        finish_places(flight->places);
        if (rc != 0) {
            counters_.write_errors.fetch_add(1, std::memory_order_relaxed);
            file.error = rc == -ENOSPC ? -ENOSPC : -EIO;
            file.is_lost = true;
            if (rc == -EBADE) fence(kRefusedByTarget);
        }
        (flight->previous == nullptr ? file.flights : flight->previous->next) = flight->next;
        if (flight->next != nullptr) flight->next->previous = flight->previous;
        --file.in_flight;
        FlightWait** at = &file.flight_waits;
        while (*at != nullptr) {
            FlightWait* const wait = *at;
            if (overlaps(file.flights, wait->from, wait->to)) {
                at = &wait->next;
            } else {
                *at = wait->next;
                wait->next = std::exchange(landed, wait);
            }
        }
        if (file.in_flight == 0 && file.handles == 0) drop_file_if_idle(file.ino);
    }
    if (rc != 0) say(40, "a write to the device failed: " + std::string(std::strerror(-rc)));
    while (landed != nullptr) {
        const auto waiter = landed->waiter;
        landed = landed->next;
        uring::Turn::next(waiter);  // the node may be gone after this
    }
    if (settle) in_background(flush_now(flight->file->ino));
    co_return rc;
}

namespace {

struct Landing {
    std::mutex& mutex;
    File& file;
    FlightWait wait;
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) {
        const std::lock_guard guard(mutex);
        if (!overlaps(file.flights, wait.from, wait.to)) return false;
        wait.waiter = waiter;
        wait.next = std::exchange(file.flight_waits, &wait);
        return true;
    }
    void await_resume() const {}
};

}  // namespace

// Waits until nothing of blocks [from, to) is on its way to the device. The file's error, or 0.
Async<int> Store::wait_landed(File& file, std::uint64_t from, std::uint64_t to) {
    co_await Landing{mutex_, file, {from, to, {}, nullptr}};
    co_return file.error;
}

bool Store::is_on_its_way(const File& file, std::uint64_t from, std::uint64_t to) const {
    return overlaps(file.flights, from, to);
}

}  // namespace kvfs::store
