#include "store/settings.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>

#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kMostSeconds = std::uint64_t{100} * 366 * 86400;  // of a duration: a century
constexpr std::uint64_t kMostCount = (std::uint64_t{1} << 63) - 1;

struct Known {
    std::string_view name;
    std::string_view syntax;
};
constexpr std::array<Known, 5> kKnown{{
    {"user.kvfs.quota.bytes", "bytes, perhaps with K, M, G, T or P (powers of 1024), as in 64G; 0 for no limit"},
    {"user.kvfs.quota.files", "a number of files; 0 for no limit"},
    {"user.kvfs.pin", "a time as in 2026-01-31T18:00:00Z, or seconds from now, perhaps with m, h or d, as in 2h"},
    {"user.kvfs.evictable", "0 or 1"},
    {"user.kvfs.ttl", "seconds, perhaps with m, h or d, as in 12h; 0 for never"},
}};

// What may only be read: what lies below a directory with a quota.
constexpr std::string_view kUsageBytes = "user.kvfs.usage.bytes";
constexpr std::string_view kUsageFiles = "user.kvfs.usage.files";

// Digits at the start of `text`, which are taken off it.
std::optional<std::uint64_t> take_number(std::string_view& text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return number;
}

std::optional<std::uint64_t> scaled(std::uint64_t number, std::uint64_t unit, std::uint64_t most) {
    if (number > most / unit) return std::nullopt;
    return number * unit;
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
    const auto number = take_number(text);
    if (!number) return std::nullopt;
    if (text.empty()) return scaled(*number, 1, kMostCount);
    constexpr std::string_view kPrefixes = "KMGTP";
    const auto power = kPrefixes.find(text.front());
    text.remove_prefix(1);
    if (power == std::string_view::npos || (!text.empty() && text != "iB")) return std::nullopt;
    return scaled(*number, std::uint64_t{1} << (10 * (power + 1)), kMostCount);
}

std::optional<std::uint64_t> parse_count(std::string_view text) {
    const auto number = take_number(text);
    return number && text.empty() ? scaled(*number, 1, kMostCount) : std::nullopt;
}

std::optional<std::uint64_t> parse_seconds(std::string_view text) {
    const auto number = take_number(text);
    if (!number) return std::nullopt;
    std::uint64_t unit = 1;
    if (text == "m") {
        unit = 60;
    } else if (text == "h") {
        unit = 3600;
    } else if (text == "d") {
        unit = 86400;
    } else if (!text.empty() && text != "s") {
        return std::nullopt;
    }
    return scaled(*number, unit, kMostSeconds);
}

// Two digits at `at`, of at most `most`.
std::optional<int> two_digits(std::string_view text, std::size_t at, int most) {
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    if (at + 2 > text.size() || !is_digit(text[at]) || !is_digit(text[at + 1])) return std::nullopt;
    const int value = (text[at] - '0') * 10 + (text[at + 1] - '0');
    return value <= most ? std::optional(value) : std::nullopt;
}

