// `kvfsctl evict` and `kvfsctl drain`: evicts what lies below some directories, or anywhere, least recently used first,
// until so many bytes are gone.
//
// Three phases, in steps of a millisecond or so, between which the store goes on: look (walks the inode table and notes
// who may go), sort, evict. The order is that of atime and not the policy's, because the policy has no order for a part
// of the tree. What was used since it was noted is left alone unless all has to go. A number that was noted may be
// another file's by then: whether it may go and where it lies is asked again in the instant in which it goes.
//
// One thread at a time may use a job.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "store/eviction.hpp"
#include "store/store.hpp"

namespace kvfs::store {

class EvictionJob {
public:
    static constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

    struct Request {
        std::vector<std::uint64_t> roots;  // directories with all below them, and files; none: everything
        std::uint64_t bytes = kAll;
        bool dry_run = false;
    };
    enum class Step : std::uint8_t {
        kMore,
        kWait,  // more, but the log or the kernel has to catch up first
        kDone,
    };
    struct Progress {
        std::uint64_t looked = 0, to_look = 0;  // inode numbers
        std::uint64_t files = 0, bytes = 0;     // evicted, or what would be
        std::uint64_t wanted_bytes = 0;         // known when all was looked at
        // what stays, and why
        std::array<std::uint64_t, kKeepReasons.size()> kept_files{}, kept_bytes{};
        std::uint64_t used_files = 0;  // since they were looked at: they stay, too
    };

    EvictionJob(std::shared_ptr<Store> store, Request request)
        : store_(std::move(store)), request_(std::move(request)) {}

    Step step();
    [[nodiscard]] const Progress& progress() const { return progress_; }

private:
    struct Candidate {
        std::int64_t atime_ns;
        InodeNumber ino;
    };

    Step look();
    void sort();
    Step evict();
    bool is_wanted(InodeNumber ino) const;
    bool is_below(InodeNumber directory) const;
    void keep(Keep reason, std::uint64_t bytes);

    std::shared_ptr<Store> store_;
    const Request request_;
    Progress progress_;
    std::vector<Candidate> candidates_;
    InodeNumber next_inode_ = kRoot;
    std::size_t next_ = 0;
    bool has_looked_ = false;
};

}  // namespace kvfs::store
