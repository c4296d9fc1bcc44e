// What is done, in this order; killed at any point, it may be run again and loses nothing more (see salvage.cpp):
//   1. the volume is opened with what is left of its metadata; where that was damaged, a new checkpoint holds it;
//   2. headers of data segments are written anew: what they say is known from the log;
//   3. files with data that does not verify are read once more and dropped as on any read;
//   4. the volume is closed in order: a final checkpoint, and superblocks in place of damaged ones.
#include "store/repair.hpp"

#include <algorithm>
#include <cstring>

#include "store/scrub.hpp"
#include "store/store.hpp"

namespace kvfs::store {

class Repairer {
public:
    Repairer(const std::string& path, const CheckReport& found, const Options& opened, RepairReport& report)
        : found_(found), report_(report), store_(path, opened) {}

    void run() {
        metadata();
        headers();
        files();
        store_.close();
    }

private:
    void done(std::string line) { report_.done.push_back(std::move(line)); }

    void metadata() {
        for (const Damage& each : store_.superblock_damage_) done(each.where + ": written anew");
        if (store_.metadata_damage_.empty()) return;
        const Store::Gauges gauges = store_.gauges();
        done("checkpoint and log: a new checkpoint holds what is left, " + std::to_string(gauges.files) +
             " files and directories");
    }

    void headers() {
        for (const SegmentId id : found_.bad_headers) {
            const Segment& segment = store_.segments_.at(id);
            if (segment.live == 0) continue;
            const int rc = store_.write_segment_header(id, format::SegmentClass::kData);
            const std::string where = "segment " + std::to_string(id);
            done(where + (rc == 0 ? ": header written anew"
                                  : std::string(": its header cannot be written: ") + std::strerror(-rc)));
        }
    }

    void files() {
        for (const CheckReport::File& file : found_.bad_files) {
            const ScrubTally tally = store_.scrubber().verify(file.ino);
            report_.files_dropped += tally.dropped;
            if (tally.dropped > 0) done(file.path + ": dropped, its data does not verify");
            if (tally.unreadable > 0) done(file.path + ": left as it is, the device cannot read it");
        }
    }

    const CheckReport& found_;
    RepairReport& report_;
    Store store_;
};

RepairReport repair_volume(const std::string& path, bool verify_data,
                           const std::function<void(std::uint64_t, std::uint64_t)>& progress, Options opened) {
    opened.salvage = true;
    if (opened.owner.empty()) opened.owner = R"({"program": "kvfsctl fsck --repair"})";
    RepairReport report;
    report.before = check_volume(path, verify_data, progress, opened.tap);
    report.after = report.before;
    if (report.before.problem_count == 0) return report;
    Repairer(path, report.before, opened, report).run();
    report.after = check_volume(path, false, {}, opened.tap);
    // what the device could not read has not been looked at again, but for metadata
    const auto found_again = [&](const Damage& damage) {
        return std::any_of(report.after.problems.begin(), report.after.problems.end(),
                           [&](const Damage& each) { return each.kind == "io" && each.where == damage.where; });
    };
    for (const Damage& each : report.before.problems) {
        if (each.kind != "io" || found_again(each)) continue;
        report.after.problems.push_back(each);
        ++report.after.problem_count;
    }
    return report;
}

}  // namespace kvfs::store
