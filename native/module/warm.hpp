// The warm tier's part of kvfs._native.
#pragma once

#include <nanobind/nanobind.h>

#include "warm/tier.hpp"

namespace kvfs::python {

nanobind::dict to_dict(const warm::Statistics& statistics);

void bind_warm(nanobind::module_& m);

}  // namespace kvfs::python
