// The Python face of eviction: its part of a store's statistics, and what kvfsctl evict and drain do.
#pragma once

#include <nanobind/nanobind.h>

#include "store/store.hpp"

namespace kvfs::python {

nanobind::dict eviction_statistics(store::Store& store);

void bind_eviction(nanobind::module_& m);

}  // namespace kvfs::python
