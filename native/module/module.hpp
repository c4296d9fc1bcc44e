// What the files of the Python module share.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "store/store.hpp"

namespace kvfs::python {

// The native store behind a kvfs._native.Store; raises OSError EBADF when it is closed. The GIL is held.
std::shared_ptr<store::Store> store_of(nanobind::handle store);

}  // namespace kvfs::python
