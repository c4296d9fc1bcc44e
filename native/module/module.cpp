// kvfs._native: the Python face, documented and typed in kvfs/_native.pyi.
//
// The GIL is held during metadata calls (they take microseconds) and during the inline part of data calls. The store's
// own threads never take it: what they finish is queued here and fetched by completions() after the eventfd turned
// readable.
#include "module/module.hpp"

#include <malloc.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <system_error>
#include <unordered_map>

#include "format/superblock.hpp"
#include "module/eviction.hpp"
#include "module/faults.hpp"
#include "module/health.hpp"
#include "module/ownership.hpp"
#include "module/policy.hpp"
#include "module/settings.hpp"
#include "module/splitter.hpp"
#include "module/warm.hpp"
#include "store/store.hpp"
#include "store/volume.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvfs::python {
namespace {

using pool::Pool;
using store::Attributes;
using store::ReadResult;
using store::Store;

[[noreturn]] void raise_os_error(int error, const std::string& text) {
    PyObject* args = Py_BuildValue("(is)", error, text.c_str());
    PyErr_SetObject(PyExc_OSError, args);
    Py_XDECREF(args);
    throw nb::python_error();
}

[[noreturn]] void raise_errno(int negative) { raise_os_error(-negative, std::strerror(-negative)); }

void require(std::int64_t rc) {
    if (rc < 0) raise_errno(static_cast<int>(rc));
}

std::string_view view(const nb::bytes& text) { return {static_cast<const char*>(text.data()), text.size()}; }

nb::bytes to_bytes(std::string_view text) { return nb::bytes(text.data(), text.size()); }

nb::tuple to_tuple(const Attributes& a) {
    return nb::make_tuple(a.ino, a.generation, a.mode, a.nlink, a.uid, a.gid, a.rdev, a.size, a.blocks, a.atime_ns,
                          a.mtime_ns, a.ctime_ns);
}

// Completions, on their way from the store's threads to Python. Outlives the store by shared ownership: a thread
// may still be signalling while Python lets go.
class Inbox {
public:
    Inbox() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    }
    ~Inbox() { ::close(fd_); }
    Inbox(const Inbox&) = delete;
    Inbox& operator=(const Inbox&) = delete;

    struct Item {
        std::uint64_t token = 0;
        std::int64_t result = 0;
        std::unique_ptr<ReadResult> data;
    };
    void put(Item item) {
        {
            const std::lock_guard guard(mutex_);
            items_.push_back(std::move(item));
        }
        signal();
    }
    void signal() const {
        const std::uint64_t one = 1;
        // fails only when the counter is at its maximum, and then it is readable already
        [[maybe_unused]] const auto rc = ::write(fd_, &one, sizeof one);
    }
    std::deque<Item> drain() {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto rc = ::read(fd_, &count, sizeof count);  // EAGAIN: nothing new, which is fine
        const std::lock_guard guard(mutex_);
        return std::exchange(items_, {});
    }
    [[nodiscard]] int fd() const { return fd_; }

private:
    int fd_;
    std::mutex mutex_;
    std::deque<Item> items_;
};

struct PyReadBuffer {
    std::shared_ptr<Pool> keep;  // the buffer's pool is the store's
    ReadResult result;
};

int read_buffer_get(PyObject* self, Py_buffer* view_out, int flags) {
    auto* buffer = nb::inst_ptr<PyReadBuffer>(self);
    return PyBuffer_FillInfo(view_out, self, buffer->result.buffer.data() + buffer->result.offset,
                             static_cast<Py_ssize_t>(buffer->result.size), 1, flags);
}

PyType_Slot read_buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(read_buffer_get)}, {0, nullptr}};

struct PyDirectory {
    std::shared_ptr<Pool> store;
    std::uint64_t ino = 0;
    std::vector<store::NameId> names;

