#pragma once

#include <nanobind/nanobind.h>

#include "store/store.hpp"

namespace kvfs::python {

// The components `health` and `physical` of a store's statistics.
nanobind::dict health_dict(store::Store& store);

nanobind::dict physical_dict(store::Store& store);

}  // namespace kvfs::python
