#pragma once

#include <string>

namespace kvfs::store {

// Something that is not as it was written, in words for a person: what, where, expected and found.
struct Damage {
    std::string kind;  // superblock, checkpoint, log, segment, checksum, overlap, io
    std::string where;
    std::string detail;
};

}  // namespace kvfs::store
