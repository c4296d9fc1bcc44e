// The part of kvfs._native about quotas, pins and sweeping.
#pragma once

#include <nanobind/nanobind.h>

#include "store/store.hpp"

namespace kvfs::python {

void add_settings_statistics(nanobind::dict& out, store::Store& store);

void bind_settings(nanobind::module_& m);

}  // namespace kvfs::python