// RFC 3339, section 5.6: seconds since the epoch, a fraction rounded up.
std::optional<std::int64_t> parse_time(std::string_view text) {
    constexpr std::size_t kHead = 19;  // 2026-01-31T18:00:00
    if (text.size() < kHead + 1 || text[4] != '-' || text[7] != '-' || text[13] != ':' || text[16] != ':' ||
        (text[10] != 'T' && text[10] != 't' && text[10] != ' ')) {
        return std::nullopt;
    }
    const auto century = two_digits(text, 0, 99);
    const auto year = two_digits(text, 2, 99);
    const auto month = two_digits(text, 5, 12);
    const auto day = two_digits(text, 8, 31);
    const auto hour = two_digits(text, 11, 23);
    const auto minute = two_digits(text, 14, 59);
    const auto second = two_digits(text, 17, 60);
    if (!century || !year || !month || !day || !hour || !minute || !second || *month == 0 || *day == 0)
        return std::nullopt;
    text.remove_prefix(kHead);
    bool has_fraction = false;
    if (text.front() == '.') {
        text.remove_prefix(1);
        const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
        if (digits == 0) return std::nullopt;
        has_fraction = text.substr(0, digits).find_first_not_of('0') != std::string_view::npos;
        text.remove_prefix(digits);
    }
    std::int64_t offset = 0;
    if (text != "Z" && text != "z") {
        if (text.size() != 6 || (text[0] != '+' && text[0] != '-') || text[3] != ':') return std::nullopt;
        const auto hours = two_digits(text, 1, 23);
        const auto minutes = two_digits(text, 4, 59);
        if (!hours || !minutes) return std::nullopt;
        offset = (text[0] == '-' ? -1 : 1) * (std::int64_t{*hours} * 3600 + *minutes * 60);
    }
    std::tm fields{};
    fields.tm_year = *century * 100 + *year - 1900;
    fields.tm_mon = *month - 1;
    fields.tm_mday = *day;
    fields.tm_hour = *hour;
    fields.tm_min = *minute;
    fields.tm_sec = *second;
    const std::int64_t time = timegm(&fields);
    if (fields.tm_mon != *month - 1) return std::nullopt;  // the 31st of a month that has 30 days
    return time - offset + (has_fraction ? 1 : 0);
}

std::string time_text(std::int64_t seconds) {
    const std::time_t time = seconds;
    std::tm fields{};
    gmtime_r(&time, &fields);
    std::array<char, 32> text{};
    const std::size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &fields);
    return {text.data(), length};
}

std::optional<SettingValue> parse_pin(std::string_view value, std::int64_t now_ns) {
    std::optional<std::int64_t> until;
    if (const auto seconds = parse_seconds(value)) {
        until = (now_ns + kSecond - 1) / kSecond + static_cast<std::int64_t>(*seconds);
    } else {
        until = parse_time(value);
    }
    // the epoch itself is no deadline, and what comes after the year 2262 does not fit into nanoseconds
    if (!until || *until <= 0 || *until > INT64_MAX / kSecond) return std::nullopt;
    return SettingValue{static_cast<std::uint64_t>(*until * kSecond), time_text(*until)};
}

}  // namespace

std::optional<Setting> find_setting(std::string_view name) {
    for (std::size_t i = 0; i < kKnown.size(); ++i) {
        if (kKnown[i].name == name) return static_cast<Setting>(i);
    }
    return std::nullopt;
}

std::string_view setting_name(Setting setting) { return kKnown[static_cast<std::size_t>(setting)].name; }

std::string_view setting_syntax(Setting setting) { return kKnown[static_cast<std::size_t>(setting)].syntax; }

std::optional<SettingValue> parse_setting(Setting setting, std::string_view value, std::int64_t now_ns) {
    std::optional<std::uint64_t> number;
    switch (setting) {
        case Setting::kPin:
            return parse_pin(value, now_ns);
        case Setting::kTtl:
            number = parse_seconds(value);
            if (!number) return std::nullopt;
            return SettingValue{*number * kSecond, std::to_string(*number)};
        case Setting::kEvictable:
            if (value == "0" || value == "1") number = value == "1" ? 1 : 0;
            break;
        case Setting::kQuotaBytes:
            number = parse_bytes(value);
            break;
        case Setting::kQuotaFiles:
            number = parse_count(value);
            break;
    }
    if (!number) return std::nullopt;
    return SettingValue{*number, std::to_string(*number)};
}

std::string quoted(std::string_view text) {
    constexpr std::size_t kMost = 80;
    std::string out = "\"";
    for (const char c : text.substr(0, kMost)) {
        if (c >= ' ' && c <= '~' && c != '"' && c != '\\') {
            out += c;
        } else {
            std::array<char, 8> escape{};
            std::snprintf(escape.data(), escape.size(), "\\x%02x", static_cast<unsigned>(c) & 0xff);
            out += escape.data();
        }
    }
    out += text.size() > kMost ? "\"..." : "\"";
    return out;
}

// attributes (the mutex is held) ----------------------------------------------------------