    nb::list read(std::uint64_t position, std::size_t count, bool remember) {
        if (position == 0) require(store->list(ino, names));
        nb::list out;
        std::string name;
        Attributes attributes{};
        for (; position < names.size() && out.size() < count; ++position) {
            if (!store->entry(ino, names[position], name, attributes, remember)) continue;
            out.append(nb::make_tuple(to_bytes(name), to_tuple(attributes), position + 1));
        }
        return out;
    }
};

class PyStore {
public:
    PyStore(const std::string& path, bool read_only, const std::string& owner, std::size_t buffer_bytes,
            std::size_t cache_bytes, double sweep_after, double io_timeout, const nb::object& faults, bool evict,
            const nb::bytes& host, const std::string& host_name, const nb::object& on_locked)
        : inbox_(std::make_shared<Inbox>()), tap_(tap_of(faults)) {
        const store::Options options{
            .read_only = read_only,
            .exclusive = true,
            .evict = evict,
            .owner = owner,
            .host = to_uuid(host, "host"),
            .host_name = host_name,
            .on_locked = locked_caller(on_locked),
            .buffer_bytes = buffer_bytes,
            .cache_bytes = cache_bytes,
            .tap = tap_.get(),
            .sweep_after_ns = static_cast<std::int64_t>(sweep_after * 1e9),
            .io_timeout = std::chrono::nanoseconds(static_cast<std::int64_t>(io_timeout * 1e9))};
        {
            const nb::gil_scoped_release unlocked;
            store_ = std::make_shared<Pool>(std::make_shared<Store>(path, options));
        }
        store_->set_wakeup([inbox = inbox_] { inbox->signal(); });
    }

    [[nodiscard]] int eventfd() const { return inbox_->fd(); }
    [[nodiscard]] std::string uuid() const { return format::uuid_text(store_->only().superblock().uuid); }
    Pool& store() {
        if (closed_) raise_os_error(EBADF, "the store is closed");
        return *store_;
    }

    nb::list completions() {
        nb::list out;
        for (auto& item : inbox_->drain()) {
            writing_.erase(item.token);
            if (item.data != nullptr) {
                out.append(nb::make_tuple(item.token, PyReadBuffer{store_, std::move(*item.data)}));
            } else {
                out.append(nb::make_tuple(item.token, item.result));
            }
        }
        for (const auto& event : store_->take_events()) {
            if (const auto* log = std::get_if<store::LogEvent>(&event)) {
                out.append(nb::make_tuple(0, nb::make_tuple("log", log->level, log->text)));
            } else {
                const auto& drop = std::get<store::DropEvent>(event);
                out.append(nb::make_tuple(0, nb::make_tuple("drop", drop.parent, to_bytes(drop.name))));
            }
        }
        return out;
    }

    // Starts a call. When it finishes before this returns, its result is this call's (an error is raised); else None,
    // and the result comes by completions().
    template <typename T>
    nb::object start(store::Async<T> task, std::uint64_t token) {
        struct Slot {
            std::mutex mutex;
            bool returned = false;
            bool done = false;
            std::int64_t result = 0;
        };
        auto slot = std::make_shared<Slot>();
        uring::detach(std::move(task), [slot, token, inbox = inbox_](T result) {
            {
                const std::lock_guard guard(slot->mutex);
                slot->result = result;
                slot->done = true;
                if (!slot->returned) return;
            }
            inbox->put({token, result, nullptr});
        });
        const std::lock_guard guard(slot->mutex);
        slot->returned = true;
        if (!slot->done) return nb::none();
        if (slot->result < 0) raise_errno(static_cast<int>(slot->result));
        return nb::int_(slot->result);
    }

