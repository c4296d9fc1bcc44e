// Who a volume belongs to: what Python asks and says about it.
#include "module/ownership.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include "store/ownership.hpp"
#include "store/volume.hpp"
#include "uring/plain.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

nb::object to_text(const char* text, std::size_t size) {
    return nb::steal(PyUnicode_DecodeUTF8(text, static_cast<Py_ssize_t>(size), "replace"));
}

nb::object mark_dict(const std::optional<format::HostMark>& mark) {
    if (!mark) return nb::none();
    nb::dict out;
    out["host"] = nb::bytes(mark->host_uuid.data(), mark->host_uuid.size());
    out["host_name"] = to_text(mark->host_name, strnlen(mark->host_name, sizeof mark->host_name));
    out["epoch"] = mark->epoch;
    out["count"] = mark->count;
    out["written_ns"] = mark->written_ns;
    out["yields"] = mark->state == format::HostState::kYields;
    out["owner"] = to_text(mark->owner, mark->owner_bytes);
    return out;
}

void write_claim(int fd, const nb::bytes& uuid, std::uint64_t epoch, const nb::bytes& host,
                 const std::string& host_name, const std::string& owner) {
    format::HostMark mark{};
    mark.uuid = to_uuid(uuid, "uuid");
    mark.host_uuid = to_uuid(host, "host");
    mark.epoch = epoch;
    mark.state = format::HostState::kHolds;
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    mark.written_ns = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
    std::memcpy(mark.host_name, host_name.data(), std::min(host_name.size(), sizeof mark.host_name - 1));
    const std::size_t owner_bytes = std::min(owner.size(), sizeof mark.owner);
    mark.owner_bytes = static_cast<std::uint32_t>(owner_bytes);
    std::memcpy(mark.owner, owner.data(), owner_bytes);
    format::seal_host_mark(mark);
    const uring::Buffer block = uring::Buffer::heap(format::kBlock);
    std::memcpy(block.data(), &mark, sizeof mark);
    int error = 0;
    {
        const nb::gil_scoped_release unlocked;
        const uring::PlainIo io(fd, nullptr);
        const ssize_t done = io.write(block.data(), format::kBlock, format::kHostClaim);
        if (done != static_cast<ssize_t>(format::kBlock)) {
            error = done < 0 ? errno : EIO;
        } else if (io.sync() != 0) {
            error = errno;
        }
    }
    if (error != 0) throw store::OpenError(error, std::strerror(error));
}

}  // namespace

format::Uuid to_uuid(const nb::bytes& bytes, const char* what) {
    format::Uuid out{};
    if (bytes.size() != 0 && bytes.size() != out.size()) {
        throw store::OpenError(
            EINVAL, std::string("expected a ") + what + " of 16 bytes, found " + std::to_string(bytes.size()));
    }
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
}

std::function<void(int)> locked_caller(const nb::object& callee) {
    if (callee.is_none()) return {};
    return [&callee](int fd) {
        const nb::gil_scoped_acquire locked;
        callee(fd);
    };
}

void add_host_marks(nb::dict& out, const std::string& path, const format::Uuid& uuid) {
    const store::Device device(path, false);
    const uring::Buffer data = uring::Buffer::heap(store::kOwnerBytes);
    const uring::PlainIo io(device.fd(), nullptr);
    const ssize_t got = io.read(data.data(), store::kOwnerBytes, 0);
    const bool is_there = got == static_cast<ssize_t>(store::kOwnerBytes);
    const store::OwnerRecord record = is_there ? store::read_owner_record(data.data(), uuid) : store::OwnerRecord{};
    out["beat"] = mark_dict(record.beat);
    out["claim"] = mark_dict(record.claim);
}

nb::dict ownership_dict(store::Store& store) {
    const store::OwnershipState state = store.ownership();
    nb::dict out;
    out["watched"] = state.is_watched ? 1 : 0;
    out["fenced"] = store.is_fenced() ? 1 : 0;
    out["yielded"] = state.has_yielded ? 1 : 0;
    out["looks_total"] = state.looks;
    out["failed_looks_total"] = state.failed_looks;
    out["beats_total"] = state.beats;
    return out;
}

void bind_ownership(nb::module_& m) {
    const auto seconds = [](auto duration) { return std::chrono::duration<double>(duration).count(); };
    m.attr("LOOK_INTERVAL") = seconds(store::kLookInterval);
    m.attr("LEASE") = seconds(store::kLease);
    m.def("write_claim", &write_claim, "fd"_a, "uuid"_a, "epoch"_a, "host"_a, "host_name"_a, "owner"_a);
}

}  // namespace kvfs::python
