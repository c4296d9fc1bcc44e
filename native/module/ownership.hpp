#pragma once

#include <nanobind/nanobind.h>

#include <functional>

#include "store/store.hpp"

namespace kvfs::python {

// All zero when there are no bytes. OpenError(EINVAL) when they are not 16; `what` they are.
format::Uuid to_uuid(const nanobind::bytes& bytes, const char* what);

// For Options::on_locked: to be called without the GIL, while `callee` (None: nothing) is alive.
std::function<void(int)> locked_caller(const nanobind::object& callee);

// "beat" and "claim" of inspect(): who says what about whose volume `uuid` is; None where nobody does.
void add_host_marks(nanobind::dict& out, const std::string& path, const format::Uuid& uuid);

// The component `ownership` of a store's statistics.
nanobind::dict ownership_dict(store::Store& store);

void bind_ownership(nanobind::module_& m);

}  // namespace kvfs::python