    nb::object read(std::uint64_t ino, std::uint64_t offset, std::size_t size, std::uint64_t token) {
        struct Slot {
            std::mutex mutex;
            bool returned = false;
            std::unique_ptr<Store::ReadOutcome> outcome;
        };
        auto slot = std::make_shared<Slot>();
        uring::detach(store().read(ino, offset, size), [slot, token, inbox = inbox_](Store::ReadOutcome outcome) {
            {
                const std::lock_guard guard(slot->mutex);
                if (!slot->returned) {
                    slot->outcome = std::make_unique<Store::ReadOutcome>(std::move(outcome));
                    return;
                }
            }
            if (outcome.error != 0) {
                inbox->put({token, outcome.error, nullptr});
            } else {
                inbox->put({token, 0, std::make_unique<ReadResult>(std::move(outcome.data))});
            }
        });
        const std::lock_guard guard(slot->mutex);
        slot->returned = true;
        if (slot->outcome == nullptr) return nb::none();
        if (slot->outcome->error != 0) raise_errno(slot->outcome->error);
        return nb::cast(PyReadBuffer{store_, std::move(slot->outcome->data)});
    }

    nb::object write(std::uint64_t ino, std::uint64_t offset, nb::bytes data, std::uint64_t token) {
        const std::span bytes(static_cast<const std::byte*>(data.data()), data.size());
        if (store().may_answer_early()) {  // the store may need the bytes for longer than the caller waits
            uring::Buffer buffer;
            if (bytes.size() <= store_->request_pool().size()) buffer = store_->request_pool().try_acquire();
            if (!buffer) buffer = uring::Buffer::heap(std::max<std::size_t>(bytes.size(), 1));
            std::memcpy(buffer.data(), bytes.data(), bytes.size());
            return start(store_->write(ino, offset, std::move(buffer), 0, bytes.size()), token);
        }
        nb::object result = start(store().write(ino, offset, bytes), token);
        if (result.is_none()) writing_.emplace(token, std::move(data));  // alive until completions() says so
        return result;
    }

    nb::dict statistics();

    void close() {
        const int rc = close_now();
        if (rc == -ETIMEDOUT) raise_os_error(EIO, "the device does not answer; what was fsynced is on it");
        if (rc != 0) raise_os_error(EIO, "the log could not be written to its end; what was fsynced is on the device");
    }

    ~PyStore() {
        if (store_ != nullptr) close_now();
    }

    std::shared_ptr<Pool> shared() {
        store();
        return store_;
    }

private:
    int close_now() {
        if (closed_) return 0;
        closed_ = true;
        store_->set_wakeup({});
        const nb::gil_scoped_release unlocked;
        const int rc = store_->close();
        // a thread of its own still waits for the device: then it lasts as long as the process
        if (store_->is_abandoned()) new std::pair(store_, tap_);
        return rc;
    }

    std::shared_ptr<Inbox> inbox_;
    std::shared_ptr<uring::Tap> tap_;  // outlives the store
    std::shared_ptr<Pool> store_;
    std::unordered_map<std::uint64_t, nb::bytes> writing_;
    bool closed_ = false;
};

