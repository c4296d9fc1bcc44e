// Attributes: GETATTR, SETATTR, STATFS, and the extended ones that kvfs does not keep.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "splitter/splitter.hpp"

namespace kvfs::splitter {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::uint32_t kMostRest = kSecond - 1;

// Seconds are signed on the wire and nanoseconds are not: times before 1970 round down.
void split_time(std::int64_t ns, std::uint64_t& seconds, std::uint32_t& rest) {
    std::int64_t whole = ns / kSecond;
    std::int64_t part = ns % kSecond;
    if (part < 0) {
        --whole;
        part += kSecond;
    }
    seconds = static_cast<std::uint64_t>(whole);
    rest = static_cast<std::uint32_t>(part);
}

// Beyond what 64 bits of nanoseconds can say, the last instant that they can (1677 and 2262).
std::int64_t join_time(std::uint64_t seconds, std::uint32_t rest) {
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / kSecond - 1;
    return std::clamp(static_cast<std::int64_t>(seconds), -kMost, kMost) * kSecond + std::min(rest, kMostRest);
}

}  // namespace

fuse_attr to_fuse(const store::Attributes& a) {
    fuse_attr out{};
    out.ino = a.ino;
    out.size = a.size;
    out.blocks = a.blocks;
    split_time(a.atime_ns, out.atime, out.atimensec);
    split_time(a.mtime_ns, out.mtime, out.mtimensec);
    split_time(a.ctime_ns, out.ctime, out.ctimensec);
    out.mode = a.mode;
    out.nlink = a.nlink;
    out.uid = a.uid;
    out.gid = a.gid;
    out.rdev = a.rdev;
    out.blksize = format::kBlock;
    return out;
}

std::uint64_t attributes_timeout(const store::Attributes& a) {
    if (!S_ISDIR(a.mode)) return kFileTimeout;
    return a.ino == store::kRoot ? kRootTimeout : kDirectoryTimeout;
}

fuse_entry_out to_entry(const store::Attributes& a) {
    fuse_entry_out out{};
    out.nodeid = a.ino;
    out.generation = a.generation;
    out.entry_valid = kNameTimeout;
    out.attr_valid = attributes_timeout(a);
    out.attr = to_fuse(a);
    return out;
}

static void reply_attributes(RequestHandle request, const store::Attributes& attributes) {
    fuse_attr_out out{};
    out.attr_valid = attributes_timeout(attributes);
    out.attr = to_fuse(attributes);
    request.reply_with(out);
}

void Splitter::getattr(RequestHandle request) {
    store::Attributes attributes{};
    const int rc = store_->getattr(request->header().nodeid, attributes);
    if (rc != 0) return fail(std::move(request), rc);
    reply_attributes(std::move(request), attributes);
}

bool takes_set_uid(std::uint32_t uid, std::uint32_t mode) { return uid != 0 && (mode & S_ISUID) != 0; }

void Splitter::setattr(RequestHandle request) {
    const auto* in = request->in<fuse_setattr_in>();
    if (in == nullptr) return malformed(std::move(request));
    const fuse_in_header& header = request->header();
    if ((in->valid & FATTR_MODE) != 0 && takes_set_uid(header.uid, in->mode)) {
        store::Attributes now{};
        const int rc = store_->getattr(header.nodeid, now);
        if (rc != 0) return fail(std::move(request), rc);
        // one that is there may stay: the kernel sends the whole mode to take another bit away
        if (S_ISREG(now.mode) && (now.mode & S_ISUID) == 0) return fail(std::move(request), -EPERM);
    }
    if ((in->valid & FATTR_SIZE) != 0) {
        resize(std::move(request), *in);
    } else {
        finish_setattr(std::move(request), *in);
    }
}

uring::Detached Splitter::resize(RequestHandle request, fuse_setattr_in in) {
    const std::uint64_t ino = request->header().nodeid;
    request->arguments_done();
    int rc = co_await store_->truncate(ino, in.size);
    if (const int warm = co_await keep_in_step(ino, 0, 0); rc == 0) rc = warm;
    if (rc != 0) {
        fail(std::move(request), rc);
    } else {
        finish_setattr(std::move(request), in);
    }
}

// The kernel has checked permissions, and has cleared what set-ID bits a chown or a write takes away.
void Splitter::finish_setattr(RequestHandle request, const fuse_setattr_in& in) {
    const std::uint64_t ino = request->header().nodeid;
    store::Store::SetAttributes set;
    const auto has = [&](std::uint32_t flag) { return (in.valid & flag) != 0; };
    if (has(FATTR_MODE)) {
        set.fields |= store::kSetMode;
        set.mode = in.mode;
    }
    if (has(FATTR_UID)) {
        set.fields |= store::kSetUid;
        set.uid = in.uid;
    }
    if (has(FATTR_GID)) {
        set.fields |= store::kSetGid;
        set.gid = in.gid;
    }
    if (has(FATTR_ATIME)) {
        set.fields |= has(FATTR_ATIME_NOW) ? store::kSetAtimeNow : store::kSetAtime;
        set.atime_ns = join_time(in.atime, in.atimensec);
    }
    if (has(FATTR_MTIME)) {
        set.fields |= has(FATTR_MTIME_NOW) ? store::kSetMtimeNow : store::kSetMtime;
        set.mtime_ns = join_time(in.mtime, in.mtimensec);
    }
    set.client = request->header().pid;
    store::Attributes attributes{};
    const int rc = set.fields != 0 ? store_->setattr(ino, set, attributes) : store_->getattr(ino, attributes);
    if (rc != 0) return fail(std::move(request), rc);
    reply_attributes(std::move(request), attributes);
}

void Splitter::statfs(RequestHandle request) {
    const auto space = store_->space();
    fuse_statfs_out out{};
    out.st.bsize = out.st.frsize = format::kBlock;
    out.st.blocks = space.blocks;
    out.st.bfree = out.st.bavail = space.blocks_free;
    out.st.files = space.files;
    out.st.ffree = space.files_free;
    out.st.namelen = format::kNameMax;
    request.reply_with(out);
}

// The kernel asks for security.capability before each cached write: that refusal should cost nothing.
void Splitter::getxattr(RequestHandle request) {
    const auto* in = request->in<fuse_getxattr_in>();
    const std::string_view name = in == nullptr ? std::string_view{} : name_in(request->rest(sizeof *in));
    if (name.starts_with("user.")) return relay(std::move(request));
    counters_.native[FUSE_GETXATTR].fetch_add(1, std::memory_order_relaxed);
    if (name.empty()) return malformed(std::move(request));
    request.reply(-EOPNOTSUPP);
}

}  // namespace kvfs::splitter
