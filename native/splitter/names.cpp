// Names: LOOKUP, FORGET, UNLINK, RMDIR, RENAME, CREATE.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "splitter/splitter.hpp"

namespace kvfs::splitter {

void Splitter::lookup(RequestHandle request) {
    const std::string_view name = name_in(request->rest(0));
    if (name.empty()) return malformed(std::move(request));
    store::Attributes attributes{};
    const int rc = store_->lookup(request->header().nodeid, name, attributes, request->header().pid);
    if (rc == -ENOENT) {
        fuse_entry_out absent{};  // node 0: the kernel remembers that there is nothing, for as long as it says here
        absent.entry_valid = kNameTimeout;
        return request.reply_with(absent);
    }
    if (rc != 0) return fail(std::move(request), rc);
    request.reply_with(to_entry(attributes));
}

void Splitter::forget(RequestHandle request) {
    const auto one = [this](std::uint64_t ino, std::uint64_t count) {
        if (ino < kFirstVirtual) store_->forget(ino, count);
    };
    if (request->header().opcode == FUSE_FORGET) {
        if (const auto* in = request->in<fuse_forget_in>()) one(request->header().nodeid, in->nlookup);
    } else if (const auto* in = request->in<fuse_batch_forget_in>()) {
        const Bytes rest = request->rest(sizeof *in);
        const std::size_t count = std::min<std::size_t>(in->count, rest.size() / sizeof(fuse_forget_one));
        const auto* list = reinterpret_cast<const fuse_forget_one*>(rest.data());
        for (std::size_t i = 0; i < count; ++i) one(list[i].nodeid, list[i].nlookup);
    }
    request.no_reply();
}

void Splitter::unlink(RequestHandle request, bool directory) {
    const std::string_view name = name_in(request->rest(0));
    if (name.empty()) return malformed(std::move(request));
    std::uint64_t ino = 0;
    const std::uint64_t parent = request->header().nodeid;
    fail(std::move(request), directory ? store_->rmdir(parent, name, ino) : store_->unlink(parent, name, ino));
}

void Splitter::rename(RequestHandle request) {
    std::uint64_t new_parent = 0;
    std::uint32_t flags = 0;
    std::size_t head = 0;
    if (request->header().opcode == FUSE_RENAME) {
        const auto* in = request->in<fuse_rename_in>();
        if (in == nullptr) return malformed(std::move(request));
        new_parent = in->newdir;
        head = sizeof *in;
    } else {
        const auto* in = request->in<fuse_rename2_in>();
        if (in == nullptr) return malformed(std::move(request));
        new_parent = in->newdir;
        flags = in->flags;
        head = sizeof *in;
    }
    const Bytes names = request->rest(head);
    const std::string_view name = name_in(names);
    const std::string_view new_name = name.empty() ? name : name_in(names.subspan(name.size() + 1));
    if (new_name.empty()) return malformed(std::move(request));
    const std::uint64_t parent = request->header().nodeid;
    if (new_parent >= kFirstVirtual || is_control_name(parent, name) || is_control_name(new_parent, new_name)) {
        return relay(std::move(request));
    }
    rename_later(std::move(request), parent, std::string(name), new_parent, std::string(new_name), flags);
}

uring::Detached Splitter::rename_later(RequestHandle request, std::uint64_t parent, std::string name,
                                       std::uint64_t new_parent, std::string new_name, std::uint32_t flags) {
    request->arguments_done();
    const int rc =
        co_await store_->rename(parent, std::move(name), new_parent, std::move(new_name), flags, request->header().pid);
    fail(std::move(request), rc);
}

void Splitter::create(RequestHandle request) {
    const auto* in = request->in<fuse_create_in>();
    const std::string_view name = in == nullptr ? std::string_view{} : name_in(request->rest(sizeof *in));
    if (in == nullptr || name.empty()) return malformed(std::move(request));
    const fuse_in_header& header = request->header();
    store::Attributes parent{};
    int rc = store_->getattr(header.nodeid, parent);
    if (rc != 0) return fail(std::move(request), rc);
    // directories with the set-group-ID bit pass their group on
    const store::Owner owner{header.uid, (parent.mode & S_ISGID) != 0 ? parent.gid : header.gid};
    store::Attributes attributes{};
    std::uint32_t flags = in->flags;
    bool created = true;
    if (takes_set_uid(header.uid, in->mode)) {
        // a name that is there is only opened
        rc = store_->lookup(header.nodeid, name, attributes);
        if (rc == -ENOENT) return fail(std::move(request), -EPERM);
        if (rc != 0) return fail(std::move(request), rc);
        store_->forget(attributes.ino, 1);
    }
    rc = store_->make(header.nodeid, name, (in->mode & 07777U) | S_IFREG, owner, {}, true, attributes);
    if (rc == -EEXIST && (flags & O_EXCL) == 0) {
        // The kernel sends CREATE when it believes the name absent; without O_EXCL it is then to be opened.
        created = false;
        rc = store_->lookup(header.nodeid, name, attributes, header.pid);
    } else {
        flags &= ~static_cast<std::uint32_t>(O_TRUNC);  // it is empty already
    }
    if (rc != 0) return fail(std::move(request), rc);
    open_later(std::move(request), attributes.ino, flags, created, attributes);
}

}  // namespace kvfs::splitter
