// Names and attributes: everything here happens in memory under the store's mutex and is logged in the same instant.
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "store/plausible.hpp"
#include "store/scrub.hpp"
#include "store/store.hpp"

namespace kvfs::store {
namespace {

constexpr std::size_t kXattrNameMax = 255;
constexpr std::size_t kXattrSizeMax = 65536;
constexpr std::size_t kXattrsOfInode = 256 * 1024;
constexpr std::size_t kTargetMax = 4095;

}  // namespace

Attributes Store::attributes(InodeNumber ino, const Inode& inode) {
    Attributes out{};
    const Owner owner = inodes_.owner(inode);
    out.ino = ino;
    out.mode = inode.mode;
    out.nlink = link_count(inode);
    out.uid = owner.uid;
    out.gid = owner.gid;
    out.size = inode.is_directory() ? format::kBlock : std::uint64_t{inode.size};
    const auto file = inode.is_regular() && !files_.empty() ? find_file(ino) : nullptr;
    out.blocks = blocks_of_file(inode, file.get()) * (format::kBlock / 512);
    const Times times = inodes_.times(inode);
    out.atime_ns = times.atime_ns;
    out.mtime_ns = times.mtime_ns;
    out.ctime_ns = times.ctime_ns;
    return out;
}

std::uint32_t Store::link_count(const Inode& inode) const {
    if (!inode.is_directory()) return inode.nlink;
    return inode.nlink == 0 ? 0 : 2 + inode.directory->subdirectories;
}

Inode* Store::directory(std::uint64_t ino, int& error) {
    Inode* inode = inodes_.find(ino);
    error = inode == nullptr ? -ENOENT : !inode->is_directory() ? -ENOTDIR : 0;
    return error == 0 ? inode : nullptr;
}

int Store::check_writable(std::string_view name) const {
    if (read_only_) return refusal();
    if (name.size() > format::kNameMax) return -ENAMETOOLONG;
    return is_plausible_name(name) ? 0 : -EINVAL;  // what recovery would not believe is not made either
}

NameId Store::add_name(InodeNumber parent, std::string_view name, InodeNumber ino) {
    const NameId id = names_.insert(parent, name, ino);
    if (id == 0) return 0;
    Directory& dir = *inodes_.find(parent)->directory;
    // grown by a sixteenth, not doubled: the slack is part of the memory each file may cost
    if (dir.children.size() == dir.children.capacity()) {
        dir.children.reserve(dir.children.size() + dir.children.size() / 16 + 4);
    }
    names_.at(id).position = static_cast<std::uint32_t>(dir.children.size());
    dir.children.push_back(id);
    Inode& inode = *inodes_.find(ino);
    if (inode.is_directory()) {
        inode.directory->parent = parent;
        ++dir.subdirectories;
        inode.name = id;
        inode.nlink = 1;
    } else {
        if (inode.nlink++ == 0) {
            inode.name = id;
        } else {
            inodes_.extra_names[ino].push_back(id);
        }
    }
    return id;
}

void Store::remove_name(NameId id) {
    const Name& name = names_.at(id);
    const InodeNumber ino = name.ino;
    Directory& dir = *inodes_.find(name.parent)->directory;
    const NameId last = dir.children.back();
    dir.children[name.position] = last;
    names_.at(last).position = name.position;
    dir.children.pop_back();
    if (dir.children.empty()) dir.children.shrink_to_fit();
    Inode& inode = *inodes_.find(ino);
    if (inode.is_directory()) {
        --dir.subdirectories;
        inode.nlink = 0;
    } else {
        --inode.nlink;
        const auto extra = inodes_.extra_names.find(ino);
        if (extra != inodes_.extra_names.end()) {
            auto& list = extra->second;
            if (inode.name == id) {
                inode.name = list.back();
                list.pop_back();
            } else {
                std::erase(list, id);
            }
            if (list.empty()) inodes_.extra_names.erase(extra);
        }
    }
    names_.erase(id);
}

void Store::touch_directory(InodeNumber ino, std::int64_t now) {
    Inode& inode = *inodes_.find(ino);
    inodes_.modified(inode, now);
    touched_directories_.insert(ino);  // logged once per frame, however many names change
}

void Store::log_name(NameId id) {
    const Name& name = names_.at(id);
    if (inodes_.find(name.ino)->has(kLogged)) log_.writer().name_set(name.parent, name.view(), name.ino);
}

void Store::log_attributes(InodeNumber ino) {
    const Inode& inode = *inodes_.find(ino);
    if (inode.has(kLogged)) log_.writer().inode(body_of(ino, inode), {});
}

format::InodeBody Store::body_of(InodeNumber ino, const Inode& inode) const {
    format::InodeBody body{};
    const Owner owner = inodes_.owner(inode);
    body.ino = ino;
    body.mode = inode.mode;
    body.nlink = link_count(inode);
    body.uid = owner.uid;
    body.gid = owner.gid;
    body.size = inode.size;
    // attributes may be logged while data is not complete: the size must be the committed data's
    const auto file = files_.find(ino);
    if (file != files_.end() && file->second->dirty) body.size = file->second->committed_size;
    const Times times = inodes_.times(inode);
    body.atime_ns = times.atime_ns;
    body.mtime_ns = times.mtime_ns;
    body.ctime_ns = times.ctime_ns;
    return body;
}

int Store::lookup(std::uint64_t parent, std::string_view name, Attributes& out, std::uint32_t client) {
    const std::lock_guard guard(mutex_);
    counters_.lookups.fetch_add(1, std::memory_order_relaxed);
    int error = 0;
    Inode* dir = directory(parent, error);
    if (dir == nullptr) return error;
    InodeNumber ino = 0;
    if (name == ".") {
        ino = static_cast<InodeNumber>(parent);
    } else if (name == "..") {
        ino = dir->directory->parent;
    } else {
        if (name.size() > format::kNameMax) return -ENAMETOOLONG;
        const NameId id = names_.find(static_cast<InodeNumber>(parent), name);
        if (id == 0) {
            counters_.lookup_misses.fetch_add(1, std::memory_order_relaxed);
            if (policy_ != nullptr) {
                policy_->missed(names_.key(static_cast<InodeNumber>(parent), name),
                                {.now_ns = now_ns(), .client = client});
            }
            return -ENOENT;
        }
        ino = names_.at(id).ino;
    }
    Inode& inode = *inodes_.find(ino);
    inodes_.remember(inode);
    out = attributes(ino, inode);
    return 0;
}

int Store::getattr(std::uint64_t ino, Attributes& out) {
    const std::lock_guard guard(mutex_);
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (inode->has(kEvicted)) return -ESTALE;
    out = attributes(static_cast<InodeNumber>(ino), *inode);
    return 0;
}

int Store::setattr(std::uint64_t ino, const SetAttributes& set, Attributes& out) {
    std::unique_lock guard(mutex_);
    wait_for_log(guard);
    if (read_only_) return -EROFS;
    Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (inode->has(kEvicted)) return -ESTALE;
    const std::int64_t now = now_ns();
    if ((set.fields & kSetMode) != 0) {
        inode->mode = static_cast<std::uint16_t>((inode->mode & S_IFMT) | (set.mode & 07777));
    }
    if ((set.fields & (kSetUid | kSetGid)) != 0) {
        Owner owner = inodes_.owner(*inode);
        if ((set.fields & kSetUid) != 0) owner.uid = set.uid;
        if ((set.fields & kSetGid) != 0) owner.gid = set.gid;
        inodes_.set_owner(*inode, owner);
    }
    if ((set.fields & kSetAtime) != 0) inodes_.set_exact_atime(*inode, set.atime_ns);
    if ((set.fields & kSetMtime) != 0) inodes_.set_mtime(*inode, set.mtime_ns);
    if ((set.fields & kSetAtimeNow) != 0) inodes_.set_atime(*inode, now);
    // some engines mark what they have used that way
    if ((set.fields & (kSetAtime | kSetAtimeNow)) != 0) note_use(static_cast<InodeNumber>(ino), set.client);
    if ((set.fields & kSetMtimeNow) != 0) inodes_.set_mtime(*inode, now);
    inodes_.set_ctime(*inode, now);
    if (inode->nlink != 0) {
        log_attributes(static_cast<InodeNumber>(ino));
        log_.commit();
    }
    out = attributes(static_cast<InodeNumber>(ino), *inode);
    return 0;
}

int Store::make(std::uint64_t parent, std::string_view name, std::uint32_t mode, Owner owner, std::string_view target,
                bool defer_log, Attributes& out) {
    std::unique_lock guard(mutex_);
    wait_for_log(guard);
    if (const int rc = check_writable(name); rc != 0) return rc;
    if (S_ISBLK(mode) || S_ISCHR(mode)) return -EPERM;
    if (S_ISLNK(mode) && target.size() > kTargetMax) return -ENAMETOOLONG;
    int error = 0;
    Inode* dir = directory(parent, error);
    if (dir == nullptr) return error;
    if (dir->nlink == 0) return -ENOENT;  // removed while somebody works in it
    const auto in = static_cast<InodeNumber>(parent);
    if (names_.find(in, name) != 0) return -EEXIST;
    if (S_ISDIR(mode) && dir->directory->subdirectories >= std::numeric_limits<std::uint32_t>::max() - 2)
        return -EMLINK;
    if (!make_metadata_space()) {
        counters_.enospc.fetch_add(1, std::memory_order_relaxed);
        return -ENOSPC;
    }
    const QuotaList quotas = quotas_in(in);
    while (Quota* const full = first_full(quotas, 0, 1)) {
        if (!evict_within(*full, 0, 1)) return refuse(*full);
    }
    const InodeNumber ino = inodes_.allocate(mode, owner);
    if (ino == 0) return -ENOSPC;
    if (add_name(in, name, ino) == 0) {
        inodes_.release(ino);
        return -ENOSPC;
    }
    const std::int64_t now = now_ns();
    Inode& inode = *inodes_.find(ino);
    inodes_.set_times(inode, {now, now, now});
    inodes_.remember(inode);
    if (S_ISLNK(mode)) {
        inode.target = new std::string(target);
        inode.size = target.size();
    }
    charge_new(ino);
    touch_directory(in, now);
    if (defer_log) {
        // a file that is about to be written reaches the log when its data is complete: at close, fsync, rename or link
        mark_dirty(*file_of(ino));
    } else {
        inode.set(kLogged);
        log_attributes(ino);
        if (S_ISLNK(mode)) log_.writer().symlink(ino, target);
        log_name(inode.name);
        log_.commit();
        if (inode.is_regular()) note_there(ino, 0);
    }
    counters_.creates.fetch_add(1, std::memory_order_relaxed);
    out = attributes(ino, inode);
    return 0;
}

int Store::readlink(std::uint64_t ino, std::string& out) {
    const std::lock_guard guard(mutex_);
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (!inode->is_symlink()) return -EINVAL;
    out = *inode->target;
    return 0;
}

// An inode lost the name `id`; with the last one it goes, now or when nobody holds it any more. Logs, does not commit.
void Store::lose_link(InodeNumber ino, NameId id, std::int64_t now) {
    Inode& inode = *inodes_.find(ino);
    const Name& name = names_.at(id);
    const QuotaList counted = quotas_over(ino);
    if (inode.has(kLogged)) log_.writer().name_delete(name.parent, name.view());
    if (inode.nlink == 1) note_gone(ino);  // while it still has the name that it goes by
    remove_name(id);
    recharge(ino, counted);
    inodes_.set_ctime(inode, now);
    if (inode.nlink != 0) {
        log_attributes(ino);
        return;
    }
    if (inode.has(kLogged)) {
        log_.writer().inode_delete(ino);
        inode.clear(kLogged);
    }
}

int Store::link(std::uint64_t ino, std::uint64_t parent, std::string_view name, Attributes& out) {
    std::unique_lock guard(mutex_);
    wait_for_log(guard);
    if (const int rc = check_writable(name); rc != 0) return rc;
    Inode* inode = inodes_.find(ino);
    int error = 0;
    const Inode* dir = directory(parent, error);
    if (dir == nullptr) return error;
    if (inode != nullptr && inode->has(kEvicted)) return -ESTALE;
    if (inode == nullptr || inode->nlink == 0 || dir->nlink == 0) return -ENOENT;
    if (inode->is_directory()) return -EPERM;
    if (inode->nlink >= kLinkMax) return -EMLINK;
    if (names_.find(static_cast<InodeNumber>(parent), name) != 0) return -EEXIST;
    if (quotas_in(static_cast<InodeNumber>(parent)) != quotas_over(static_cast<InodeNumber>(ino))) return -EXDEV;
    if (!make_metadata_space()) return -ENOSPC;
    inode = inodes_.find(ino);  // room may have been made by letting go of this very file
    if (inode == nullptr || inode->has(kEvicted)) return -ESTALE;
    const NameId id = add_name(static_cast<InodeNumber>(parent), name, static_cast<InodeNumber>(ino));
    if (id == 0) return -ENOSPC;
    const std::int64_t now = now_ns();
    inodes_.set_ctime(*inode, now);
    inodes_.remember(*inode);
    touch_directory(static_cast<InodeNumber>(parent), now);
    log_attributes(static_cast<InodeNumber>(ino));
    log_name(id);  // a file that is not logged yet brings all its names with it when it is
    log_.commit();
    out = attributes(static_cast<InodeNumber>(ino), *inode);
    return 0;
}

// What unlink and rmdir ask before they ask what it is.
int Store::find_to_remove(std::uint64_t parent, std::string_view name, NameId& id) {
    if (const int rc = check_writable(name); rc != 0) return rc;
    int error = 0;
    if (directory(parent, error) == nullptr) return error;
    id = names_.find(static_cast<InodeNumber>(parent), name);
    return id == 0 ? -ENOENT : 0;
}

int Store::unlink(std::uint64_t parent, std::string_view name, std::uint64_t& ino) {
    std::unique_lock guard(mutex_);
    wait_for_log(guard);
    NameId id = 0;
    if (const int rc = find_to_remove(parent, name, id); rc != 0) return rc;
    const InodeNumber victim = names_.at(id).ino;
    if (inodes_.find(victim)->is_directory()) return -EISDIR;
    const std::int64_t now = now_ns();
    lose_link(victim, id, now);
    touch_directory(static_cast<InodeNumber>(parent), now);
    log_.commit();
    drop_file_if_idle(victim);
    counters_.unlinks.fetch_add(1, std::memory_order_relaxed);
    ino = victim;
    return 0;
}

int Store::rmdir(std::uint64_t parent, std::string_view name, std::uint64_t& ino) {
    std::unique_lock guard(mutex_);
    wait_for_log(guard);
    NameId id = 0;
    if (const int rc = find_to_remove(parent, name, id); rc != 0) return rc;
    const InodeNumber victim = names_.at(id).ino;
    const Inode& inode = *inodes_.find(victim);
    if (!inode.is_directory()) return -ENOTDIR;
    if (!inode.directory->children.empty()) return -ENOTEMPTY;
    const std::int64_t now = now_ns();
    lose_link(victim, id, now);
    touch_directory(static_cast<InodeNumber>(parent), now);
    log_.commit();
    free_if_unused(victim);
    ino = victim;
    return 0;
}

int Store::rename_locked(std::uint64_t parent, std::string_view name, std::uint64_t new_parent,
                         std::string_view new_name, std::uint32_t flags, std::uint32_t client) {
    for (const std::string_view each : {name, new_name}) {
        if (const int rc = check_writable(each); rc != 0) return rc;
    }
    if ((flags & ~(kRenameNoReplace | kRenameExchange)) != 0 || flags == (kRenameNoReplace | kRenameExchange))
        return -EINVAL;
    int error = 0;
    if (directory(parent, error) == nullptr) return error;
    const Inode* to_dir = directory(new_parent, error);
    if (to_dir == nullptr) return error;
    if (to_dir->nlink == 0) return -ENOENT;
    const auto from_ino = static_cast<InodeNumber>(parent);
    const auto to_ino = static_cast<InodeNumber>(new_parent);
    const NameId from = names_.find(from_ino, name);
    if (from == 0) return -ENOENT;
    const NameId to = names_.find(to_ino, new_name);
    if (to != 0 && (flags & kRenameNoReplace) != 0) return -EEXIST;
    if (to == 0 && (flags & kRenameExchange) != 0) return -ENOENT;
    const InodeNumber moved = names_.at(from).ino;
    const InodeNumber target = to == 0 ? 0 : names_.at(to).ino;
    if (moved == target) return 0;  // the same file, perhaps by two names: POSIX says do nothing

    const auto is_inside = [&](InodeNumber inner, InodeNumber outer) {
        for (InodeNumber at = inner; at != kRoot; at = inodes_.find(at)->directory->parent) {
            if (at == outer) return true;
        }
        return false;
    };
    Inode& inode = *inodes_.find(moved);
    if (inode.is_directory() && is_inside(to_ino, moved)) return -EINVAL;
    const std::int64_t now = now_ns();
    if ((flags & kRenameExchange) != 0) {
        Inode& other = *inodes_.find(target);
        if (other.is_directory() && is_inside(from_ino, target)) return -EINVAL;
        if (const int rc = check_quotas_of_rename(moved, from_ino, to_ino, true); rc != 0) return rc;
        const QuotaList counted = quotas_over(moved);
        const QuotaList other_counted = quotas_over(target);
        remove_name(from);
        remove_name(to);
        const NameId first = add_name(to_ino, new_name, moved);
        const NameId second = add_name(from_ino, name, target);
        recharge(moved, counted);
        recharge(target, other_counted);
        inodes_.set_ctime(inode, now);
        inodes_.set_ctime(other, now);
        // two files of which one is not in the log yet: the log must lose that one's old name
        for (const auto& [in, text, ino] : {std::tuple(to_ino, new_name, moved), std::tuple(from_ino, name, target)}) {
            if (!inodes_.find(ino)->has(kLogged)) log_.writer().name_delete(in, text);
        }
        log_name(first);
        log_name(second);
        log_attributes(moved);
        log_attributes(target);
    } else {
        if (to != 0) {
            const Inode& victim = *inodes_.find(target);
            if (inode.is_directory() && !victim.is_directory()) return -ENOTDIR;
            if (!inode.is_directory() && victim.is_directory()) return -EISDIR;
            if (victim.is_directory() && !victim.directory->children.empty()) return -ENOTEMPTY;
        }
        if (const int rc = check_quotas_of_rename(moved, from_ino, to_ino, false); rc != 0) return rc;
        if (to != 0) lose_link(target, to, now);
        const QuotaList counted = quotas_over(moved);
        if (inode.has(kLogged)) log_.writer().name_delete(from_ino, name);
        if (inode.is_regular()) note_gone(moved);  // while it still has its old name
        remove_name(from);
        const NameId id = add_name(to_ino, new_name, moved);
        recharge(moved, counted);
        inodes_.set_ctime(inode, now);
        log_name(id);
        log_attributes(moved);
        if (inode.is_regular() &&
            inode.has(kLogged)) {  // what it is called from now on is what it will be asked for by
            note_there(moved, client);
        }
    }
    touch_directory(from_ino, now);
    if (from_ino != to_ino) touch_directory(to_ino, now);
    log_.commit();
    if (target != 0 && (flags & kRenameExchange) == 0) {
        drop_file_if_idle(target);
    }
    counters_.renames.fetch_add(1, std::memory_order_relaxed);
    return 0;
}

Async<int> Store::rename_now(std::uint64_t parent, std::string name, std::uint64_t new_parent, std::string new_name,
                             std::uint32_t flags, std::uint32_t client, Borrowed* lender) {
    // a page's data must be complete before its final name is published
    for (;;) {
        std::uint64_t unpublished = 0;
        int rc = 0;
        {
            const std::lock_guard guard(mutex_);
            const NameId id = names_.find(static_cast<InodeNumber>(parent), name);
            if (id != 0 && !read_only_) {
                const auto file = find_file(names_.at(id).ino);
                if (file && file->dirty && file->error == 0) unpublished = file->ino;
            }
            const auto move = [&] {
                make_rename_fit(parent, name, new_parent);
                rc = rename_locked(parent, name, new_parent, new_name, flags, client);
            };
            if (unpublished == 0 && lender == nullptr) move();
            if (unpublished == 0 && lender != nullptr && !lender->use(move)) rc = -EIO;
        }
        if (unpublished == 0) co_return rc;
        rc = co_await flush_now(unpublished);
        if (rc != 0) co_return rc;
    }
}

void Store::remember(std::uint64_t ino, std::uint32_t count) {
    const std::lock_guard guard(mutex_);
    if (Inode* inode = inodes_.find(ino)) inodes_.remember(*inode, count);
}

void Store::forget(std::uint64_t ino, std::uint64_t count) {
    const std::lock_guard guard(mutex_);
    Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return;
    inodes_.forget(*inode, count);
    if (!Inodes::is_referenced(*inode) && inode->nlink == 0) drop_file_if_idle(static_cast<InodeNumber>(ino));
}

void Store::free_if_unused(InodeNumber ino) {
    Inode* inode = inodes_.find(ino);
    if (inode == nullptr || ino == kRoot || inode->nlink != 0 || files_.contains(ino)) return;
    release_charge(ino);
    if (Inodes::is_referenced(*inode)) return;
    if (inode->is_regular()) {
        for (const Piece& piece : inodes_.carve(*inode, 0, ~std::uint64_t{0})) {
            // the log position now: at or after the record that deleted the file
            segments_.remove_live(piece.extent.segment, piece.extent.blocks, log_.appended());
        }
    }
    touched_directories_.erase(ino);
    settings_.erase(ino);
    if (inode_hook_) inode_hook_(ino);
    inodes_.release(ino);
}

int Store::parent(std::uint64_t ino) {
    const std::lock_guard guard(mutex_);
    int error = 0;
    const Inode* dir = directory(ino, error);
    return dir == nullptr ? error : static_cast<int>(dir->directory->parent);
}

int Store::open(std::uint64_t ino, bool write, std::uint32_t client) {
    const std::lock_guard guard(mutex_);
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (inode->is_directory()) return write ? -EISDIR : 0;
    if (!inode->is_regular()) return -ENXIO;
    if (inode->has(kEvicted)) return -ESTALE;
    if (write && read_only_) return -EROFS;
    const auto file = file_of(static_cast<InodeNumber>(ino));
    ++file->handles;
    file->client = client;
    note_use(static_cast<InodeNumber>(ino), client);
    if (write) ++file->writers;
    return 0;
}

int Store::release(std::uint64_t ino, bool write) {
    bool unfinished = false;
    {
        const std::lock_guard guard(mutex_);
        const auto file = find_file(static_cast<InodeNumber>(ino));
        if (!file || file->handles == 0) return -EBADF;
        --file->handles;
        if (write) --file->writers;
        if (file->writers == 0) segments_.end_lease(file->lease);
        if (file->handles == 0) {
            release_promise(*file, 0, ~std::uint64_t{0});
            settle_charge(*file);
            const Inode* inode = inodes_.find(ino);
            unfinished = file->tail || (file->dirty && inode->nlink != 0);
            if (!unfinished) drop_file_if_idle(file->ino);
        }
    }
    // bytes that came after the last flush (by mmap, or from a client that died): publish them as close would have
    if (unfinished) in_background(finish_release(static_cast<InodeNumber>(ino)));
    return 0;
}

int Store::list(std::uint64_t ino, std::vector<NameId>& out) {
    const std::lock_guard guard(mutex_);
    int error = 0;
    const Inode* dir = directory(ino, error);
    if (dir == nullptr) return error;
    out = dir->directory->children;
    return 0;
}

bool Store::entry(std::uint64_t directory_ino, NameId id, std::string& name, Attributes& out, bool remember) {
    const std::lock_guard guard(mutex_);
    const Name& found = names_.at(id);
    if (found.length == 0 || found.parent != directory_ino) return false;
    name = found.view();
    Inode& inode = *inodes_.find(found.ino);
    // in the same instant: between two, the file could be evicted and its number be another's
    if (remember) inodes_.remember(inode);
    out = attributes(found.ino, inode);
    return true;
}

void Store::touch_atime(std::uint64_t ino) {
    const std::lock_guard guard(mutex_);
    // in memory only: a checkpoint keeps it, and so does an orderly end
    if (Inode* inode = inodes_.find(ino); inode != nullptr && !read_only_) {
        inodes_.set_atime(*inode, now_ns());
    }
}

int Store::setxattr(std::uint64_t ino, std::string_view name, std::string_view value, int flags,
                    std::optional<std::uint32_t> caller) {
    std::unique_lock guard(mutex_);
    wait_for_log(guard);
    if (read_only_) return -EROFS;
    Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (inode->has(kEvicted)) return -ESTALE;
    if (name.empty() || name.size() > kXattrNameMax) return -ERANGE;
    if (value.size() > kXattrSizeMax) return -E2BIG;
    const bool is_setting = name.starts_with(kSettingPrefix);
    std::string normal;
    if (is_setting) {
        const int rc = check_setting(static_cast<InodeNumber>(ino), name, value, caller, normal);
        if (rc != 0) return rc;
        value = normal;
    }
    if (!make_metadata_space()) return -ENOSPC;
    inode = inodes_.find(ino);  // room may have been made by letting go of this very file
    if (inode == nullptr || inode->has(kEvicted)) return -ESTALE;
    auto& list = inodes_.xattrs[static_cast<InodeNumber>(ino)];
    const auto it = std::find_if(list.begin(), list.end(), [&](const auto& pair) { return pair.first == name; });
    int rc = 0;
    std::size_t total = name.size() + value.size();
    for (const auto& pair : list) total += pair.first == name ? 0 : pair.first.size() + pair.second.size();
    if (it == list.end() && (flags & XATTR_REPLACE) != 0) rc = -ENODATA;
    if (it != list.end() && (flags & XATTR_CREATE) != 0) rc = -EEXIST;
    if (rc == 0 && total > kXattrsOfInode) rc = -ENOSPC;
    if (rc != 0) {
        if (list.empty()) inodes_.xattrs.erase(static_cast<InodeNumber>(ino));
        return rc;
    }
    if (it == list.end()) {
        list.emplace_back(name, value);
    } else {
        it->second = value;
    }
    inodes_.xattr_bytes += name.size() + value.size() + 24;
    inode->set(kHasXattrs);
    if (is_setting) apply_setting(static_cast<InodeNumber>(ino), name, value);
    inodes_.set_ctime(*inode, now_ns());
    if (inode->has(kLogged)) {
        log_attributes(static_cast<InodeNumber>(ino));
        log_.writer().xattr_set(ino, name, value);
        log_.commit();
    }
    return 0;
}

int Store::getxattr(std::uint64_t ino, std::string_view name, std::string& out) {
    const std::lock_guard guard(mutex_);
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (inode->has(kEvicted)) return -ESTALE;
    if (inode->has(kHasQuota) && get_usage(static_cast<InodeNumber>(ino), name, out) == 0) return 0;
    if (!inode->has(kHasXattrs)) return -ENODATA;
    for (const auto& [key, value] : inodes_.xattrs[static_cast<InodeNumber>(ino)]) {
        if (key != name) continue;
        out = value;
        return 0;
    }
    return -ENODATA;
}

int Store::listxattr(std::uint64_t ino, std::vector<std::string>& out) {
    const std::lock_guard guard(mutex_);
    const Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (inode->has(kEvicted)) return -ESTALE;
    if (!inode->has(kHasXattrs)) return 0;
    for (const auto& pair : inodes_.xattrs[static_cast<InodeNumber>(ino)]) {
        if (!pair.first.starts_with(kHiddenPrefix)) out.push_back(pair.first);
    }
    return 0;
}

int Store::removexattr(std::uint64_t ino, std::string_view name, std::optional<std::uint32_t> caller) {
    std::unique_lock guard(mutex_);
    wait_for_log(guard);
    if (read_only_) return -EROFS;
    Inode* inode = inodes_.find(ino);
    if (inode == nullptr) return -ENOENT;
    if (inode->has(kEvicted)) return -ESTALE;
    const bool is_setting = name.starts_with(kSettingPrefix);
    if (is_setting && may_set(*inode, name, caller) == -EPERM) return -EPERM;
    const auto list = inodes_.xattrs.find(static_cast<InodeNumber>(ino));
    if (list == inodes_.xattrs.end() ||
        std::erase_if(list->second, [&](const auto& pair) { return pair.first == name; }) == 0) {
        return -ENODATA;
    }
    if (list->second.empty()) {
        inodes_.xattrs.erase(list);
        inode->clear(kHasXattrs);
    }
    if (is_setting) apply_setting(static_cast<InodeNumber>(ino), name, std::nullopt);
    inodes_.set_ctime(*inode, now_ns());
    if (inode->has(kLogged)) {
        log_attributes(static_cast<InodeNumber>(ino));
        log_.writer().xattr_delete(ino, name);
        log_.commit();
    }
    return 0;
}

}  // namespace kvfs::store
