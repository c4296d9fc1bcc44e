#include "module/settings.hpp"

#include <nanobind/stl/string.h>

#include "module/module.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

nb::object to_text(std::string_view bytes) {
    return nb::steal(PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "backslashreplace"));
}

nb::list quotas(nb::handle store, bool recount) {
    const auto native = store_of(store);
    nb::list out;
    for (const auto& report : native->quota_reports(recount)) {
        nb::dict entry;
        entry["path"] = to_text(report.path);
        entry["inode"] = report.directory;
        entry["bytes"] = report.quota.blocks * format::kBlock;
        entry["files"] = report.quota.files;
        entry["most_bytes"] = report.quota.most_bytes;
        entry["most_files"] = report.quota.most_files;
        entry["refused"] = report.quota.refused;
        if (recount) {
            entry["counted_bytes"] = report.counted_blocks * format::kBlock;
            entry["counted_files"] = report.counted_files;
        }
        out.append(entry);
    }
    return out;
}

nb::object why_kept(nb::handle store, std::uint64_t ino) {
    const store::Keep keep = pool_of(store)->why_kept(ino);
    return keep == store::Keep::kNothing ? nb::object(nb::none())
                                         : to_text(store::kKeepReasons[static_cast<std::size_t>(keep)]);
}

}  // namespace

void add_settings_statistics(nb::dict& out, store::Store& store) {
    const auto& c = store.counters();
    const auto get = [](const std::atomic<std::uint64_t>& value) { return value.load(std::memory_order_relaxed); };
    const auto gauges = store.settings_gauges();
    nb::dict settings;
    settings["quotas"] = gauges.quotas;
    settings["quota_refusals_total"] = get(c.quota_refused);
    settings["inodes_with_settings"] = gauges.inodes;
    settings["refused_total"] = get(c.settings_refused);
    out["settings"] = settings;
    nb::dict sweep;
    sweep["passes_total"] = get(c.sweeps);
    sweep["orphans_removed_total"] = get(c.orphans_removed);
    sweep["expired_removed_total"] = get(c.expired_removed);
    sweep["removed_bytes_total"] = get(c.swept_bytes);
    out["sweep"] = sweep;
}

void bind_settings(nb::module_& m) {
    m.def("quotas", &quotas, "store"_a, "recount"_a = false);
    m.def("why_kept", &why_kept, "store"_a, "ino"_a);
    m.def(
        "sweep", [](nb::handle store, std::int64_t now_ns) { pool_of(store)->sweep_now(now_ns); }, "store"_a,
        "now_ns"_a);
}

}  // namespace kvfs::python
