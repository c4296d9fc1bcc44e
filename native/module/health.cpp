#include "module/health.hpp"

#include <nanobind/stl/string.h>

namespace nb = nanobind;

namespace kvfs::python {

nb::dict health_dict(store::Store& store) {
    const store::Health health = store.health();
    const auto& state = health.state;
    constexpr const char* kNames[] = {"healthy", "read-only", "recovering", "fenced"};
    nb::dict out;
    out["state"] = kNames[static_cast<unsigned>(state.condition)];
    out["error"] = -state.error;
    out["reason"] = state.reason;
    out["last_answer"] = state.last_answer;
    out["since_unix"] = static_cast<double>(state.since_ns) / 1e9;
    out["failures_total"] = state.failures;
    out["recoveries_total"] = state.recoveries;
    out["failed_recoveries_total"] = state.failed_recoveries;
    out["verified_bytes_total"] = state.verified_blocks * format::kBlock;
    out["unanswered_total"] = health.answers_given_up;
    out["unanswered"] = health.still_unanswered;
    out["oldest_request_seconds"] = static_cast<double>(health.oldest_request_ns) / 1e9;
    return out;
}

nb::dict physical_dict(store::Store& store) {
    const store::PhysicalSpace space = store.physical_space();
    constexpr const char* kNames[] = {"plenty", "low", "scarce", "refuse"};
    nb::dict out;
    out["known"] = space.ledger.is_known ? 1 : 0;
    out["total_bytes"] = space.ledger.total_bytes;
    out["free_bytes"] = space.ledger.free_bytes;
    out["usable_bytes"] = space.usable_bytes;
    out["level"] = kNames[static_cast<unsigned>(space.level)];
    out["to_evict_bytes"] = space.to_evict_bytes;
    out["readings_total"] = space.ledger.readings;
    out["refusals_total"] = space.ledger.refusals;
    return out;
}

}  // namespace kvfs::python
