#include "store/plausible.hpp"

#include <sys/stat.h>

#include "store/file.hpp"
#include "store/inodes.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kTargetMax = 4095;
// Less than any inode with a name takes in a checkpoint (two records of 8 + 72 and 8 + 16 + 1 bytes).
constexpr std::uint64_t kLeastInodeBytes = 64;

}  // namespace

bool is_plausible_name(std::string_view name) {
    return !name.empty() && name.size() <= format::kNameMax && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

bool is_plausible_target(std::string_view target) {
    return !target.empty() && target.size() <= kTargetMax && target.find('\0') == std::string_view::npos;
}

bool is_plausible_number(std::uint64_t ino, const format::Superblock& sb) {
    return ino >= kRoot && ino < sb.size / kLeastInodeBytes && ino <= 0xffff'ffffU;
}

bool is_plausible_inode(const format::InodeBody& body, const format::Superblock& sb) {
    if (!is_plausible_number(body.ino, sb) || body.size > kMaxFileBytes) return false;
    if (body.ino == kRoot) return S_ISDIR(body.mode);
    return S_ISREG(body.mode) || S_ISDIR(body.mode) || S_ISLNK(body.mode) || S_ISFIFO(body.mode) || S_ISSOCK(body.mode);
}

bool is_plausible_extent(const format::ExtentBody& extent, const format::Superblock& sb) {
    const std::uint64_t end = extent.logical + extent.blocks;
    if (end < extent.logical || end > kMaxFileBytes / format::kBlock) return false;
    if (extent.segment == format::kHoleSegment) return true;
    return extent.segment < sb.segment_count && extent.block != 0 &&
           std::uint64_t{extent.block} + extent.run_blocks <= sb.segment_size / format::kBlock;
}

}  // namespace kvfs::store
