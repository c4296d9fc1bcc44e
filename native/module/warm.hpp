// The warm tier's part of kvfs._native.
#pragma once

#include <nanobind/nanobind.h>

namespace kvfs::python {

void bind_warm(nanobind::module_& m);

}  // namespace kvfs::python
