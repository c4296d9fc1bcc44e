// What a person asks of a directory or a file by extended attributes:
//
//   user.kvfs.quota.bytes  directory   of blocks, as du counts them; 0: counted, no limit
//   user.kvfs.quota.files  directory   of inodes of every kind; 0: counted, no limit
//   user.kvfs.pin          both        a lease: until then the store removes nothing of it by itself
//   user.kvfs.evictable    both        0: the store never removes anything of it by itself
//   user.kvfs.ttl          both        seconds after its last use (atime, mtime, ctime) a file is removed; 0: never
//
// Inheritance. `evictable` and `ttl`: the file's own, else its nearest ancestor's that sets it. Pins: any that has not
// expired, of the file or of an ancestor, as a lease given on a whole tree is not taken back by one on a part of it.
// Quotas: every ancestor's counts (quota.hpp). A file with several names inherits by each of them, and what keeps it
// wins: it is pinned when one of its names is.
//
// Where the truth is: in the attributes, which are in the log. What is parsed of them is kept beside for speed, made
// again at recovery, and changed in the same instant as the attribute, under the store's mutex. A directory that sets
// nothing costs nothing, and in a store where nobody set anything no question walks up the tree.
//
// Who may set. Quotas: root and whoever mounted, as a tenant must not raise its own (as ext4 and xfs ask for
// CAP_SYS_ADMIN). The others: also the owner, as with chmod.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "store/inodes.hpp"

namespace kvfs::store {

inline constexpr std::string_view kSettingPrefix = "user.kvfs.";

enum class Setting : std::uint8_t { kQuotaBytes, kQuotaFiles, kPin, kEvictable, kTtl };

// Null when there is none of that name.
std::optional<Setting> find_setting(std::string_view name);
std::string_view setting_name(Setting setting);
// One line: what a value may look like.
std::string_view setting_syntax(Setting setting);

struct SettingValue {
    std::uint64_t number = 0;  // bytes, files, 0 or 1, ns of a ttl, ns since the epoch of a pin
    std::string text;          // as it is kept and read back
};
// A pin may be given as a time from `now_ns` on; its text is always the time it ends at, rounded up to a second.
std::optional<SettingValue> parse_setting(Setting setting, std::string_view value, std::int64_t now_ns);

// Of one inode, but for its quota.
struct Settings {
    std::int64_t pinned_until_ns = 0;
    std::optional<std::int64_t> ttl_ns;  // 0: never
    std::optional<bool> evictable;
    [[nodiscard]] bool empty() const { return pinned_until_ns == 0 && !ttl_ns && !evictable; }
};

// Guarded by the store's mutex. An inode that is in here has kHasSettings.
using SettingsTable = std::unordered_map<InodeNumber, Settings>;

// What keeps the store from removing an inode by itself.
enum class Keep : std::uint8_t {
    kNothing,       // it may go
    kNotAFile,      // a directory, a link, a pipe; what has no name any more
    kOpen,          // somebody has it open
    kBeingWritten,  // its data is not complete, or somebody works on it
    kPinned,
    kNotEvictable,
};
inline constexpr std::array<std::string_view, 6> kKeepReasons = {"nothing",       "not_a_file", "open",
                                                                 "being_written", "pinned",     "not_evictable"};

// `text` in quotes for a line of the log: what is not printable escaped, cut after 80 bytes.
std::string quoted(std::string_view text);

}  // namespace kvfs::store
