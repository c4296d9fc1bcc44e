// fsck's part of kvfs._native.
#include "store/check.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "module/module.hpp"
#include "module/ownership.hpp"
#include "store/repair.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

// Names of files need not be UTF-8.
nb::object to_text(const std::string& text) {
    return nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace"));
}

nb::dict to_dict(const store::CheckReport& report) {
    nb::dict out;
    out["files"] = report.files;
    out["directories"] = report.directories;
    out["bytes"] = report.bytes;
    out["extents"] = report.extents;
    out["segments"] = report.segments;
    out["segments_used"] = report.segments_used;
    out["log_frames"] = report.log_frames;
    out["clean"] = report.was_clean;
    nb::list problems;
    for (const auto& problem : report.problems) {
        nb::dict entry;
        entry["kind"] = problem.kind;
        entry["where"] = to_text(problem.where);
        entry["detail"] = to_text(problem.detail);
        problems.append(entry);
    }
    out["problems"] = problems;
    out["problem_count"] = report.problem_count;
    return out;
}

// Called without the GIL, and without anything to call where `progress` is None.
std::function<void(std::uint64_t, std::uint64_t)> teller(const nb::object& progress) {
    if (progress.is_none()) return {};
    return [&progress](std::uint64_t done, std::uint64_t total) {
        const nb::gil_scoped_acquire locked;
        progress(done, total);
    };
}

nb::dict check(const std::string& path, bool verify_data, const nb::object& progress) {
    store::CheckReport report;
    {
        const nb::gil_scoped_release unlocked;
        report = store::check_volume(path, verify_data, teller(progress));
    }
    return to_dict(report);
}

nb::dict repair(const std::string& path, bool verify_data, const nb::object& progress, const std::string& owner,
                const nb::bytes& host, const std::string& host_name, const nb::object& on_locked) {
    const store::Options opened{
        .owner = owner, .host = to_uuid(host, "host"), .host_name = host_name, .on_locked = locked_caller(on_locked)};
    store::RepairReport report;
    {
        const nb::gil_scoped_release unlocked;
        report = store::repair_volume(path, verify_data, teller(progress), opened);
    }
    nb::dict out;
    out["before"] = to_dict(report.before);
    out["after"] = to_dict(report.after);
    nb::list done;
    for (const std::string& line : report.done) done.append(to_text(line));
    out["done"] = done;
    out["files_dropped"] = report.files_dropped;
    return out;
}

}  // namespace

void bind_check(nb::module_& m) {
    m.def("check", &check, "path"_a, "verify_data"_a = true, "progress"_a = nb::none());
    m.def("repair", &repair, "path"_a, "verify_data"_a = true, "progress"_a = nb::none(), nb::kw_only(), "owner"_a = "",
          "host"_a = nb::bytes(""), "host_name"_a = "", "on_locked"_a = nb::none());
}

}  // namespace kvfs::python
