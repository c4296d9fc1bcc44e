#include "store/check.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "format/superblock.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr auto kGranule = static_cast<std::uint32_t>(format::kGranuleBlocks);

}  // namespace

class Checker {
public:
    Checker(const std::string& path, bool verify_data,
            const std::function<void(std::uint64_t, std::uint64_t)>& progress, uring::Tap* tap)
        : path_(path),
          store_(path, Options{.read_only = true,
                               .exclusive = false,
                               .salvage = true,
                               .owner = {},
                               .host_name = {},
                               .on_locked = {},
                               .tap = tap}),
          verify_(verify_data),
          progress_(progress) {}

    CheckReport run() {
        for (const auto* list : {&store_.superblock_damage_, &store_.metadata_damage_}) {
            for (const Damage& each : *list) problem(each.kind, each.where, each.detail);
        }
        for (const Event& event : store_.take_events()) {  // of which the superblocks' are in the list already
            const auto* log = std::get_if<LogEvent>(&event);
            if (log != nullptr && log->level >= 40) problem("log", path_, log->text);
        }
        report_.was_clean = (store_.sb_.flags & format::kClean) != 0;
        report_.log_frames = store_.recovered_frames_;
        report_.segments = store_.segments_.count();
        collect();
        segments();
        data();
        return std::move(report_);
    }

private:
    struct Use {
        std::uint32_t block;
        std::uint32_t blocks;
        InodeNumber ino;
    };

    void problem(std::string kind, std::string where, std::string detail) {
        ++report_.problem_count;
        if (report_.problems.size() < 1000)
            report_.problems.push_back({std::move(kind), std::move(where), std::move(detail)});
    }

    std::string name_of(InodeNumber ino) {
        std::string path;
        for (InodeNumber at = ino; at != kRoot;) {
            const Inode* inode = store_.inodes_.find(at);
            const Name& name = store_.names_.at(inode->name);
            path.insert(0, std::string("/").append(name.view()));
            at = name.parent;
            if (path.size() > 4096) break;
        }
        return path;
    }

    void collect() {
        uses_.resize(store_.segments_.count());
        for (InodeNumber ino = kRoot; ino < store_.inodes_.end(); ++ino) {
            const Inode* inode = store_.inodes_.find(ino);
            if (inode == nullptr) continue;
            ++(inode->is_directory() ? report_.directories : report_.files);
            if (!inode->is_regular()) continue;
            report_.bytes += inode->size;
            store_.inodes_.visit(*inode, 0, ~std::uint64_t{0}, [&](std::uint64_t, const Extent& extent) {
                ++report_.extents;
                total_ += extent.blocks * format::kBlock;
                uses_[extent.segment].push_back({extent.block + extent.skip, extent.blocks, ino});
            });
        }
    }

    void segments() {
        Buffer block = Buffer::heap(format::kBlock);
        for (SegmentId id = 0; id < uses_.size(); ++id) {
            auto& uses = uses_[id];
            if (uses.empty()) continue;
            ++report_.segments_used;
            const std::string where = "segment " + std::to_string(id);
            format::SegmentHeader header{};
            if (store_.io_.read(block.data(), format::kBlock, store_.device_offset(id, 0)) !=
                static_cast<ssize_t>(format::kBlock)) {
                problem("io", where, std::string("its header cannot be read: ") + std::strerror(errno));
            } else {
                std::memcpy(&header, block.data(), sizeof header);
                const std::string fault =
                    format::check_segment_header(header, store_.sb_.uuid, id, store_.segments_.at(id).generation);
                if (!fault.empty()) {
                    problem("segment", where, fault);
                    report_.bad_headers.push_back(id);
                }
            }
            std::sort(uses.begin(), uses.end(), [](const Use& a, const Use& b) { return a.block < b.block; });
            for (std::size_t i = 1; i < uses.size(); ++i) {
                if (uses[i - 1].block + uses[i - 1].blocks <= uses[i].block) continue;
                problem("overlap", where + " block " + std::to_string(uses[i].block),
                        "used by " + name_of(uses[i - 1].ino) + " and by " + name_of(uses[i].ino));
            }
            std::vector<Use>().swap(uses);
        }
    }

    void data() {
        if (progress_) progress_(0, total_);
        if (!verify_) return;
        Buffer buffer = Buffer::heap(format::kGranuleBlocks * format::kBlock);
        std::uint64_t done = 0;
        std::uint64_t told = 0;
        for (InodeNumber ino = kRoot; ino < store_.inodes_.end(); ++ino) {
            const Inode* inode = store_.inodes_.find(ino);
            if (inode == nullptr || !inode->is_regular()) continue;
            store_.inodes_.visit(*inode, 0, ~std::uint64_t{0}, [&](std::uint64_t logical, const Extent& extent) {
                verify_extent(ino, logical, extent, buffer);
                done += extent.blocks * format::kBlock;
            });
            if (progress_ && done - told >= (std::uint64_t{16} << 20)) {
                told = done;
                progress_(done, total_);
            }
        }
        if (progress_) progress_(total_, total_);
    }

    void verify_extent(InodeNumber ino, std::uint64_t logical, const Extent& extent, Buffer& buffer) {
        const std::uint32_t last = extent.skip + extent.blocks;
        for (std::uint32_t at = extent.skip - extent.skip % kGranule; at < last; at += kGranule) {
            const auto n = std::min<std::uint32_t>(kGranule, extent.run_blocks - at);
            const auto bytes = static_cast<ssize_t>(n * format::kBlock);
            const std::string where =
                name_of(ino) + " block " + std::to_string(logical + at - std::min(at, extent.skip));
            if (store_.io_.read(buffer.data(), static_cast<std::size_t>(bytes),
                                store_.device_offset(extent.segment, extent.block + at)) != bytes) {
                problem("io", where, std::string("cannot be read: ") + std::strerror(errno));
                continue;
            }
            const std::uint64_t expected = extent.checksums[at / format::kGranuleBlocks];
            const std::uint64_t found =
                store_.checksum_({buffer.data(), static_cast<std::size_t>(bytes)}, extent.segment,
                                 store_.segments_.at(extent.segment).generation, extent.block + at);
            if (found == expected) continue;
            if (report_.bad_files.empty() || report_.bad_files.back().ino != ino) {
                report_.bad_files.push_back({ino, name_of(ino)});
            }
            char text[96];
            std::snprintf(text, sizeof text, "expected checksum %016llx, found %016llx",
                          static_cast<unsigned long long>(expected), static_cast<unsigned long long>(found));
            problem("checksum", where, text);
        }
    }

    std::string path_;
    Store store_;
    bool verify_;
    const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
    CheckReport report_;
    std::vector<std::vector<Use>> uses_;
    std::uint64_t total_ = 0;
};

CheckReport check_volume(const std::string& path, bool verify_data,
                         const std::function<void(std::uint64_t, std::uint64_t)>& progress, uring::Tap* tap) {
    return Checker(path, verify_data, progress, tap).run();
}

}  // namespace kvfs::store