nb::dict PyStore::statistics() {
    Store& s = store().only();
    const auto& c = s.counters();
    const auto get = [](const std::atomic<std::uint64_t>& value) { return value.load(std::memory_order_relaxed); };
    const auto g = s.gauges();
    const auto ring = s.rings().statistics();
    nb::dict out;
    nb::dict data;
    data["reads_total"] = get(c.reads);
    data["read_bytes_total"] = get(c.read_bytes);
    data["writes_total"] = get(c.writes);
    data["write_bytes_total"] = get(c.write_bytes);
    data["flushes_total"] = get(c.flushes);
    data["fsyncs_total"] = get(c.fsyncs);
    data["read_errors_total"] = get(c.read_errors);
    data["write_errors_total"] = get(c.write_errors);
    data["checksum_errors_total"] = get(c.checksum_errors);
    data["files_dropped_total"] = get(c.files_dropped);
    data["no_space_errors_total"] = get(c.enospc);
    data["granule_cache_hits_total"] = get(c.cache_hits);
    data["granule_cache_misses_total"] = get(c.cache_misses);
    data["read_ahead_granules_total"] = get(c.read_ahead);
    out["data"] = data;
    nb::dict names;
    names["files"] = g.files;
    names["names"] = g.names;
    names["files_with_state"] = g.open_files;
    names["lookups_total"] = get(c.lookups);
    names["lookup_misses_total"] = get(c.lookup_misses);
    names["creates_total"] = get(c.creates);
    names["unlinks_total"] = get(c.unlinks);
    names["renames_total"] = get(c.renames);
    out["namespace"] = names;
    nb::dict log;
    log["frames_total"] = get(c.log_frames);
    log["bytes_total"] = get(c.log_bytes);
    log["pending_bytes"] = g.log_pending_bytes;
    log["lsn_appended"] = g.lsn_appended;
    log["lsn_durable"] = g.lsn_durable;
    log["checkpoints_total"] = get(c.checkpoints);
    log["checkpoint_bytes_total"] = get(c.checkpoint_bytes);
    log["recovery_seconds"] = static_cast<double>(g.recovery_ns) / 1e9;
    log["recovered_frames"] = g.recovered_frames;
    log["recovery_cut_frames"] = g.cut_frames;
    log["damaged_superblocks"] = g.damaged_superblocks;
    out["log"] = log;
    nb::dict space;
    space["segment_bytes"] = s.superblock().segment_size;
    space["segments"] = g.segments;
    space["segments_free"] = g.segments_free;
    space["segments_metadata"] = g.segments_metadata;
    space["capacity_bytes"] = g.capacity_blocks * format::kBlock;
    space["live_bytes"] = g.live_blocks * format::kBlock;
    space["reserved_bytes"] = g.reserved_blocks * format::kBlock;
    space["cleaned_segments_total"] = get(c.cleaned_segments);
    space["moved_bytes_total"] = get(c.moved_blocks) * format::kBlock;
    space["cut_bytes_total"] = get(c.cut_blocks) * format::kBlock;
    space["surveys_total"] = get(c.surveys);
    space["recycled_segments_total"] = get(c.recycled_segments);
    space["trimmed_segments_total"] = get(c.trimmed_segments);
    out["space"] = space;
    out["eviction"] = eviction_statistics(s);
    nb::dict device;
    device["reads_total"] = ring.reads;
    device["read_bytes_total"] = ring.read_bytes;
    device["writes_total"] = ring.writes;
    device["write_bytes_total"] = ring.write_bytes;
    device["flushes_total"] = ring.syncs;
    device["errors_total"] = ring.errors;
    device["in_flight"] = ring.in_flight;
    device["buffers"] = g.buffers;
    device["buffers_idle"] = g.buffers_idle;
    device["buffers_registered"] = s.rings().buffers_registered() ? 1 : 0;
    out["device"] = device;
    add_settings_statistics(out, s);
    out["scrub"] = scrub_dict(s);
    out["read_only"] = s.is_read_only() ? 1 : 0;
    out["health"] = health_dict(s);
    out["physical"] = physical_dict(s);
    out["ownership"] = ownership_dict(s);
    return out;
}

nb::dict superblock_dict(const format::Superblock& sb) {
    nb::dict out;
    out["version"] = sb.version;
    out["compat"] = sb.compat;
    out["ro_compat"] = sb.ro_compat;
    out["incompat"] = sb.incompat;
    out["uuid"] = format::uuid_text(sb.uuid);
    const std::string label(sb.label, strnlen(sb.label, sizeof sb.label));
    out["label"] = nb::steal(PyUnicode_DecodeUTF8(label.data(), static_cast<Py_ssize_t>(label.size()), "replace"));
    out["size"] = sb.size;
    out["segment_size"] = sb.segment_size;
    out["segments"] = sb.segment_count;
    out["sequence"] = sb.sequence;
    out["epoch"] = sb.epoch;
    out["created_ns"] = sb.created_ns;
    out["clean"] = (sb.flags & format::kClean) != 0;
    const bool has_host = (sb.compat & format::kOwnedByHost) != 0;
    out["host"] = has_host ? nb::object(nb::bytes(sb.host_uuid.data(), sb.host_uuid.size())) : nb::none();
    const std::size_t owner = std::min<std::size_t>(sb.owner_bytes, sizeof sb.owner);
    out["owner"] = nb::steal(PyUnicode_DecodeUTF8(sb.owner, static_cast<Py_ssize_t>(owner), "replace"));
    return out;
}

