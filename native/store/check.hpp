// fsck: recover a volume in memory, or what is left of it, write nothing, and hold everything against everything else.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "store/damage.hpp"
#include "store/inodes.hpp"
#include "store/segments.hpp"
#include "uring/tap.hpp"

namespace kvfs::store {

struct CheckReport {
    std::uint64_t files = 0, directories = 0, bytes = 0, extents = 0, segments = 0, segments_used = 0, log_frames = 0;
    bool was_clean = false;
    std::vector<Damage> problems;  // at most 1000 are kept
    std::uint64_t problem_count = 0;
    // for a repair: files with data that does not verify, and segments with data but no valid header
    struct File {
        InodeNumber ino;
        std::string path;
    };
    std::vector<File> bad_files;
    std::vector<SegmentId> bad_headers;
};

// Throws OpenError when the volume cannot be opened at all. `progress(done, total)` in bytes of file data; it may
// throw. `tap` sees every request to the device.
CheckReport check_volume(const std::string& path, bool verify_data,
                         const std::function<void(std::uint64_t, std::uint64_t)>& progress, uring::Tap* tap = nullptr);

}  // namespace kvfs::store
