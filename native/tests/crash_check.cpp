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
    }
    return {};
}

std::string Checker::compare(const History& history, const Contents& found, Time crash, std::size_t& state) const {
    const auto [first, last] = history.allowed(crash);
    const Digest digest = digest_of(found);
    for (std::size_t i = last + 1; i-- > first;) {
        if (history.states[i].digest != digest) continue;
        state = i;
        return {};
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
    const Contents& expected = history.states[first].contents;
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
    found_.assign(histories_.size(), 0);
    for (std::size_t i = 0; i < histories_.size(); ++i) {
        Contents contents;
        std::string problem = read_directory(store, histories_[i].directory, contents);
        if (problem.empty()) problem = compare(histories_[i], contents, crash, found_[i]);
        if (!problem.empty()) return problem;
    }
    if (store.counters().checksum_errors != 0) return "a checksum was wrong";
    return events_of(store);
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

std::string Checker::check(MemoryDevice& device, Time crash, bool thorough) {
    try {
        std::string problem;
        if (thorough) problem = fsck(device, true);
        if (!problem.empty()) return problem;
        {
            Store store(path_, small_store(device));
            problem = recovered(store, crash);
            if (problem.empty() && thorough) problem = accepts_a_write(store);
        }
        if (!problem.empty() || !thorough) return problem;
        problem = fsck(device, false);
        if (!problem.empty()) return problem;
        Store again(path_, small_store(device));
        const auto before = found_;
        problem = recovered(again, crash);
        if (problem.empty() && found_ != before) problem = "another state is found when the store is opened again";
        Attributes witness{};
        if (problem.empty() && again.lookup(store::kRoot, kWitness, witness) != 0) problem = "a fsynced file is gone";
        return problem;
    } catch (const store::OpenError& failure) {
        return std::string("the store cannot be opened: ") + failure.what();
    }
}

}  // namespace kvfs::crash
