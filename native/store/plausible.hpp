// What recovery believes of a record whose checksum holds.
//
// A checksum says that the bytes are what somebody wrote, not that kvfs wrote them: a store may come from elsewhere,
// and a bug of an older version may have signed nonsense. What cannot have been written by a sound kvfs is left out and
// reported, as anything is that would lead outside the volume or outside a table.
#pragma once

#include <cstdint>
#include <string_view>

#include "format/format.hpp"

namespace kvfs::store {

// One to 255 bytes that a path can have between two slashes.
bool is_plausible_name(std::string_view name);
// A path of at most 4095 bytes.
bool is_plausible_target(std::string_view target);
// Numbers are used again and so stay near the count of inodes, each of which has cost log and checkpoint space.
bool is_plausible_number(std::uint64_t ino, const format::Superblock& sb);
// A type that kvfs makes, and for the root that of a directory; a size that a file may have.
bool is_plausible_inode(const format::InodeBody& body, const format::Superblock& sb);
// Blocks of a file that there may be, found within a segment and behind its header.
bool is_plausible_extent(const format::ExtentBody& extent, const format::Superblock& sb);

}  // namespace kvfs::store
