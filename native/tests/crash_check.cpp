#include "tests/crash_check.hpp"

#include <sys/stat.h>

#include <sstream>

#include "store/check.hpp"

namespace kvfs::crash {
namespace {

using store::Attributes;
using store::Store;
using uring::block_on;

const char* const kWitness = "written after the crash";

std::string events_of(Store& store) {
    for (const auto& event : store.take_events()) {
        if (const auto* line = std::get_if<store::LogEvent>(&event); line != nullptr && line->level >= 30) {
            return "the store says: " + line->text;
        }
        if (const auto* drop = std::get_if<store::DropEvent>(&event)) return "the store dropped " + drop->name;
    }
    return {};
}

}  // namespace

store::Options small_store(MemoryDevice& device) {
    store::Options options;
    options.owner = "{}";
    options.buffer_bytes = 1;
    options.cache_bytes = std::size_t{1} << 20;
    options.rings = 1;
    options.tap = &device;
    return options;
}

std::string Checker::read_file(Store& store, const Attributes& file, Digest& out) {
    std::vector<std::byte> bytes(file.size);
    for (std::uint64_t at = 0; at < file.size; at += kRead) {
        const auto got = block_on(store.read_into(file.ino, at, {memory_.data(), kRead}));
        const auto wanted = static_cast<std::int64_t>(std::min<std::uint64_t>(kRead, file.size - at));
        if (got != wanted) {
            std::ostringstream text;
            text << "read at " << at << ": expected " << wanted << ", found " << got;
            return text.str();
        }
        std::copy_n(memory_.data(), wanted, bytes.begin() + static_cast<std::ptrdiff_t>(at));
    }
    out = digest_of(bytes);
    return {};
}

std::string Checker::read_directory(Store& store, const std::string& name, Contents& out) {
    Attributes directory{};
    if (store.lookup(store::kRoot, name, directory) != 0) return name + ": the directory is gone";
    std::vector<store::NameId> ids;
    if (store.list(directory.ino, ids) != 0) return name + ": cannot be listed";
    for (const auto id : ids) {
        std::string entry;
        Attributes found{};
        if (!store.entry(directory.ino, id, entry, found, false)) return name + ": an entry is not there";
        std::string problem = read_file(store, found, out[entry]);
        if (!problem.empty()) return std::string(name).append("/").append(entry).append(": ").append(problem);
        std::string pin;
        if (store.getxattr(found.ino, kPin, pin) == 0) out[pin_of(entry)] = kPinned;
    }
    return {};
}

std::string Checker::compare(const History& history, const Contents& found, Time crash, std::size_t& state) const {
    const auto [first, last, evicted] = history.allowed(crash);
    const Digest digest = digest_of(found);
    for (std::size_t i = last + 1; i-- > first;) {
        const auto [least, most] = history.evictions_with(i, crash);
        for (std::size_t gone = std::max(least, evicted); gone <= most; ++gone) {
            if ((gone == 0 ? history.states[i].digest : digest_of(history.left_of(i, gone))) != digest) continue;
            state = i;
            return {};
        }
    }
    std::ostringstream out;
    out << history.directory << ": expected its state " << first << " to " << last << ", found ";
    for (std::size_t i = history.states.size(); i-- > 0;) {
        if (history.states[i].digest == digest) {
            out << "state " << i << (i < first ? ", older than what was fsynced" : ", newer than what was asked for");
            return out.str();
        }
    }
    out << "none of its states; against state " << first << ":";
    const Contents expected = history.left_of(first, evicted);
    for (const auto& [name, content] : expected) {
        const auto it = found.find(name);
        if (it == found.end()) out << " " << name << " missing;";
        if (it == found.end() || it->second == content) continue;
        bool known = false;
        for (std::size_t i = 0; i < history.states.size() && !known; ++i) {
            for (const auto& [other, version] : history.states[i].contents) {
                if (version != it->second) continue;
                out << " " << name << " is " << other << " of state " << i << ";";
                known = true;
                break;
            }
        }
        if (!known) out << " " << name << " has bytes that nobody ever published;";
    }
    for (const auto& [name, content] : found) {
        if (!expected.contains(name)) out << " " << name << " appeared;";
    }
    return out.str();
}

std::string Checker::recovered(Store& store, Time crash) {
    std::string problem = read_all(store);
    found_.assign(histories_.size(), 0);
    for (std::size_t i = 0; i < histories_.size() && problem.empty(); ++i) {
        problem = compare(histories_[i], contents_[i], crash, found_[i]);
    }
    return problem;
}

std::string Checker::read_all(Store& store) {
    contents_.assign(histories_.size(), {});
    for (std::size_t i = 0; i < histories_.size(); ++i) {
        std::string problem = read_directory(store, histories_[i].directory, contents_[i]);
        if (!problem.empty()) return problem;
    }
    if (store.counters().checksum_errors != 0) return "a checksum was wrong";
    return events_of(store);
}

// As many files as the store says that it evicted are gone, none of them pinned, and nothing else has changed.
std::string Checker::compare_evicted(const std::vector<Contents>& before, const std::vector<Contents>& after,
                                     std::uint64_t evicted) {
    std::uint64_t gone = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
        for (const auto& [name, digest] : before[i]) {
            const auto it = after[i].find(name);
            if (it != after[i].end() && it->second != digest) return name + ": other bytes after the next mount";
            if (it != after[i].end()) continue;
            if (before[i].contains(pin_of(name))) return name + ": was pinned before the crash, and evicted after it";
            ++gone;
        }
        for (const auto& [name, digest] : after[i]) {
            if (!before[i].contains(name)) return name + ": appeared after the next mount";
        }
    }
    if (gone == evicted) return {};
    return std::to_string(evicted) + " files were evicted, " + std::to_string(gone) + " are gone";
}

