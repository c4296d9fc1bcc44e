// The calls that may wait for the device, with their deadline. What does the work is in read.cpp, write.cpp, flush.cpp,
// ranges.cpp and namespace.cpp, under the same name with _now, and may still be at it after the answer: see
// uring/patience.hpp.
#include <cerrno>
#include <utility>

#include "store/store.hpp"

namespace kvfs::store {

Async<Store::ReadOutcome> Store::read(std::uint64_t ino, std::uint64_t offset, std::size_t size) {
    if (!patience_) return read_now(ino, offset, size);
    ReadOutcome late;
    late.error = -EIO;
    return patience_->answer(std::move(late),
                             [this, ino, offset, size](Borrowed&) { return read_now(ino, offset, size); });
}

Async<std::int64_t> Store::read_into(std::uint64_t ino, std::uint64_t offset, std::span<std::byte> out,
                                     uring::Priority priority) {
    if (!patience_) return read_into_now(ino, offset, out, priority, nullptr);
    return patience_->answer(
        std::int64_t{-EIO}, [=, this](Borrowed& lender) { return read_into_now(ino, offset, out, priority, &lender); });
}

namespace {

template <typename T>
Async<T> owning(Async<T> task, std::shared_ptr<const void> /*owner*/) {
    const T result = co_await std::move(task);
    co_return result;
}

}  // namespace

Async<std::int64_t> Store::read_into(std::uint64_t ino, std::uint64_t offset, std::span<std::byte> out,
                                     uring::Priority priority, std::shared_ptr<const void> owner) {
    if (!patience_) return read_into_now(ino, offset, out, priority, nullptr);
    return patience_->answer(std::int64_t{-EIO}, [=, this, owner = std::move(owner)](Borrowed&) {
        return owning(read_into_now(ino, offset, out, priority, nullptr), owner);
    });
}

Async<std::int64_t> Store::write(std::uint64_t ino, std::uint64_t offset, std::span<const std::byte> data) {
    if (!patience_) return write_now(ino, offset, data, nullptr);
    return patience_->answer(std::int64_t{-EIO},
                             [=, this](Borrowed& lender) { return write_now(ino, offset, data, &lender); });
}

Async<std::int64_t> Store::write(std::uint64_t ino, std::uint64_t offset, Buffer buffer, std::size_t at,
                                 std::size_t size) {
    if (!patience_) return write_now(ino, offset, std::move(buffer), at, size);
    return patience_->answer(std::int64_t{-EIO}, [=, this, buffer = std::move(buffer)](Borrowed&) mutable {
        return write_now(ino, offset, std::move(buffer), at, size);
    });
}

Async<int> Store::truncate(std::uint64_t ino, std::uint64_t size) {
    if (!patience_) return truncate_now(ino, size);
    return patience_->answer(-EIO, [=, this](Borrowed&) { return truncate_now(ino, size); });
}

Async<int> Store::flush(std::uint64_t ino) {
    if (!patience_) return flush_now(ino);
    return patience_->answer(-EIO, [=, this](Borrowed&) { return flush_now(ino); });
}

Async<int> Store::fsync(std::uint64_t ino) {
    if (!patience_) return fsync_now(ino);
    return patience_->answer(-EIO, [=, this](Borrowed&) { return fsync_now(ino); });
}

Async<int> Store::sync() {
    if (!patience_) return sync_now();
    return patience_->answer(-EIO, [this](Borrowed&) { return sync_now(); });
}

// Whoever was told that a rename failed may rename something else there: it must not come to pass later.
Async<int> Store::rename(std::uint64_t parent, std::string name, std::uint64_t new_parent, std::string new_name,
                         std::uint32_t flags, std::uint32_t client) {
    if (!patience_) return rename_now(parent, std::move(name), new_parent, std::move(new_name), flags, client, nullptr);
    return patience_->answer(
        -EIO, [=, this, name = std::move(name), new_name = std::move(new_name)](Borrowed& lender) mutable {
            return rename_now(parent, std::move(name), new_parent, std::move(new_name), flags, client, &lender);
        });
}

Async<int> Store::fallocate(std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t length) {
    if (!patience_) return fallocate_now(ino, mode, offset, length);
    return patience_->answer(-EIO, [=, this](Borrowed&) { return fallocate_now(ino, mode, offset, length); });
}

Async<std::int64_t> Store::copy_range(std::uint64_t ino_in, std::uint64_t offset_in, std::uint64_t ino_out,
                                      std::uint64_t offset_out, std::uint64_t length) {
    if (!patience_) return copy_range_now(ino_in, offset_in, ino_out, offset_out, length);
    return patience_->answer(std::int64_t{-EIO}, [=, this](Borrowed&) {
        return copy_range_now(ino_in, offset_in, ino_out, offset_out, length);
    });
}

}  // namespace kvfs::store
