// The scrubber's part of kvfs._native.
#include "store/scrub.hpp"

#include <nanobind/nanobind.h>

#include "module/module.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {

nb::dict scrub_dict(store::Store& store) {
    const store::ScrubStatus status = store.scrubber().status();
    nb::dict out;
    out["running"] = status.running ? 1 : 0;
    out["next_inode"] = status.next;
    out["rate_bytes"] = status.rate;
    out["expected_bytes"] = status.expected;
    out["pass_files"] = status.tally.files;
    out["pass_bytes"] = status.tally.bytes;
    out["pass_damaged"] = status.tally.damaged;
    out["pass_dropped"] = status.tally.dropped;
    out["pass_unreadable"] = status.tally.unreadable;
    out["started_ns"] = status.started_ns;
    out["finished_ns"] = status.finished_ns;
    out["passes_total"] = status.passes;
    return out;
}

void bind_scrub(nb::module_& m) {
    m.def(
        "scrub_start", [](nb::handle store, std::uint64_t rate) { store_of(store)->scrubber().start(rate); }, "store"_a,
        "rate"_a = 0);
    m.def(
        "scrub_pause",
        [](nb::handle store) {
            const auto shared = store_of(store);
            const nb::gil_scoped_release unlocked;
            shared->scrubber().stop();
        },
        "store"_a);
    m.def(
        "scrub_cancel",
        [](nb::handle store) {
            const auto shared = store_of(store);
            const nb::gil_scoped_release unlocked;
            shared->scrubber().cancel();
        },
        "store"_a);
    m.def(
        "scrub_status", [](nb::handle store) { return scrub_dict(*store_of(store)); }, "store"_a);
}

}  // namespace kvfs::python