// Whether `caller` may set or remove `name`, a setting or something that looks like one: 0 or -errno.
int Store::may_set(const Inode& inode, std::string_view name, std::optional<std::uint32_t> caller) const {
    const auto setting = find_setting(name);
    if (!setting) return name == kUsageBytes || name == kUsageFiles ? -EPERM : -EINVAL;
    if (!caller || *caller == 0 || *caller == geteuid()) return 0;
    const bool is_quota = *setting == Setting::kQuotaBytes || *setting == Setting::kQuotaFiles;
    return !is_quota && *caller == inodes_.owner(inode).uid ? 0 : -EPERM;
}

// The value as it is to be kept. -EINVAL, and a line in the log, when it says nothing.
int Store::check_setting(InodeNumber ino, std::string_view name, std::string_view value,
                         std::optional<std::uint32_t> caller, std::string& normal) {
    const Inode& inode = *inodes_.find(ino);
    const int rc = may_set(inode, name, caller);
    if (rc == -EPERM) return rc;
    const auto setting = find_setting(name);
    if (rc != 0 || !setting) {
        std::string names;
        for (const Known& known : kKnown) names.append(names.empty() ? "" : ", ").append(known.name);
        complain(ino, "expected one of " + names + ", found " + quoted(name));
        return -EINVAL;
    }
    const bool is_quota = *setting == Setting::kQuotaBytes || *setting == Setting::kQuotaFiles;
    if (is_quota && !inode.is_directory()) {
        complain(ino, std::string(name) + ": expected a directory, found a file");
        return -EINVAL;
    }
    auto parsed = parse_setting(*setting, value, now_ns());
    if (!parsed) {
        complain(ino, std::string(name) + ": expected " + std::string(setting_syntax(*setting)) + "; found " +
                          quoted(value));
        return -EINVAL;
    }
    normal = std::move(parsed->text);
    return 0;
}

// One line, but not one for each attempt of somebody who tries for ever.
void Store::complain(InodeNumber ino, const std::string& text) {
    constexpr std::uint64_t kMost = 20;
    constexpr std::int64_t kWindow = 60 * kSecond;
    counters_.settings_refused.fetch_add(1, std::memory_order_relaxed);
    const std::int64_t now = now_ns();
    if (now - complaints_since_ns_ > kWindow || now < complaints_since_ns_) {
        complaints_since_ns_ = now;
        complaints_ = 0;
    }
    if (++complaints_ > kMost) return;
    say(30, "setting of " + quoted(path_of(ino)) + " refused: " + text +
                (complaints_ == kMost ? "; more of this within a minute are only counted" : ""));
}

std::string Store::path_of(InodeNumber ino) {
    std::string path;
    for (InodeNumber at = ino; at != kRoot;) {
        const Inode* inode = inodes_.find(at);
        if (inode == nullptr || inode->nlink == 0) return "(unlinked)";
        const Name& name = names_.at(inode->name);
        path.insert(0, std::string("/").append(name.view()));
        at = name.parent;
    }
    return path.empty() ? "/" : path;
}

// The attribute has just been set to `value`, as check_setting() made it, or removed.
void Store::apply_setting(InodeNumber ino, std::string_view name, std::optional<std::string_view> value) {
    const auto setting = find_setting(name);
    Inode* inode = inodes_.find(ino);
    if (!setting || inode == nullptr || inode->nlink == 0) return;
    std::optional<std::uint64_t> number;
    if (value) {
        const auto parsed = parse_setting(*setting, *value, now_ns());
        if (!parsed) {  // written by a version that did not look, or by none
            say(30, "setting of " + quoted(path_of(ino)) + " ignored: " + std::string(name) + ": expected " +
                        std::string(setting_syntax(*setting)) + "; found " + quoted(*value));
            return;
        }
        number = parsed->number;
    }
    if (*setting == Setting::kQuotaBytes || *setting == Setting::kQuotaFiles) {
        if (inode->is_directory()) set_quota(ino, *setting, number);
        return;
    }
    Settings& settings = settings_[ino];
    if (*setting == Setting::kPin) {
        settings.pinned_until_ns = static_cast<std::int64_t>(number.value_or(0));
    } else if (*setting == Setting::kEvictable) {
        settings.evictable = number ? std::optional(*number != 0) : std::nullopt;
    } else {
        settings.ttl_ns = number ? std::optional(static_cast<std::int64_t>(*number)) : std::nullopt;
        sweeper_wake_.notify_all();
    }
    if (settings.empty()) {
        settings_.erase(ino);
        inode->clear(kHasSettings);
    } else {
        inode->set(kHasSettings);
    }
}