nb::dict inspect(const std::string& path) {
    store::Device device(path, false);
    const auto copies = device.read_superblocks();
    nb::dict out;
    nb::list list;
    const auto* newest = store::Device::newest(copies);
    const int best = newest == nullptr ? -1 : static_cast<int>(newest->copy);
    for (const auto& copy : copies) {
        const bool valid = copy.check.fault == format::Fault::kValid;
        const bool recognised = std::memcmp(copy.sb.magic, format::kSuperblockMagicBytes, sizeof copy.sb.magic) == 0;
        nb::dict entry;
        entry["copy"] = format::copy_name(copy.copy);
        entry["offset"] = copy.offset;
        entry["valid"] = valid;
        entry["problem"] = valid ? nb::object(nb::none()) : nb::object(nb::cast(copy.check.problem));
        entry["superblock"] = recognised ? nb::object(superblock_dict(copy.sb)) : nb::object(nb::none());
        list.append(entry);
    }
    out["device_size"] = device.size();
    out["copies"] = list;
    out["best"] = best < 0 ? nb::object(nb::none()) : nb::object(nb::int_(best));
    out["beat"] = nb::none();
    out["claim"] = nb::none();
    if (best >= 0) add_host_marks(out, path, copies[static_cast<std::size_t>(best)].sb.uuid);
    out["problem"] = nb::none();
    out["error"] = 0;
    if (best < 0) {
        int error = 0;
        out["problem"] = device.explain(copies, error);
        out["error"] = error;
    } else if (copies[static_cast<std::size_t>(best)].sb.size > device.size()) {
        out["problem"] = device.truncated(copies[static_cast<std::size_t>(best)]);
        out["error"] = EUCLEAN;
    }
    return out;
}

nb::dict format_store(const std::string& path, std::uint64_t size, std::uint64_t segment_size, const std::string& label,
                      const nb::bytes& uuid, const nb::bytes& host) {
    const store::FormatRequest request{.size = size,
                                       .segment_size = segment_size,
                                       .label = label,
                                       .uuid = to_uuid(uuid, "uuid"),
                                       .host = to_uuid(host, "host")};
    return superblock_dict(store::format_volume(path, request));
}

Attributes make(PyStore& self, std::uint64_t parent, const nb::bytes& name, std::uint32_t mode, std::uint32_t uid,
                std::uint32_t gid, const nb::bytes* target, bool defer) {
    Attributes out{};
    require(self.store().make(parent, view(name), mode, {uid, gid},
                              target == nullptr ? std::string_view{} : view(*target), defer, out));
    return out;
}

}  // namespace

std::shared_ptr<Pool> pool_of(nb::handle store) { return nb::cast<PyStore&>(store).shared(); }

std::shared_ptr<Store> store_of(nb::handle store) {
    const std::shared_ptr<Pool> pool = pool_of(store);
    return {pool, &pool->only()};
}

}  // namespace kvfs::python

