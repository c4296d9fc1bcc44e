// Bytes: READ and WRITE.
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>

#include "splitter/splitter.hpp"
#include "uring/frames.hpp"

namespace kvfs::splitter {

void Splitter::read(RequestHandle request) {
    const auto* in = request->in<fuse_read_in>();
    const Handle* handle = in == nullptr ? nullptr : handles_.find(in->fh);
    if (handle == nullptr || in->size > kMaxWrite) return malformed(std::move(request));
    touch_atime(*handle);
    const std::uint64_t ino = handle->ino;
    const std::uint64_t offset = in->offset;
    const std::uint32_t size = in->size;
    if (tier_ != nullptr) {
        const warm::PagePtr page = tier_->find(ino);
        if (page != nullptr) {
            counters_.warm_reads.fetch_add(1, std::memory_order_relaxed);
            const Bytes all = page->bytes();
            const std::size_t from = std::min<std::uint64_t>(offset, all.size());
            return request.reply(all.subspan(from, std::min<std::size_t>(size, all.size() - from)));
        }
    }
    request->arguments_done();
    // memory that a slow device keeps has to be replaced: it gets memory of the store's
    if (request->reply_memory().size() >= format::round_up(size, format::kBlock) && offset % format::kBlock == 0 &&
        !store_->is_device_slow()) {
        read_in_place(std::move(request), ino, offset, size);
    } else {
        read_later(std::move(request), ino, offset, size);
    }
}

uring::Detached Splitter::read_later(RequestHandle request, std::uint64_t ino, std::uint64_t offset,
                                     std::uint32_t size) {
    const auto outcome = co_await store_->read(ino, offset, size);
    if (outcome.error != 0) {
        fail(std::move(request), outcome.error);
    } else {
        request.reply(Bytes(outcome.data.buffer.data() + outcome.data.offset, outcome.data.size));
    }
}

namespace {

// What a read in place owns while the device may write into its memory. Whoever lets go of it last, the read or the
// client, ends it.
struct InPlace {
    explicit InPlace(Request::DeviceMemory given) : memory(std::move(given)) {}
    InPlace(const InPlace&) = delete;
    InPlace& operator=(const InPlace&) = delete;
    ~InPlace() {
        // nobody looks at these pages any more
        if (is_left) madvise(memory.bytes.data(), memory.bytes.size(), MADV_REMOVE);
    }

    Request::DeviceMemory memory;
    bool is_left = false;                  // the request has other memory
    std::optional<RequestHandle> request;  // that has to wait for the device: EIO at the end
};

}  // namespace

// The device writes into the memory that the kernel takes the answer from. When it is late, the client is told so and
// the memory stays the device's.
uring::Detached Splitter::read_in_place(RequestHandle request, std::uint64_t ino, std::uint64_t offset,
                                        std::uint32_t size) {
    const std::size_t room = format::round_up(size, format::kBlock);
    auto mine = std::allocate_shared<InPlace>(uring::PooledAllocator<InPlace>{}, request->device_memory());
    const std::int64_t n =
        co_await store_->read_into(ino, offset, mine->memory.bytes.first(room), uring::Priority::kDemand, mine);
    if (n >= 0) {
        const std::span<std::byte> memory = request->reply_memory();
        request.reply(memory.first(std::min<std::uint64_t>(static_cast<std::uint64_t>(n), size)));
        co_return;
    }
    if (mine.use_count() > 1) {  // the read goes on
        mine->is_left = request->leave_memory_to_device();
        if (!mine->is_left) {
            mine->request.emplace(std::move(request));
            co_return;
        }
    }
    fail(std::move(request), static_cast<int>(n));
}

void Splitter::write(RequestHandle request) {
    const auto* in = request->in<fuse_write_in>();
    const Handle* handle = in == nullptr ? nullptr : handles_.find(in->fh);
    if (handle == nullptr || request->rest(sizeof *in).size() < in->size) return malformed(std::move(request));
    const fuse_write_in copy = *in;
    if (handle->mode == OpenMode::kDirect && request->header().uid != 0) clear_set_id(handle->ino);
    uring::Buffer buffer = request->take_buffer();
    write_later(std::move(request), std::move(buffer), handle->ino, copy);
}

// Whoever is not privileged loses a file's set-ID bits by writing to it or emptying it. The kernel sees to that in
// cached writes and truncate(2) only.
// (uid 0 stands for CAP_FSETID, which a request does not tell.)
void Splitter::clear_set_id(std::uint64_t ino) {
    store::Attributes attributes{};
    if (store_->getattr(ino, attributes) != 0) return;
    std::uint32_t gone = attributes.mode & S_ISUID;
    if ((attributes.mode & S_IXGRP) != 0) gone |= attributes.mode & S_ISGID;  // without it that bit means a lock
    if (gone == 0) return;
    store::Store::SetAttributes set;
    set.fields = store::kSetMode;
    set.mode = attributes.mode & ~gone;
    store_->setattr(ino, set, attributes);  // on a volume that refuses it, the write that follows is refused too
    forget_attributes(ino);
}

uring::Detached Splitter::write_later(RequestHandle request, uring::Buffer buffer, std::uint64_t ino,
                                      fuse_write_in in) {
    const bool taken = static_cast<bool>(buffer);
    const Bytes data = taken ? Bytes(buffer.data() + kDataAt, in.size) : request->rest(sizeof in).first(in.size);
    std::int64_t n = 0;
    if (taken) {
        n = co_await store_->write(ino, in.offset, std::move(buffer), kDataAt, in.size);
    } else {
        n = co_await store_->write(ino, in.offset, data);
    }
    if (const int rc = co_await keep_in_step(ino, in.offset, in.size); rc != 0 && n >= 0) n = rc;
    reply_written(std::move(request), n);
}

// Of WRITE and COPY_FILE_RANGE: bytes, or a negative errno.
void Splitter::reply_written(RequestHandle request, std::int64_t n) {
    if (n < 0) return fail(std::move(request), static_cast<int>(n));
    fuse_write_out out{};
    out.size = static_cast<std::uint32_t>(n);
    request.reply_with(out);
}

// After every change of a file's bytes or size, and before that is answered: see warm/tier.hpp.
uring::Async<int> Splitter::keep_in_step(std::uint64_t ino, std::uint64_t offset, std::uint64_t length) {
    if (tier_ == nullptr || tier_->drop(ino)) co_return 0;
    const int rc = co_await tier_->refresh(ino, offset, length);
    co_return rc;
}

}  // namespace kvfs::splitter
