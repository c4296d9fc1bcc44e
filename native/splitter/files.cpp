// Open files: OPEN, RELEASE, FLUSH, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE, IOCTL.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "splitter/splitter.hpp"
#include "warm/ioctl.hpp"

namespace kvfs::splitter {

void Splitter::open(RequestHandle request) {
    const auto* in = request->in<fuse_open_in>();
    if (in == nullptr) return malformed(std::move(request));
    const std::uint64_t ino = request->header().nodeid;
    open_later(std::move(request), ino, in->flags, false, {});
}

// Of OPEN, and of CREATE once the inode is there: then `attributes` is that inode's.
uring::Detached Splitter::open_later(RequestHandle request, std::uint64_t ino, std::uint32_t flags, bool created,
                                     store::Attributes attributes) {
    const bool entry = request->header().opcode == FUSE_CREATE;
    request->arguments_done();
    Handle handle;
    handle.ino = ino;
    const std::uint32_t access = flags & O_ACCMODE;
    handle.readable = access != O_WRONLY;
    handle.writable = access != O_RDONLY;
    handle.touches_atime = handle.readable && (flags & O_NOATIME) == 0 && !options_.read_only;
    int rc = store_->open(ino, handle.writable, request->header().pid);
    if (rc == 0 && (flags & O_TRUNC) != 0) {                // with O_RDONLY too, as other file systems do
        if (request->header().uid != 0) clear_set_id(ino);  // the kernel leaves it to who takes O_TRUNC
        rc = co_await store_->truncate(ino, 0);
        if (const int warm = co_await keep_in_step(ino, 0, 0); rc == 0) rc = warm;
        if (rc != 0) store_->release(ino, handle.writable);
    }
    if (rc == 0 && (!entry || !created)) rc = store_->getattr(ino, attributes);
    if (rc != 0) {
        if (entry) store_->forget(ino, 1);  // no entry is returned, so the kernel has no reference
        fail(std::move(request), rc);
        co_return;
    }
    if (handle.touches_atime && !created) {
        store_->touch_atime(ino);
        forget_attributes(ino);
    }
    warm::PagePtr page;
    if (passthrough_ && handle.readable && !handle.writable && S_ISREG(attributes.mode)) {
        page = tier_->opened(ino);
        // A buffered reader of a cold page will want all of it: it goes straight into the memory that is served. An
        // O_DIRECT reader says that it keeps its own copy.
        if (page == nullptr && (flags & O_DIRECT) == 0 && writers(ino).all == 0) {
            if (co_await tier_->stage(ino) != nullptr) page = tier_->opened(ino);
        }
    }
    OpenOut out{};
    // Who reads a warm page by O_DIRECT gains nothing by having parts of a read in flight at once, which the kernel
    // does at some cost for each request. For a cold one, whose parts come from the device, that is what makes it fast.
    const bool one_by_one =
        allows_mmap_ && (flags & O_DIRECT) != 0 && !handle.writable && tier_ != nullptr && tier_->has(ino);
    choose_mode(handle, page, one_by_one, out);
    if (page != nullptr && handle.mode != OpenMode::kPassthrough) tier_->released(page);
    out.fh = handles_.add(handle);
    if (out.fh == 0) {
        forget_open(handle);
        store_->release(ino, handle.writable);
        if (entry) store_->forget(ino, 1);
        fail(std::move(request), -ENFILE);
        co_return;
    }
    if (!entry) {
        request.reply_with(out);
        co_return;
    }
    fuse_entry_out entry_out = to_entry(attributes);
    const iovec parts[2] = {{&entry_out, sizeof entry_out}, {&out, sizeof out}};
    request.reply(std::span(parts));
}

// How the kernel is to treat this open.
//
// Cached, with the pages kept from open to open, is the rule for readers: data changes through this kernel only.
// Passthrough when the page is warm, nobody holds the file open in a way that the kernel caches or may come to cache
// by mmap (the kernel refuses the mixture), and nobody is writing to it. Once an inode is open so, the kernel wants
// every open of it to name the same backing file; with FOPEN_DIRECT_IO beside it reads and writes still come here,
// only mappings do not. The warm page is kept in step with those writes, and the store with what such mappings write
// (warm/mapped.cpp).
// Direct for who only writes: pages written once must not push others out of the page cache. Not while somebody can
// write by a shared mapping: a direct write goes past a page that a mapping has just faulted in, and that page, written
// back later, would put old bytes over it. Hence never for O_RDWR, also of who has just made the file. What direct I/O
// leaves undone is to take set-ID bits away at a write, so that is ours: see clear_set_id().
void Splitter::choose_mode(Handle& handle, const warm::PagePtr& page, bool one_by_one, OpenOut& out) {
    const std::lock_guard guard(opens_mutex_);
    Opens& opens = opens_[handle.ino];
    if (handle.writable) ++opens.writers.all;
    if (handle.readable && handle.writable) ++opens.writers.mapping;
    const bool first = page != nullptr && opens.passthrough == 0 && opens.mappable == 0 && opens.writers.all == 0;
    if (first) opens.page = page;
    handle.by_passthrough = first || opens.passthrough > 0;
    if (handle.by_passthrough) {
        ++opens.passthrough;
        handle.page = opens.page;
        out.backing_id = opens.page->backing_id();
        counters_.passthrough_opens.fetch_add(1, std::memory_order_relaxed);
        if (page == opens.page && !handle.writable) {
            handle.mode = OpenMode::kPassthrough;
            out.open_flags = kOpenPassthrough | FOPEN_NOFLUSH;
            return;
        }
        // the tier calls the store here, under our lock: nobody who holds a lock of the store takes this one
        tier_->joined(opens.page, handle.readable && handle.writable);
        out.open_flags = kOpenPassthrough;
    } else {
        if (handle.readable) ++opens.mappable;
        out.open_flags = FOPEN_KEEP_CACHE;
    }
    if (handle.by_passthrough || one_by_one || (!handle.readable && opens.writers.mapping == 0)) {
        handle.mode = OpenMode::kDirect;
        out.open_flags |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    }
    if (!handle.writable) out.open_flags |= FOPEN_NOFLUSH;  // its close has nothing to say
}

Splitter::Writers Splitter::writers(std::uint64_t ino) {
    const std::lock_guard guard(opens_mutex_);
    const auto it = opens_.find(ino);
    return it != opens_.end() ? it->second.writers : Writers{};
}

void Splitter::forget_open(const Handle& handle) {
    {
        const std::lock_guard guard(opens_mutex_);
        const auto it = opens_.find(handle.ino);
        Opens& opens = it->second;
        if (handle.by_passthrough) {
            if (--opens.passthrough == 0) opens.page.reset();  // the handle holds it still
        } else if (handle.readable) {
            --opens.mappable;
        }
        if (handle.writable) --opens.writers.all;
        if (handle.readable && handle.writable) --opens.writers.mapping;
        if (opens.mappable == 0 && opens.passthrough == 0 && opens.writers.all == 0) opens_.erase(it);
    }
    if (handle.by_passthrough) tier_->released(handle.page);
}

void Splitter::release(RequestHandle request) {
    const auto* in = request->in<fuse_release_in>();
    if (in == nullptr) return malformed(std::move(request));
    if (handles_.find(in->fh) == nullptr) return fail(std::move(request), -EBADF);
    const Handle handle = handles_.remove(in->fh);
    forget_open(handle);
    fail(std::move(request), store_->release(handle.ino, handle.writable));
}

// Of FLUSH and FSYNC: what a mapping of `mapped` has changed first, if there is such a page.
uring::Async<int> Splitter::write_out(std::uint64_t ino, warm::PagePtr mapped, bool durable) {
    int rc = 0;
    if (mapped != nullptr) rc = co_await tier_->write_back(std::move(mapped));
    const int done = durable ? co_await store_->fsync(ino) : co_await store_->flush(ino);
    co_return rc != 0 ? rc : done;
}

void Splitter::flush(RequestHandle request) {
    const auto* in = request->in<fuse_flush_in>();
    const Handle* handle = in == nullptr ? nullptr : handles_.find(in->fh);
    if (handle == nullptr) return malformed(std::move(request));
    if (!handle->writable) return request.reply(0);
    request->arguments_done();
    answer_status(std::move(request), write_out(handle->ino, handle->mapped_page(), false));
}

void Splitter::fsync(RequestHandle request) {
    const auto* in = request->in<fuse_fsync_in>();
    const Handle* handle = in == nullptr ? nullptr : handles_.find(in->fh);
    if (handle == nullptr) return malformed(std::move(request));
    request->arguments_done();
    answer_status(std::move(request), write_out(handle->ino, handle->mapped_page(), true));
}

void Splitter::fallocate(RequestHandle request) {
    const auto* in = request->in<fuse_fallocate_in>();
    const Handle* handle = in == nullptr ? nullptr : handles_.find(in->fh);
    if (handle == nullptr) return malformed(std::move(request));
    fallocate_later(std::move(request), handle->ino, *in);
}

uring::Detached Splitter::fallocate_later(RequestHandle request, std::uint64_t ino, fuse_fallocate_in in) {
    request->arguments_done();
    int rc = co_await store_->fallocate(ino, static_cast<int>(in.mode), in.offset, in.length);
    if (const int warm = co_await keep_in_step(ino, in.offset, in.length); rc == 0) rc = warm;
    fail(std::move(request), rc);
}

void Splitter::lseek(RequestHandle request) {
    const auto* in = request->in<fuse_lseek_in>();
    const Handle* handle = in == nullptr ? nullptr : handles_.find(in->fh);
    if (handle == nullptr) return malformed(std::move(request));
    lseek_later(std::move(request), handle->ino, *in);
}

// A hole must not be called one while the kernel holds bytes for it that it has not sent: what was written by way of a
// mapping (FUSE's lseek does not write it back first, as its copy_file_range does). While somebody has the file open in
// a way that allows such a mapping, all of it is data.
uring::Detached Splitter::lseek_later(RequestHandle request, std::uint64_t ino, fuse_lseek_in in) {
    request->arguments_done();
    std::int64_t found = co_await store_->seek(ino, in.offset, static_cast<int>(in.whence));
    if ((found >= 0 || found == -ENXIO) && writers(ino).mapping > 0) {
        store::Attributes attributes{};
        found = store_->getattr(ino, attributes);
        if (found == 0) {
            const bool inside = in.offset < attributes.size;
            found = static_cast<std::int64_t>(in.whence == SEEK_DATA ? in.offset : attributes.size);
            if (!inside) found = -ENXIO;
        }
    }
    if (found < 0) {
        fail(std::move(request), static_cast<int>(found));
        co_return;
    }
    fuse_lseek_out out{};
    out.offset = static_cast<std::uint64_t>(found);
    request.reply_with(out);
}

void Splitter::copy_file_range(RequestHandle request) {
    const auto* in = request->in<fuse_copy_file_range_in>();
    if (in != nullptr && in->nodeid_out >= kFirstVirtual) return fail(std::move(request), -EOPNOTSUPP);
    const Handle* from = in == nullptr ? nullptr : handles_.find(in->fh_in);
    const Handle* to = from == nullptr ? nullptr : handles_.find(in->fh_out);
    if (to == nullptr) return malformed(std::move(request));
    copy_later(std::move(request), from->ino, to->ino, *in);
}

uring::Detached Splitter::copy_later(RequestHandle request, std::uint64_t from, std::uint64_t to,
                                     fuse_copy_file_range_in in) {
    constexpr std::uint64_t kMost = 0x7fff'f000;  // as read(2) and write(2); the answer has 32 bits
    request->arguments_done();
    std::int64_t n =
        co_await store_->copy_range(from, in.off_in, to, in.off_out, std::min<std::uint64_t>(in.len, kMost));
    if (n > 0) {
        if (const int rc = co_await keep_in_step(to, in.off_out, static_cast<std::uint64_t>(n)); rc != 0) n = rc;
    }
    reply_written(std::move(request), n);
}

void Splitter::ioctl(RequestHandle request) {
    const auto* in = request->in<fuse_ioctl_in>();
    if (in == nullptr) return malformed(std::move(request));
    const Handle* handle = handles_.find(in->fh);
    if (tier_ == nullptr || handle == nullptr || !handle->readable) return request.reply(-ENOTTY);
    ioctl_later(std::move(request), handle->ino, *in);
}

uring::Detached Splitter::ioctl_later(RequestHandle request, std::uint64_t ino, fuse_ioctl_in in) {
    const Bytes rest = request->rest(sizeof in);
    struct {
        fuse_ioctl_out head;
        std::array<std::byte, sizeof(warm::Report)> data;
    } out{};
    const std::size_t room = std::min<std::size_t>(in.out_size, out.data.size());
    const int rc =
        co_await warm::control(*tier_, ino, in.cmd, rest.first(std::min<std::size_t>(in.in_size, rest.size())),
                               std::span(out.data).first(room));
    if (rc < 0) {
        fail(std::move(request), rc);
        co_return;
    }
    request.reply(Bytes(reinterpret_cast<const std::byte*>(&out), sizeof out.head + room));
}

// The kernel's attributes of an inode are out of date: its atime has changed without it knowing. Attributes only, so
// this waits for no lock.
void Splitter::forget_attributes(std::uint64_t ino) {
    struct {
        fuse_out_header header;
        fuse_notify_inval_inode_out body;
    } message{};
    message.header.len = sizeof message;
    message.header.error = FUSE_NOTIFY_INVAL_INODE;
    message.body.ino = ino;
    message.body.off = -1;
    // ENOENT: the kernel has no such inode in memory, and so nothing out of date
    [[maybe_unused]] const auto rc = ::write(fuse_fd_, &message, sizeof message);
}

}  // namespace kvfs::splitter
