// What the files of the Python module share.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "pool/pool.hpp"
#include "store/store.hpp"

namespace kvfs::python {

// What is behind a kvfs._native.Store; raises OSError EBADF when it is closed. The GIL is held.
std::shared_ptr<pool::Pool> pool_of(nanobind::handle store);
// Its one namespace.
std::shared_ptr<store::Store> store_of(nanobind::handle store);

// check and repair of volumes that nobody has mounted
void bind_check(nanobind::module_& m);

// scrubbing of an open store, and the part of its statistics that is about that
void bind_scrub(nanobind::module_& m);
nanobind::dict scrub_dict(store::Store& store);

}  // namespace kvfs::python
