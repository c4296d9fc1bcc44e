// What the splitter, the warm tier and the Python module talk to: a store, whatever it consists of.
//
// Today that is one namespace, and every call is its store's own: store/store.hpp says what each promises. So nobody
// above this line needs to know that an inode number may one day name a namespace as well (its upper half, 0 here).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/store.hpp"

namespace kvfs::pool {

using store::Attributes;
using store::Store;
using uring::Async;
using uring::Buffer;

class Pool {
public:
    explicit Pool(std::shared_ptr<Store> only) : keep_(std::move(only)), only_(*keep_) {}

    int close() { return only_.close(); }
    [[nodiscard]] bool is_abandoned() const { return only_.is_abandoned(); }

    // names and attributes
    int lookup(std::uint64_t parent, std::string_view name, Attributes& out, std::uint32_t client = 0) {
        return only_.lookup(parent, name, out, client);
    }
    int getattr(std::uint64_t ino, Attributes& out) { return only_.getattr(ino, out); }
    int setattr(std::uint64_t ino, const Store::SetAttributes& set, Attributes& out) {
        return only_.setattr(ino, set, out);
    }
    int make(std::uint64_t parent, std::string_view name, std::uint32_t mode, store::Owner owner,
             std::string_view target, bool defer_log, Attributes& out) {
        return only_.make(parent, name, mode, owner, target, defer_log, out);
    }
    int readlink(std::uint64_t ino, std::string& out) { return only_.readlink(ino, out); }
    int link(std::uint64_t ino, std::uint64_t parent, std::string_view name, Attributes& out) {
        return only_.link(ino, parent, name, out);
    }
    int unlink(std::uint64_t parent, std::string_view name, std::uint64_t& ino) {
        return only_.unlink(parent, name, ino);
    }
    int rmdir(std::uint64_t parent, std::string_view name, std::uint64_t& ino) {
        return only_.rmdir(parent, name, ino);
    }
    Async<int> rename(std::uint64_t parent, std::string name, std::uint64_t new_parent, std::string new_name,
                      std::uint32_t flags, std::uint32_t client = 0) {
        return only_.rename(parent, std::move(name), new_parent, std::move(new_name), flags, client);
    }
    void remember(std::uint64_t ino, std::uint32_t count) { only_.remember(ino, count); }
    void forget(std::uint64_t ino, std::uint64_t count) { only_.forget(ino, count); }
    // A number, or a negative errno.
    std::int64_t parent(std::uint64_t ino) { return only_.parent(ino); }
    int open(std::uint64_t ino, bool write, std::uint32_t client = 0) { return only_.open(ino, write, client); }
    int release(std::uint64_t ino, bool write) { return only_.release(ino, write); }
    int list(std::uint64_t ino, std::vector<store::NameId>& out) { return only_.list(ino, out); }
    bool entry(std::uint64_t directory, store::NameId id, std::string& name, Attributes& out, bool remember) {
        return only_.entry(directory, id, name, out, remember);
    }
    void touch_atime(std::uint64_t ino) { only_.touch_atime(ino); }
    int setxattr(std::uint64_t ino, std::string_view name, std::string_view value, int flags,
                 std::optional<std::uint32_t> caller = std::nullopt) {
        return only_.setxattr(ino, name, value, flags, caller);
    }
    int getxattr(std::uint64_t ino, std::string_view name, std::string& out) { return only_.getxattr(ino, name, out); }
    int listxattr(std::uint64_t ino, std::vector<std::string>& out) { return only_.listxattr(ino, out); }
    int removexattr(std::uint64_t ino, std::string_view name, std::optional<std::uint32_t> caller = std::nullopt) {
        return only_.removexattr(ino, name, caller);
    }
    Store::Space space() { return only_.space(); }

    // bytes
    Async<Store::ReadOutcome> read(std::uint64_t ino, std::uint64_t offset, std::size_t size) {
        return only_.read(ino, offset, size);
    }
    Async<std::int64_t> read_into(std::uint64_t ino, std::uint64_t offset, std::span<std::byte> out,
                                  uring::Priority priority, std::shared_ptr<const void> owner) {
        return only_.read_into(ino, offset, out, priority, std::move(owner));
    }
    [[nodiscard]] bool may_answer_early() const { return only_.may_answer_early(); }
    [[nodiscard]] bool is_device_slow() const { return only_.is_device_slow(); }
    Async<std::int64_t> write(std::uint64_t ino, std::uint64_t offset, std::span<const std::byte> data) {
        return only_.write(ino, offset, data);
    }
    Async<std::int64_t> write(std::uint64_t ino, std::uint64_t offset, Buffer buffer, std::size_t at,
                              std::size_t size) {
        return only_.write(ino, offset, std::move(buffer), at, size);
    }
    uring::BufferPool& request_pool() { return only_.request_pool(); }
    void set_inode_hook(std::function<void(std::uint64_t ino)> hook) { only_.set_inode_hook(std::move(hook)); }
    Async<int> truncate(std::uint64_t ino, std::uint64_t size) { return only_.truncate(ino, size); }
    Async<int> flush(std::uint64_t ino) { return only_.flush(ino); }
    Async<int> fsync(std::uint64_t ino) { return only_.fsync(ino); }
    Async<int> sync() { return only_.sync(); }
    Async<int> fallocate(std::uint64_t ino, int mode, std::uint64_t offset, std::uint64_t length) {
        return only_.fallocate(ino, mode, offset, length);
    }
    Async<std::int64_t> seek(std::uint64_t ino, std::uint64_t offset, int whence) {
        return only_.seek(ino, offset, whence);
    }
    Async<std::int64_t> copy_range(std::uint64_t ino_in, std::uint64_t offset_in, std::uint64_t ino_out,
                                   std::uint64_t offset_out, std::uint64_t length) {
        return only_.copy_range(ino_in, offset_in, ino_out, offset_out, length);
    }

    // administration
    store::Keep why_kept(std::uint64_t ino) { return only_.why_kept(ino); }
    void sweep_now(std::int64_t now) { only_.sweep_now(now); }
    void set_wakeup(std::function<void()> wakeup) { only_.set_wakeup(std::move(wakeup)); }
    std::vector<store::Event> take_events() { return only_.take_events(); }
    void say(int level, std::string text) { only_.say(level, std::move(text)); }
    int recover() { return only_.recover(); }

    // The store of the pool's one namespace, for what is asked of each by itself.
    [[nodiscard]] Store& only() { return only_; }

private:
    std::shared_ptr<Store> keep_;
    Store& only_;
};

}  // namespace kvfs::pool
