// The eviction policies' part of kvfs._native.
#pragma once

#include <nanobind/nanobind.h>

namespace kvfs::python {

void bind_policy(nanobind::module_& m);

}  // namespace kvfs::python
