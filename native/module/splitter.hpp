#pragma once

#include <nanobind/nanobind.h>

namespace kvfs::python {

void bind_splitter(nanobind::module_& m);

}  // namespace kvfs::python