std::string Checker::accepts_a_write(Store& store) {
    Attributes made{};
    int rc = store.make(store::kRoot, kWitness, S_IFREG | 0644, {}, {}, true, made);
    if (rc != 0) return "a file cannot be created after recovery: " + std::to_string(rc);
    rc = store.open(made.ino, true);
    const std::vector<std::byte> bytes(100'000, std::byte{0x5a});
    const auto wrote = block_on(store.write(made.ino, 0, bytes));
    const int safe = block_on(store.fsync(made.ino));
    if (rc == 0) store.release(made.ino, true);
    store.forget(made.ino, 1);
    if (rc == 0 && wrote == static_cast<std::int64_t>(bytes.size()) && safe == 0) return events_of(store);
    return "a file cannot be written after recovery: open " + std::to_string(rc) + ", write " + std::to_string(wrote) +
           ", fsync " + std::to_string(safe);
}

// A crash may leave one torn copy of the superblock, which the next mount writes anew: everything else is a finding.
std::string Checker::fsck(MemoryDevice& device, bool crashed) {
    const auto report = store::check_volume(path_, true, nullptr, &device);
    std::size_t torn = 0;
    for (const auto& problem : report.problems) {
        if (crashed && problem.kind == "superblock" && torn++ == 0) continue;
        return std::string("fsck ") + (crashed ? "of the crashed store" : "after the mount") + ": " + problem.kind +
               ": " + problem.where + ": " + problem.detail;
    }
    return {};
}

// A store that may be full takes a write when it evicts. That is a mount of its own: what the crash left was read where
// nothing could go.
std::string Checker::check_again(MemoryDevice& device, Time crash) {
    const auto found = found_;
    const auto before = contents_;
    std::uint64_t evicted = 0;
    std::string problem;
    if (evicts_) {
        store::Options options = small_store(device);
        options.evict = true;
        Store store(path_, options);
        problem = accepts_a_write(store);
        store.close();
        for (const std::uint64_t files : store.eviction_statistics().files) evicted += files;
    }
    if (problem.empty()) problem = fsck(device, false);
    if (!problem.empty()) return problem;
    Store again(path_, small_store(device));
    if (evicts_) {
        problem = read_all(again);
        if (problem.empty()) problem = compare_evicted(before, contents_, evicted);
    } else {
        problem = recovered(again, crash);
        if (problem.empty() && found_ != found) problem = "another state is found when the store is opened again";
    }
    Attributes witness{};
    if (problem.empty() && again.lookup(store::kRoot, kWitness, witness) != 0) problem = "a fsynced file is gone";
    return problem;
}

std::string Checker::check(MemoryDevice& device, Time crash, bool thorough) {
    try {
        std::string problem;
        if (thorough) problem = fsck(device, true);
        if (!problem.empty()) return problem;
        {
            Store store(path_, small_store(device));
            problem = recovered(store, crash);
            if (problem.empty() && thorough && !evicts_) problem = accepts_a_write(store);
        }
        return problem.empty() && thorough ? check_again(device, crash) : problem;
    } catch (const store::OpenError& failure) {
        return std::string("the store cannot be opened: ") + failure.what();
    }
}

}  // namespace kvfs::crash