// What is not kept as an attribute: the usage below a directory with a quota.
int Store::get_usage(InodeNumber ino, std::string_view name, std::string& out) {
    const Quota* quota = quotas_.find(ino);
    if (quota == nullptr || (name != kUsageBytes && name != kUsageFiles)) return -ENODATA;
    out = std::to_string(name == kUsageBytes ? quota->blocks * format::kBlock : quota->files);
    return 0;
}

// After recovery: what the attributes in the log say.
void Store::load_settings() {
    std::vector<std::pair<InodeNumber, std::pair<std::string, std::string>>> found;
    for (const auto& [ino, xattrs] : inodes_.xattrs) {
        for (const auto& pair : xattrs) {
            if (pair.first.starts_with(kSettingPrefix)) found.emplace_back(ino, pair);
        }
    }
    for (const auto& [ino, pair] : found) apply_setting(ino, pair.first, pair.second);
}

// questions (the mutex is held) ---------------------------------------------------------------

Store::Effective Store::effective_settings(InodeNumber ino) {
    Effective out;
    const auto inherit = [&](InodeNumber from) {
        Settings found;
        for (InodeNumber at = from;; at = inodes_.find(at)->directory->parent) {
            if (inodes_.find(at)->has(kHasSettings)) {
                const Settings& here = settings_.at(at);
                found.pinned_until_ns = std::max(found.pinned_until_ns, here.pinned_until_ns);
                if (!found.ttl_ns) found.ttl_ns = here.ttl_ns;
                if (!found.evictable) found.evictable = here.evictable;
            }
            if (at == kRoot) return found;
        }
    };
    const Inode& inode = *inodes_.find(ino);
    Settings own;
    if (inode.has(kHasSettings)) own = settings_.at(ino);
    const auto by_name = [&](NameId id) {
        const Settings found = inherit(names_.at(id).parent);
        out.pinned_until_ns = std::max({out.pinned_until_ns, own.pinned_until_ns, found.pinned_until_ns});
        out.evictable = out.evictable && own.evictable.value_or(found.evictable.value_or(true));
        const std::int64_t ttl = own.ttl_ns.value_or(found.ttl_ns.value_or(0));
        out.ttl_ns = id != inode.name && (out.ttl_ns == 0 || ttl == 0) ? 0 : std::max(out.ttl_ns, ttl);
    };
    by_name(inode.name);
    if (const auto extra = inodes_.extra_names.find(ino); inode.nlink > 1 && extra != inodes_.extra_names.end()) {
        for (const NameId id : extra->second) by_name(id);
    }
    return out;
}

Keep Store::keep_reason(InodeNumber ino) {
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr || !inode->is_regular() || inode->nlink == 0) return Keep::kNotAFile;
    if (const auto file = files_.find(ino); file != files_.end()) {
        return file->second->handles != 0 ? Keep::kOpen : Keep::kBeingWritten;  // state without handles: work in hand
    }
    if (!inode->has(kLogged)) return Keep::kBeingWritten;
    if (settings_.empty()) return Keep::kNothing;
    const Effective settings = effective_settings(ino);
    if (settings.pinned_until_ns > now_ns()) return Keep::kPinned;
    return settings.evictable ? Keep::kNothing : Keep::kNotEvictable;
}

Keep Store::why_kept(std::uint64_t ino) {
    const std::lock_guard guard(mutex_);
    return inodes_.find(ino) == nullptr ? Keep::kNotAFile : keep_reason(static_cast<InodeNumber>(ino));
}

}  // namespace kvfs::store
