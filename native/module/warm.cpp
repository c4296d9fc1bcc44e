// kvfs._native.WarmTier: the tier on its own, for tests and for whoever serves its pages without the splitter.
#include "module/warm.hpp"

#include <nanobind/stl/string.h>

#include <cerrno>
#include <cstring>

#include "module/module.hpp"
#include "uring/async.hpp"
#include "warm/ioctl.hpp"
#include "warm/tier.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

[[noreturn]] void raise_errno(int negative) {
    PyObject* args = Py_BuildValue("(is)", -negative, std::strerror(-negative));
    PyErr_SetObject(PyExc_OSError, args);
    Py_XDECREF(args);
    throw nb::python_error();
}

// Blocks the calling thread, without the GIL, until the task is done.
template <typename T>
T wait_for(uring::Async<T> task) {
    const nb::gil_scoped_release unlocked;
    return uring::block_on(std::move(task));
}

struct PyPage {
    warm::PagePtr page;
};

int page_get(PyObject* self, Py_buffer* view_out, int flags) {
    const auto bytes = nb::inst_ptr<PyPage>(self)->page->bytes();
    return PyBuffer_FillInfo(view_out, self, const_cast<std::byte*>(bytes.data()),
                             static_cast<Py_ssize_t>(bytes.size()), 1, flags);
}

PyType_Slot page_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(page_get)}, {0, nullptr}};

nb::object to_python(warm::PagePtr page) { return page == nullptr ? nb::none() : nb::cast(PyPage{std::move(page)}); }

class PyTier {
public:
    PyTier(nb::handle store, const warm::Options& options) : store_(pool_of(store)) {
        tier_ = std::make_unique<warm::Tier>(*store_, options);
        store_->set_inode_hook([tier = tier_.get()](std::uint64_t ino) { tier->forget(ino); });
    }
    ~PyTier() {
        if (tier_ != nullptr) close();
    }
    warm::Tier& tier() {
        if (tier_ == nullptr) raise_errno(-EBADF);
        return *tier_;
    }
    void close() {
        if (tier_ == nullptr) return;
        const nb::gil_scoped_release unlocked;
        store_->set_inode_hook({});
        tier_.reset();
    }

private:
    std::shared_ptr<pool::Pool> store_;
    std::unique_ptr<warm::Tier> tier_;
};

}  // namespace

nb::dict to_dict(const warm::Statistics& s) {
    nb::dict out;
    out["budget_bytes"] = s.budget_bytes;
    out["limit_bytes"] = s.limit_bytes;
    out["bytes"] = s.bytes;
    out["pages"] = s.pages;
    out["passthrough_handles"] = s.users;
    out["hits_total"] = s.hits;
    out["misses_total"] = s.misses;
    out["stagings_total"] = s.stagings;
    out["staged_bytes_total"] = s.staged_bytes;
    out["staging_failures_total"] = s.staging_failures;
    out["stale_stagings_total"] = s.stale_stagings;
    out["refused_total"] = s.refused;
    out["evictions_total"] = s.evictions;
    out["pressure_shrinks_total"] = s.pressure_shrinks;
    out["refreshes_total"] = s.refreshes;
    out["mapped_bytes_written_total"] = s.mapped_bytes;
    out["passthrough"] = s.passthrough ? 1 : 0;
    out["pressure_trigger"] = s.pressure_trigger ? 1 : 0;
    out["memory"] = s.memory;
    return out;
}

void bind_warm(nb::module_& m) {
    m.def("default_warm_budget", [] { return warm::default_budget(); });
    m.def(
        "memory_reading",
        [](const std::string& root) {
            const warm::Headroom headroom(root);
            const auto reading = headroom.read();
            return nb::make_tuple(reading.total, reading.available, headroom.floor());
        },
        "root"_a = "");

    nb::class_<PyPage>(m, "WarmPage", nb::type_slots(page_slots))
        .def_prop_ro("ino", [](const PyPage& self) { return self.page->ino(); })
        .def_prop_ro("backing_id", [](const PyPage& self) { return self.page->backing_id(); })
        .def_prop_ro("fd", [](const PyPage& self) { return self.page->fd(); })
        .def("__len__", [](const PyPage& self) { return self.page->size(); });

    nb::class_<PyTier>(m, "WarmTier")
        .def(
            "__init__",
            [](PyTier* self, nb::handle store, std::uint64_t budget, std::uint64_t least_file,
               std::uint64_t largest_file, int fuse_fd, const std::string& system_root) {
                new (self) PyTier(store, {.budget_bytes = budget,
                                          .least_file = least_file,
                                          .largest_file = largest_file,
                                          .fuse_fd = fuse_fd,
                                          .passthrough = fuse_fd >= 0,
                                          .system_root = system_root});
            },
            "store"_a, "budget"_a, nb::kw_only(), "least_file"_a = 64 * 1024, "largest_file"_a = 0, "fuse_fd"_a = -1,
            "system_root"_a = "")
        .def("find", [](PyTier& self, std::uint64_t ino) { return to_python(self.tier().find(ino)); })
        .def("stage", [](PyTier& self, std::uint64_t ino) { return to_python(wait_for(self.tier().stage(ino))); })
        .def("opened", [](PyTier& self, std::uint64_t ino) { return to_python(self.tier().opened(ino)); })
        .def("released", [](PyTier& self, const PyPage& page) { self.tier().released(page.page); })
        .def("joined",
             [](PyTier& self, const PyPage& page, bool may_write) { self.tier().joined(page.page, may_write); })
        .def("write_back",
             [](PyTier& self, const PyPage& page) {
                 const int rc = wait_for(self.tier().write_back(page.page));
                 if (rc != 0) raise_errno(rc);
             })
        .def("drop", [](PyTier& self, std::uint64_t ino) { return self.tier().drop(ino); })
        .def("refresh",
             [](PyTier& self, std::uint64_t ino, std::uint64_t offset, std::uint64_t length) {
                 const int rc = wait_for(self.tier().refresh(ino, offset, length));
                 if (rc != 0) raise_errno(rc);
             })
        .def("control",
             [](PyTier& self, std::uint64_t ino, std::uint32_t command, const nb::bytes& in) {
                 warm::Report report{};
                 const std::span given(static_cast<const std::byte*>(in.data()), in.size());
                 const int rc = wait_for(
                     warm::control(self.tier(), ino, command, given, std::as_writable_bytes(std::span(&report, 1))));
                 if (rc != 0) raise_errno(rc);
                 return nb::bytes(&report, sizeof report);
             })
        .def("statistics", [](PyTier& self) { return to_dict(self.tier().statistics()); })
        .def("close", &PyTier::close);
}

}  // namespace kvfs::python
