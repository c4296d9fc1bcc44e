#include "module/eviction.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <limits>

#include "module/module.hpp"
#include "store/eviction_job.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {

nb::dict eviction_statistics(store::Store& store) {
    const store::EvictionStatistics s = store.eviction_statistics();
    nb::dict out;
    out["evicts"] = s.evicts ? 1 : 0;
    out["low_bytes"] = s.low_blocks * format::kBlock;
    out["high_bytes"] = s.high_blocks * format::kBlock;
    nb::dict files;
    nb::dict bytes;
    for (std::size_t i = 0; i < s.files.size(); ++i) {
        const std::string_view name = store::kEvictReasons[i];
        const nb::str key(name.data(), name.size());
        files[key] = s.files[i];
        bytes[key] = s.blocks[i] * format::kBlock;
    }
    out["files_total"] = files;
    out["bytes_total"] = bytes;
    out["files_by_writers_total"] = s.by_writers;
    nb::dict policy;
    policy["files"] = s.policy.resident;
    policy["ghosts"] = s.policy.ghosts;
    policy["ghost_hits_total"] = s.policy.ghost_hits;
    policy["refused_total"] = s.policy.refused;
    policy["memory_bytes"] = s.policy.memory_bytes;
    out["policy"] = policy;
    return out;
}

namespace {

using store::EvictionJob;

nb::dict progress_of(const EvictionJob& job) {
    const EvictionJob::Progress& p = job.progress();
    nb::dict out;
    out["looked"] = p.looked;
    out["to_look"] = p.to_look;
    out["files"] = p.files;
    out["bytes"] = p.bytes;
    out["wanted_bytes"] = p.wanted_bytes;
    nb::dict kept;
    for (std::size_t i = 1; i < store::kKeepReasons.size(); ++i) {  // 0: nothing keeps it
        if (p.kept_files[i] == 0) continue;
        nb::dict entry;
        entry["files"] = p.kept_files[i];
        entry["bytes"] = p.kept_bytes[i];
        kept[nb::str(store::kKeepReasons[i].data(), store::kKeepReasons[i].size())] = entry;
    }
    out["kept"] = kept;
    out["used_files"] = p.used_files;
    return out;
}

}  // namespace

void bind_eviction(nb::module_& m) {
    nb::class_<EvictionJob>(m, "EvictionJob")
        .def(
            "__init__",
            [](EvictionJob* self, nb::handle store, std::vector<std::uint64_t> roots,
               std::optional<std::uint64_t> bytes, bool dry_run) {
                new (self) EvictionJob(
                    store_of(store),
                    {.roots = std::move(roots), .bytes = bytes.value_or(EvictionJob::kAll), .dry_run = dry_run});
            },
            "store"_a, nb::kw_only(), "roots"_a, "bytes"_a.none(), "dry_run"_a)
        .def("step",
             [](EvictionJob& self) {
                 const nb::gil_scoped_release unlocked;
                 return static_cast<int>(self.step());
             })
        .def("progress", &progress_of);
    m.attr("EVICTION_MORE") = static_cast<int>(EvictionJob::Step::kMore);
    m.attr("EVICTION_WAIT") = static_cast<int>(EvictionJob::Step::kWait);
    m.attr("EVICTION_DONE") = static_cast<int>(EvictionJob::Step::kDone);
}

}  // namespace kvfs::python
