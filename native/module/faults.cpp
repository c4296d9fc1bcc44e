// kvfs._native.FaultInjector: faults for tests.
#include "module/faults.hpp"

#include <nanobind/stl/string.h>

#include <array>
#include <string>

#include "uring/faults.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

using uring::FaultInjector;
using uring::OpKind;

struct PyFaultInjector {
    std::shared_ptr<FaultInjector> injector;
};

constexpr std::array kKinds{std::pair("read", OpKind::kRead), std::pair("write", OpKind::kWrite),
                            std::pair("sync", OpKind::kSync), std::pair("punch", OpKind::kPunch)};
constexpr std::array kEffects{
    std::pair("error", FaultInjector::Effect::kError), std::pair("short", FaultInjector::Effect::kShort),
    std::pair("delay", FaultInjector::Effect::kDelay), std::pair("hang", FaultInjector::Effect::kHang)};

template <typename Table>
auto named(const Table& table, const std::string& name, const char* what) {
    std::string known;
    for (const auto& [each, value] : table) {
        if (name == each) return value;
        known += (known.empty() ? "" : ", ") + std::string(each);
    }
    throw nb::value_error((std::string("expected ") + what + " to be one of " + known + ", found " + name).c_str());
}

std::uint64_t add(PyFaultInjector& self, const nb::list& kinds, const std::string& effect, int error, double seconds,
                  std::uint64_t from, std::uint64_t to, const nb::object& count, std::uint64_t skip,
                  double probability) {
    FaultInjector::Rule rule;
    for (const nb::handle kind : kinds) {
        rule.kinds |= 1U << static_cast<unsigned>(named(kKinds, nb::cast<std::string>(kind), "a kind"));
    }
    rule.effect = named(kEffects, effect, "the effect");
    rule.error = error;
    rule.delay = std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
    rule.from = from;
    rule.to = to == 0 ? ~std::uint64_t{0} : to;
    if (!count.is_none()) rule.count = nb::cast<std::uint64_t>(count);
    rule.skip = skip;
    rule.probability = probability;
    return self.injector->add(rule);
}

nb::dict statistics(const PyFaultInjector& self) {
    nb::list rules;
    for (const auto& rule : self.injector->rules()) {
        nb::dict entry;
        entry["id"] = rule.id;
        for (const auto& [name, effect] : kEffects) {
            if (effect == rule.effect) entry["effect"] = name;
        }
        entry["hits"] = rule.hits;
        rules.append(entry);
    }
    nb::dict out;
    out["rules"] = rules;
    out["held"] = self.injector->held();
    return out;
}

}  // namespace

std::shared_ptr<uring::Tap> tap_of(nb::handle injector) {
    if (injector.is_none()) return nullptr;
    return nb::cast<PyFaultInjector&>(injector).injector;
}

void bind_faults(nb::module_& m) {
    nb::class_<PyFaultInjector>(m, "FaultInjector")
        .def(
            "__init__",
            [](PyFaultInjector* self, std::uint64_t seed) {
                new (self) PyFaultInjector{std::make_shared<FaultInjector>(seed)};
            },
            "seed"_a = 0)
        .def("add", &add, "kinds"_a, "effect"_a, nb::kw_only(), "error"_a = 5, "seconds"_a = 0.0, "offset"_a = 0,
             "end"_a = 0, "count"_a = nb::none(), "skip"_a = 0, "probability"_a = 1.0)
        .def(
            "remove", [](PyFaultInjector& self, std::uint64_t id) { return self.injector->remove(id); }, "rule"_a)
        .def("clear", [](PyFaultInjector& self) { self.injector->clear(); })
        .def("statistics", &statistics);
}

}  // namespace kvfs::python