NB_MODULE(_native, m) {
    using namespace kvfs;
    using namespace kvfs::python;
    using kvfs::store::Store;

    nb::set_leak_warnings(false);  // Python may exit while a mount's objects are alive; the kernel frees what they hold
    nb::register_exception_translator([](const std::exception_ptr& failure, void*) {
        try {
            std::rethrow_exception(failure);
        } catch (const store::OpenError& error) {
            PyObject* args = Py_BuildValue("(is)", error.error(), error.what());
            PyErr_SetObject(PyExc_OSError, args);
            Py_XDECREF(args);
        } catch (const std::system_error& error) {
            PyObject* args = Py_BuildValue("(is)", error.code().value(), error.what());
            PyErr_SetObject(PyExc_OSError, args);
            Py_XDECREF(args);
        }
    });

    m.attr("Attr") = nb::handle(reinterpret_cast<PyObject*>(&PyTuple_Type));
    m.attr("ROOT_INODE") = store::kRoot;
    m.attr("NAME_MAX") = format::kNameMax;
    m.attr("BLOCK_SIZE") = format::kBlock;
    m.attr("FORMAT_VERSION") = format::kVersion;
    m.attr("RENAME_NOREPLACE") = static_cast<int>(store::kRenameNoReplace);
    m.attr("RENAME_EXCHANGE") = static_cast<int>(store::kRenameExchange);
    m.attr("SET_MODE") = static_cast<int>(store::kSetMode);
    m.attr("SET_UID") = static_cast<int>(store::kSetUid);
    m.attr("SET_GID") = static_cast<int>(store::kSetGid);
    m.attr("SET_ATIME") = static_cast<int>(store::kSetAtime);
    m.attr("SET_MTIME") = static_cast<int>(store::kSetMtime);
    m.attr("SET_ATIME_NOW") = static_cast<int>(store::kSetAtimeNow);
    m.attr("SET_MTIME_NOW") = static_cast<int>(store::kSetMtimeNow);
    m.attr("XXH3_VECTOR_UNIT") = format::xxh3_vector_unit();
    m.attr("LIBURING_VERSION") = KVFS_LIBURING_VERSION;

    m.def("format_store", &format_store, "path"_a, "size"_a, "segment_size"_a = 0, "label"_a = "",
          "uuid"_a = nb::bytes(""), "host"_a = nb::bytes(""));
    m.def("inspect", &inspect, "path"_a);
    // 128 KiB is what the allocator begins with; set, it stays, where otherwise it rises with each large block given
    // back, and a checkpoint's image then leaves its hole in one heap or another for good
    m.def("give_large_blocks_back", [] { mallopt(M_MMAP_THRESHOLD, 128 << 10); });

    nb::class_<PyReadBuffer>(m, "ReadBuffer", nb::type_slots(read_buffer_slots))
        .def("__len__", [](const PyReadBuffer& self) { return self.result.size; });

    nb::class_<PyDirectory>(m, "Directory")
        .def("read", &PyDirectory::read, "position"_a, "count"_a, "remember"_a = false);

    nb::class_<PyStore>(m, "Store")
        .def(nb::init<const std::string&, bool, const std::string&, std::size_t, std::size_t, double, double,
                      const nb::object&, bool, const nb::bytes&, const std::string&, const nb::object&>(),
             "path"_a, nb::kw_only(), "read_only"_a = false, "owner"_a = "", "buffer_bytes"_a = 0, "cache_bytes"_a = 0,
             "sweep_after"_a = 0.0, "io_timeout"_a = 0.0, "faults"_a = nb::none(), "evict"_a = false,
             "host"_a = nb::bytes(""), "host_name"_a = "", "on_locked"_a = nb::none())
        .def_prop_ro("eventfd", &PyStore::eventfd)
        .def_prop_ro("uuid", &PyStore::uuid)
        .def("completions", &PyStore::completions)
        .def(
            "lookup",
            [](PyStore& self, std::uint64_t parent, const nb::bytes& name, std::uint32_t client) -> nb::object {
                Attributes out{};
                const int rc = self.store().lookup(parent, view(name), out, client);
                if (rc == -ENOENT) return nb::none();
                require(rc);
                return to_tuple(out);
            },
            "parent"_a, "name"_a, "client"_a = 0)
        .def("getattr",
             [](PyStore& self, std::uint64_t ino) {
                 Attributes out{};
                 require(self.store().getattr(ino, out));
                 return to_tuple(out);
             })
        .def(
            "setattr",
            [](PyStore& self, std::uint64_t ino, std::uint32_t fields, std::uint32_t mode, std::uint32_t uid,
               std::uint32_t gid, std::int64_t atime_ns, std::int64_t mtime_ns) {
                Attributes out{};
                require(self.store().setattr(ino, {fields, mode, uid, gid, atime_ns, mtime_ns}, out));
                return to_tuple(out);
            },
            "ino"_a, "fields"_a, "mode"_a = 0, "uid"_a = 0, "gid"_a = 0, "atime_ns"_a = 0, "mtime_ns"_a = 0)
        .def("create",
             [](PyStore& self, std::uint64_t parent, const nb::bytes& name, std::uint32_t mode, std::uint32_t uid,
                std::uint32_t gid) {
                 return to_tuple(make(self, parent, name, (mode & 07777U) | S_IFREG, uid, gid, nullptr, true));
             })
        .def("mknod",
             [](PyStore& self, std::uint64_t parent, const nb::bytes& name, std::uint32_t mode, std::uint32_t uid,
                std::uint32_t gid) { return to_tuple(make(self, parent, name, mode, uid, gid, nullptr, false)); })
        .def("mkdir",
             [](PyStore& self, std::uint64_t parent, const nb::bytes& name, std::uint32_t mode, std::uint32_t uid,
                std::uint32_t gid) {
                 return to_tuple(make(self, parent, name, (mode & 07777U) | S_IFDIR, uid, gid, nullptr, false));
             })
        .def("symlink",
             [](PyStore& self, std::uint64_t parent, const nb::bytes& name, const nb::bytes& target, std::uint32_t uid,
                std::uint32_t gid) {
                 return to_tuple(make(self, parent, name, S_IFLNK | 0777, uid, gid, &target, false));
             })
        .def("readlink",
             [](PyStore& self, std::uint64_t ino) {
                 std::string out;
                 require(self.store().readlink(ino, out));
                 return to_bytes(out);
             })
        .def("link",
             [](PyStore& self, std::uint64_t ino, std::uint64_t parent, const nb::bytes& name) {
                 Attributes out{};
                 require(self.store().link(ino, parent, view(name), out));
                 return to_tuple(out);
             })
        .def("unlink",
             [](PyStore& self, std::uint64_t parent, const nb::bytes& name) {
                 std::uint64_t ino = 0;
                 require(self.store().unlink(parent, view(name), ino));
                 return ino;
             })
        .def("rmdir",
             [](PyStore& self, std::uint64_t parent, const nb::bytes& name) {
                 std::uint64_t ino = 0;
                 require(self.store().rmdir(parent, view(name), ino));
                 return ino;
             })
        .def("rename",
             [](PyStore& self, std::uint64_t parent, const nb::bytes& name, std::uint64_t new_parent,
                const nb::bytes& new_name, std::uint32_t flags, std::uint64_t token) {
                 return self.start(self.store().rename(parent, std::string(view(name)), new_parent,
                                                       std::string(view(new_name)), flags),
                                   token);
             })
        .def(
            "remember",
            [](PyStore& self, std::uint64_t ino, std::uint32_t count) { self.store().remember(ino, count); }, "ino"_a,
            "count"_a = 1)
        .def("forget", [](PyStore& self, std::uint64_t ino, std::uint64_t count) { self.store().forget(ino, count); })
        .def("parent",
             [](PyStore& self, std::uint64_t ino) {
                 const std::int64_t rc = self.store().parent(ino);
                 require(rc);
                 return rc;
             })
        .def(
            "open",
            [](PyStore& self, std::uint64_t ino, bool write, bool, std::uint32_t client) {
                require(self.store().open(ino, write, client));
            },
            "ino"_a, "write"_a, "truncate"_a = false, "client"_a = 0)
        .def("release", [](PyStore& self, std::uint64_t ino, bool write) { require(self.store().release(ino, write)); })
        .def("opendir",
             [](PyStore& self, std::uint64_t ino) {
                 PyDirectory out{self.shared(), ino, {}};
                 require(out.store->list(ino, out.names));
                 return out;
             })
        .def("touch_atime", [](PyStore& self, std::uint64_t ino) { self.store().touch_atime(ino); })
        .def(
            "setxattr",
            [](PyStore& self, std::uint64_t ino, const nb::bytes& name, const nb::bytes& value, int flags,
               std::optional<std::uint32_t> caller) {
                require(self.store().setxattr(ino, view(name), view(value), flags, caller));
            },
            "ino"_a, "name"_a, "value"_a, "flags"_a = 0, "caller"_a = nb::none())
        .def("getxattr",
             [](PyStore& self, std::uint64_t ino, const nb::bytes& name) {
                 std::string out;
                 require(self.store().getxattr(ino, view(name), out));
                 return to_bytes(out);
             })
        .def("listxattr",
             [](PyStore& self, std::uint64_t ino) {
                 std::vector<std::string> names;
                 require(self.store().listxattr(ino, names));
                 nb::list out;
                 for (const auto& name : names) out.append(to_bytes(name));
                 return out;
             })
        .def(
            "removexattr",
            [](PyStore& self, std::uint64_t ino, const nb::bytes& name, std::optional<std::uint32_t> caller) {
                require(self.store().removexattr(ino, view(name), caller));
            },
            "ino"_a, "name"_a, "caller"_a = nb::none())
        .def("statfs",
             [](PyStore& self) {
                 const auto space = self.store().space();
                 nb::dict out;
                 out["block_size"] = format::kBlock;
                 out["blocks"] = space.blocks;
                 out["blocks_free"] = space.blocks_free;
                 out["files"] = space.files;
                 out["files_free"] = space.files_free;
                 out["name_max"] = format::kNameMax;
                 return out;
             })
        .def("read", &PyStore::read, "ino"_a, "offset"_a, "size"_a, "token"_a)
        .def("write", &PyStore::write, "ino"_a, "offset"_a, "data"_a, "token"_a)
        .def("truncate", [](PyStore& self, std::uint64_t ino, std::uint64_t size,
                            std::uint64_t token) { return self.start(self.store().truncate(ino, size), token); })
        .def("fallocate",
             [](PyStore& self, std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t length,
                std::uint64_t token) { return self.start(self.store().fallocate(ino, mode, offset, length), token); })
        .def("seek", [](PyStore& self, std::uint64_t ino, std::uint64_t offset, int whence,
                        std::uint64_t token) { return self.start(self.store().seek(ino, offset, whence), token); })
        .def("copy_range",
             [](PyStore& self, std::uint64_t ino_in, std::uint64_t offset_in, std::uint64_t ino_out,
                std::uint64_t offset_out, std::uint64_t length, std::uint64_t token) {
                 return self.start(self.store().copy_range(ino_in, offset_in, ino_out, offset_out, length), token);
             })
        .def("flush", [](PyStore& self, std::uint64_t ino,
                         std::uint64_t token) { return self.start(self.store().flush(ino), token); })
        .def("fsync", [](PyStore& self, std::uint64_t ino,
                         std::uint64_t token) { return self.start(self.store().fsync(ino), token); })
        .def("sync", [](PyStore& self, std::uint64_t token) { return self.start(self.store().sync(), token); })
        .def("statistics", &PyStore::statistics)
        .def(
            "set_physical",
            [](PyStore& self, std::uint64_t total_bytes, std::uint64_t free_bytes, bool rewrites_in_place) {
                self.store().only().set_physical(total_bytes, free_bytes, rewrites_in_place);
            },
            "total_bytes"_a, "free_bytes"_a, "rewrites_in_place"_a)
        .def("forget_physical", [](PyStore& self) { self.store().only().forget_physical(); })
        .def("health", [](PyStore& self) { return health_dict(self.store().only()); })
        .def("recover", [](PyStore& self) { require(self.store().recover()); })
        .def("close", &PyStore::close);

    bind_check(m);
    bind_eviction(m);
    bind_faults(m);
    bind_ownership(m);
    bind_policy(m);
    bind_scrub(m);
    bind_settings(m);
    bind_splitter(m);
    bind_warm(m);
}
