// kvfs._native.Splitter: the native data path, as Python starts, watches and ends it.
#include "splitter/splitter.hpp"

#include <nanobind/stl/string.h>

#include "module/module.hpp"
#include "module/splitter.hpp"
#include "module/warm.hpp"
#include "splitter/trial.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

using splitter::Splitter;

// By opcode, under the names that pyfuse3's handlers have (two opcodes may share one); null: no such opcode.
constexpr const char* kOpcodeNames[splitter::kOpcodes] = {
    nullptr,       "lookup",       "forget",  "getattr",   "setattr",     "readlink",   "symlink",  nullptr,
    "mknod",       "mkdir",        "unlink",  "rmdir",     "rename",      "link",       "open",     "read",
    "write",       "statfs",       "release", nullptr,     "fsync",       "setxattr",   "getxattr", "listxattr",
    "removexattr", "flush",        "init",    "opendir",   "readdir",     "releasedir", "fsyncdir", "getlk",
    "setlk",       "setlkw",       "access",  "create",    "interrupt",   "bmap",       "destroy",  "ioctl",
    "poll",        "notify_reply", "forget",  "fallocate", "readdirplus", "rename",     "lseek",    "copy_file_range"};

nb::dict by_opcode(const std::array<std::atomic<std::uint64_t>, splitter::kOpcodes>& counts) {
    nb::dict out;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        const std::uint64_t count = counts[i].load(std::memory_order_relaxed);
        if (count == 0 || kOpcodeNames[i] == nullptr) continue;
        const char* const name = kOpcodeNames[i];
        out[name] = out.contains(name) ? nb::cast<std::uint64_t>(out[name]) + count : count;
    }
    return out;
}

const char* loop_name(splitter::LoopKind kind) { return kind == splitter::LoopKind::kUring ? "uring" : "clones"; }

nb::dict statistics(const Splitter& self) {
    const auto get = [](const std::atomic<std::uint64_t>& value) { return value.load(std::memory_order_relaxed); };
    const auto& counters = self.counters();
    nb::dict out;
    out["requests_total"] = by_opcode(counters.native);
    out["relayed_total"] = by_opcode(counters.relayed);
    out["relay_waiting"] = self.relay_waiting();
    out["unknown_opcodes_total"] = get(counters.unknown);
    out["malformed_requests_total"] = get(counters.malformed);
    out["errors_total"] = by_opcode(counters.io_errors);
    out["passthrough_opens_total"] = get(counters.passthrough_opens);
    out["warm_reads_total"] = get(counters.warm_reads);
    out["open_files"] = self.open_files();
    if (const splitter::RequestLoop* const loop = self.loop(); loop != nullptr) {
        const auto& counts = loop->counters();
        nb::dict loop_out;
        loop_out["kind"] = loop_name(loop->kind());
        loop_out["threads"] = loop->threads();
        loop_out["requests_total"] = get(counts.requests);
        loop_out["replies_total"] = get(counts.replies);
        loop_out["replies_refused_total"] = get(counts.replies_refused);
        loop_out["in_hand"] = get(counts.in_hand);
        out["loop"] = loop_out;
    }
    const auto& init = self.negotiated();
    nb::dict negotiated;
    negotiated["protocol_minor"] = init.minor;
    negotiated["max_write_bytes"] = init.max_write;
    negotiated["max_readahead_bytes"] = init.max_readahead;
    negotiated["max_background"] = init.max_background;
    negotiated["passthrough"] = self.passthrough() ? 1 : 0;
    out["init"] = negotiated;
    return out;
}

splitter::LoopKind loop_kind(const std::string& name) {
    if (name == "clones") return splitter::LoopKind::kClones;
    if (name == "uring") return splitter::LoopKind::kUring;
    throw nb::value_error(("expected the request loop clones or uring, found " + name).c_str());
}

}  // namespace

void bind_splitter(nb::module_& m) {
    m.attr("FIRST_VIRTUAL_INODE") = splitter::kFirstVirtual;
    nb::class_<Splitter>(m, "Splitter")
        .def(
            "__init__",
            [](Splitter* self, nb::handle store, int fuse_fd, unsigned threads, const std::string& loop, bool read_only,
               bool passthrough, std::uint64_t warm_bytes) {
                new (self) Splitter(pool_of(store), fuse_fd,
                                    {.threads = threads,
                                     .loop = loop_kind(loop),
                                     .read_only = read_only,
                                     .passthrough = passthrough,
                                     .warm_bytes = warm_bytes});
            },
            "store"_a, "fuse_fd"_a, nb::kw_only(), "threads"_a = 0, "loop"_a = "clones", "read_only"_a = false,
            "passthrough"_a = true, "warm_bytes"_a = 0)
        .def("take_socket", &Splitter::take_socket)
        .def("start", &Splitter::start, nb::call_guard<nb::gil_scoped_release>())
        .def("stop", &Splitter::stop, "python_answers"_a = true, nb::call_guard<nb::gil_scoped_release>())
        .def("close", &Splitter::close, nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("ended_fd", &Splitter::ended_fd)
        .def_prop_ro("end_error", &Splitter::end_error)
        .def("statistics", &statistics)
        .def("warm_statistics", [](const Splitter& self) {
            return self.tier() != nullptr ? to_dict(self.tier()->statistics()) : nb::dict();
        });
    nb::class_<splitter::Trial>(m, "Trial")
        .def(
            "__init__",
            [](splitter::Trial* self, int fuse_fd, unsigned threads, const std::string& loop) {
                new (self) splitter::Trial(fuse_fd, loop_kind(loop), threads);
            },
            "fuse_fd"_a, nb::kw_only(), "threads"_a = 0, "loop"_a = "clones")
        .def("start", &splitter::Trial::start, nb::call_guard<nb::gil_scoped_release>())
        .def("close", &splitter::Trial::close, nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("loop", [](const splitter::Trial& self) { return loop_name(self.kind()); });
    m.def("read_rate", &splitter::read_rate, "fd"_a, "readers"_a, "size"_a, "seconds"_a,
          nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace kvfs::python
