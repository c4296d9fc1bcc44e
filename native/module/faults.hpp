#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "uring/tap.hpp"

namespace kvfs::python {

// The tap behind a kvfs._native.FaultInjector; null for None.
std::shared_ptr<uring::Tap> tap_of(nanobind::handle injector);

void bind_faults(nanobind::module_& m);

}  // namespace kvfs::python
