// kvfs._native: eviction policies on their own, for the simulator and for tests.
#include "module/policy.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/unordered_set.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "policy/policy.hpp"
#include "policy/simulation.hpp"
#include "policy/trace.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

using policy::Key;
using policy::ObjectId;

nb::dict to_dict(const policy::Statistics& s) {
    nb::dict out;
    out["resident"] = s.resident;
    out["ghosts"] = s.ghosts;
    out["ghost_hits"] = s.ghost_hits;
    out["evicted"] = s.evicted;
    out["refused"] = s.refused;
    out["memory_bytes"] = s.memory_bytes;
    return out;
}

std::vector<std::string> to_strings(const std::vector<std::string_view>& names) { return {names.begin(), names.end()}; }

// A policy with its host: what the caller said of each object.
class PyPolicy final : public policy::Host {
public:
    PyPolicy(const std::string& name, std::uint64_t capacity_bytes)
        : policy_(policy::make_policy(name, *this, {.capacity_bytes = capacity_bytes})) {
        if (policy_ == nullptr) throw std::invalid_argument("no such policy: " + name);
    }

    void admitted(ObjectId id, Key key, std::uint64_t length, std::int64_t now_ns, std::uint32_t client,
                  std::optional<std::uint64_t> space) {
        objects_[id] = {.key = key, .space = space.value_or(length)};
        policy_->admitted(id, length, {.now_ns = now_ns, .client = client});
    }
    void touched(ObjectId id, std::int64_t now_ns, std::uint32_t client) {
        policy_->touched(id, {.now_ns = now_ns, .client = client});
    }
    void missed(Key key, std::int64_t now_ns, std::uint32_t client) {
        policy_->missed(key, {.now_ns = now_ns, .client = client});
    }
    void removed(ObjectId id) { policy_->removed(id); }
    std::vector<ObjectId> victims(std::uint64_t bytes_wanted, std::unordered_set<ObjectId> refused,
                                  const std::optional<std::unordered_set<ObjectId>>& among) {
        refused_ = std::move(refused);
        std::vector<ObjectId> out;
        policy::Policy::Filter filter;
        if (among) filter = [&among](ObjectId id) { return among->contains(id); };
        policy_->victims(bytes_wanted, filter, out);
        return out;
    }
    [[nodiscard]] nb::dict statistics() const { return to_dict(policy_->statistics()); }

    [[nodiscard]] std::uint64_t space(ObjectId id) const override { return objects_.at(id).space; }
    [[nodiscard]] Key key(ObjectId id) const override { return objects_.at(id).key; }
    [[nodiscard]] bool may_evict(ObjectId id) const override { return !refused_.contains(id); }

private:
    struct Object {
        Key key = 0;
        std::uint64_t space = 0;
    };
    std::unordered_map<ObjectId, Object> objects_;  // also those that are gone
    std::unordered_set<ObjectId> refused_;
    std::unique_ptr<policy::Policy> policy_;
};

void add_request(policy::Trace& trace, std::int64_t now_ns, std::uint32_t client, float tail,
                 const std::vector<std::pair<ObjectId, std::uint32_t>>& runs) {
    if (!(tail > 0 && tail <= 1)) {
        throw std::invalid_argument("expected a tail in (0, 1], found " + std::to_string(tail));
    }
    std::vector<policy::Trace::Run> out;
    out.reserve(runs.size());
    for (const auto& [first, length] : runs) {
        if (length > std::numeric_limits<ObjectId>::max() - 1 - first) {
            throw std::invalid_argument("expected block ids below 2^32 - 1, found a run of " + std::to_string(length) +
                                        " from " + std::to_string(first));
        }
        out.push_back({.first = first, .length = length});
    }
    trace.add(now_ns, client, tail, out);
}

}  // namespace

void bind_policy(nb::module_& m) {
    m.def("eviction_policies", [] { return to_strings(policy::names()); });
    m.def("simulated_policies", [] { return to_strings(policy::Simulation::policy_names()); });

    nb::class_<PyPolicy>(m, "EvictionPolicy")
        .def(nb::init<const std::string&, std::uint64_t>(), "name"_a, "capacity_bytes"_a)
        .def("admitted", &PyPolicy::admitted, "id"_a, "key"_a, "length"_a, "now_ns"_a, nb::kw_only(), "client"_a = 0,
             "space"_a = nb::none())
        .def("touched", &PyPolicy::touched, "id"_a, "now_ns"_a, nb::kw_only(), "client"_a = 0)
        .def("missed", &PyPolicy::missed, "key"_a, "now_ns"_a, nb::kw_only(), "client"_a = 0)
        .def("removed", &PyPolicy::removed, "id"_a)
        .def("victims", &PyPolicy::victims, "bytes_wanted"_a, nb::kw_only(),
             "refused"_a = std::unordered_set<ObjectId>{}, "among"_a = nb::none())
        .def("statistics", &PyPolicy::statistics);

    nb::class_<policy::Trace>(m, "CacheTrace")
        .def(nb::init<>())
        .def("add", &add_request, "now_ns"_a, "client"_a, "tail"_a, "runs"_a)
        .def_prop_ro("requests", [](const policy::Trace& self) { return self.requests().size(); })
        .def_prop_ro("blocks", &policy::Trace::blocks)
        .def_prop_ro("references", &policy::Trace::references);

    nb::class_<policy::Simulation>(m, "CacheSimulation")
        .def(nb::init<const policy::Trace&, std::string_view, std::uint64_t>(), "trace"_a, "policy"_a,
             "capacity_blocks"_a, nb::keep_alive<1, 2>())
        .def("step", &policy::Simulation::step, "requests"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("result", [](const policy::Simulation& self) {
            const auto result = self.result();
            nb::dict out = to_dict(result.policy);
            out["requests"] = result.requests;
            out["references"] = result.references;
            out["prefix_hits"] = result.prefix_hits;
            out["hits"] = result.hits;
            out["most_resident"] = result.most_resident;
            out["cpu_ns"] = result.cpu_ns;
            return out;
        });
}

}  // namespace kvfs::python
