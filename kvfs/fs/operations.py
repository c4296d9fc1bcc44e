"""The file system: every FUSE request, on the native store.

The concurrency protocol
========================

Who owns what
-------------
* Names, attributes, links, reference counts of inodes: native. A metadata call is one native call that is atomic
  by itself. There is no Python object per file; a lookup makes an ``EntryAttributes`` and drops it.
* Open handles: ``_files`` and ``_directories`` here, one small object each, from open to release. Only this
  module touches them, only on trio's thread.
* The page cache, the dentry cache and the inode locks: the kernel. It is the only way in, so what it has cached
  stays right, and its locks are relied upon: it holds the inode's lock during write, truncate and setattr of one
  inode, and the directories' locks during create, link, unlink, rmdir and rename. O_APPEND rests on this: the
  kernel picks the offset under its lock, from a size that nobody else changes. (Taking the current size here
  instead would be wrong: one append of more than a request's maximum comes as several requests, in any order.)
* The reply: pyfuse3. One request is one task of its pool, from receive to reply.

What each await may break
-------------------------
All waiting is for native, inside ``Engine``. While a task waits, any other request may run, to completion:

* read, write: the handle cannot go away, as the kernel sends RELEASE after the last request that names it. The file may
  be unlinked, truncated or (a checksum mismatch) dropped; native keeps what an open handle needs and orders
  overlapping I/O.
* truncate in ``open``: the handle is counted in native before the wait and given back when the wait fails.
* truncate in ``setattr``: other fields are set after it, in one more native call. The kernel's inode lock keeps
  a second setattr out.
* rename: atomic in native at its end. The kernel keeps both directories locked.
* flush, fsync: cover what was written before they were called; a concurrent write may or may not be covered.

Handlers that never wait (``@immediate``) see and leave a consistent world, and need no more thought.

Cancellation: a wait for native cannot be cancelled (see ``kvfs.store.engine``), so no handler ends half done.
A handler never raises anything but ``FUSEError`` (see ``handlers``), forget not even that: an exception would end
the mount.

Deadlock: no handler waits for another request, for a lock or for the kernel. A notification about a name can block
until a request on its directory is answered, so those are sent from pyfuse3's own thread; one about the attributes
of an inode that is open does not block.

When the daemon dies
--------------------
The kernel fails every request, waiting and new, with ENOTCONN until the mountpoint is unmounted. Handles and kernel
references are gone with the connection; nothing here needs recovery. Native recovers the volume: what was fsynced is
there, a file closed or renamed shortly before is there or absent, never torn, and files that were unlinked while
open are gone.
"""

import contextlib
import itertools
import logging
import os
import stat
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING

import msgspec
import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from kvfs import _native
from kvfs._native import Directory
from kvfs.fs.attributes import absent_entry, entry
from kvfs.fs.control import FIRST_VIRTUAL, ControlDirectory, is_control_name, is_virtual, refuse_virtual
from kvfs.fs.datapath import DataPath, OpenFile
from kvfs.fs.handlers import immediate, waiting
from kvfs.store import Engine

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

log = logging.getLogger(__name__)

_DOTS = 2  # positions 1 and 2 of a listing come after "." and ".."; native's follow
_FIRST_BATCH, _LARGEST_BATCH = 32, 512  # directory entries fetched at once; a 4 KiB buffer takes about 25
_USER_XATTR = b"user."


@dataclass(slots=True)
class OpenDirectory:
    """``listing``: native's snapshot, None for the control directory."""

    ino: int
    listing: Directory | None


class FileSystemStatistics(msgspec.Struct, frozen=True):
    """``requests_total`` by handler; ``errors_total``: those that ended in EIO."""

    open_files: int
    open_directories: int
    requests_total: dict[str, int]
    errors_total: dict[str, int]


class FileSystem(pyfuse3.Operations):
    """``read_only``: of the volume; then nothing sets atime."""

    # "." and ".." can be looked up in any directory, so file handles (NFS, open_by_handle_at) work
    supports_dot_lookup = True
    # The kernel would gather small writes, but also own sizes and times, and a close would no longer say ENOSPC.
    enable_writeback_cache = False

    def __init__(self, engine: Engine, data: DataPath, control: ControlDirectory, *, read_only: bool) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._engine = engine
        self._store = engine.store
        self._data = data
        self._control = control
        self._read_only = read_only
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self._next_handle = itertools.count(1).__next__

    def statistics(self) -> FileSystemStatistics:
        return FileSystemStatistics(len(self._files), len(self._directories), dict(self.requests), dict(self.errors))

    # names ----------------------------------------------------------------

    @immediate
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if is_virtual(parent_inode):
            return self._lookup_virtual(parent_inode, name)
        if is_control_name(parent_inode, name):
            return self._control.getattr(FIRST_VIRTUAL)
        if name == b"." or name == b"..":
            return self._lookup_dots(parent_inode, name)
        attr = self._store.lookup(parent_inode, name, ctx.pid)
        return absent_entry() if attr is None else entry(attr)

    def _lookup_dots(self, ino: int, name: bytes) -> EntryAttributes:
        """Asked for by whoever turns a file handle into an inode; ``ino`` need not be a directory for "."."""
        result = entry(self._store.getattr(ino if name == b"." else self._store.parent(ino)))
        self._store.remember(result.st_ino)
        return result

    def _lookup_virtual(self, ino: int, name: bytes) -> EntryAttributes:
        if name == b"..":
            return self._lookup_dots(_native.ROOT_INODE, b".")
        return self._control.getattr(ino) if name == b"." else self._control.lookup(name)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The one handler that has no reply, and so no error: even a FUSEError would end the mount."""
        self.requests["forget"] += 1
        for ino, count in inode_list:
            if is_virtual(ino):
                continue
            try:
                self._store.forget(ino, count)
            except Exception:
                log.exception("forget of %d references to inode %d failed", count, ino)

    @immediate
    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        refuse_virtual(parent_inode, name)
        if _takes_set_uid(ctx, mode) and stat.S_ISREG(mode):
            raise FUSEError(EPERM)
        return entry(self._store.mknod(parent_inode, name, *self._inherit(parent_inode, mode, ctx)))

    @immediate
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        refuse_virtual(parent_inode, name)
        return entry(self._store.mkdir(parent_inode, name, *self._inherit(parent_inode, mode, ctx)))

    @immediate
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        refuse_virtual(parent_inode, name)
        _, uid, gid = self._inherit(parent_inode, stat.S_IFLNK, ctx)
        return entry(self._store.symlink(parent_inode, name, target, uid, gid))

    def _inherit(self, parent: int, mode: int, ctx: RequestContext) -> tuple[int, int, int]:
        """Mode, uid and gid of what ``ctx`` makes in ``parent``: set-group-ID directories pass their group on."""
        _, _, parent_mode, _, _, parent_gid, *_ = self._store.getattr(parent)
        if not parent_mode & stat.S_ISGID:
            return mode, ctx.uid, ctx.gid
        return mode | stat.S_ISGID if stat.S_ISDIR(mode) else mode, ctx.uid, parent_gid

    @immediate
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._store.readlink(inode)

    @immediate
    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        refuse_virtual(inode)
        refuse_virtual(new_parent_inode, new_name)
        return entry(self._store.link(inode, new_parent_inode, new_name))

    @immediate
    def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        refuse_virtual(parent_inode, name)
        self._store.unlink(parent_inode, name)

    @immediate
    def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        refuse_virtual(parent_inode, name)
        self._store.rmdir(parent_inode, name)

    @waiting
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        refuse_virtual(parent_inode_old, name_old)
        refuse_virtual(parent_inode_new, name_new)
        await self._engine.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # attributes -----------------------------------------------------------

    @immediate
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._control.getattr(inode) if is_virtual(inode) else entry(self._store.getattr(inode))

    @waiting
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        # The kernel has checked permissions and, in *attr*, has already cleared set-ID bits that a chown or a
        # write takes away. "Now" arrives as a time, pyfuse3 has read the clock.
        if fields.update_size and self._control.is_writable(inode):
            return self._control.getattr(inode)  # O_TRUNC of a shell's redirection; there is nothing to cut off
        refuse_virtual(inode)
        if fields.update_mode and _takes_set_uid(ctx, attr.st_mode):
            _, _, mode, *_ = self._store.getattr(inode)
            # one that is there may stay: the kernel sends the whole mode to take another bit away
            if stat.S_ISREG(mode) and not mode & stat.S_ISUID:
                raise FUSEError(EPERM)
        if fields.update_size:
            await self._engine.truncate(inode, attr.st_size)
        native_fields = 0
        if fields.update_mode:
            native_fields |= _native.SET_MODE
        if fields.update_uid:
            native_fields |= _native.SET_UID
        if fields.update_gid:
            native_fields |= _native.SET_GID
        if fields.update_atime:
            native_fields |= _native.SET_ATIME
        if fields.update_mtime:
            native_fields |= _native.SET_MTIME
        if not native_fields:
            return entry(self._store.getattr(inode))
        return entry(
            self._store.setattr(
                inode,
                native_fields,
                mode=attr.st_mode,
                uid=attr.st_uid,
                gid=attr.st_gid,
                atime_ns=attr.st_atime_ns,
                mtime_ns=attr.st_mtime_ns,
            )
        )

    @immediate
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        native = self._store.statfs()
        result = StatvfsData()
        result.f_bsize = result.f_frsize = native["block_size"]
        result.f_blocks = native["blocks"]
        result.f_bfree = result.f_bavail = native["blocks_free"]
        result.f_files = native["files"]
        result.f_ffree = result.f_favail = native["files_free"]
        result.f_namemax = native["name_max"]
        return result

    # Other namespaces than user.* get what a file system without them answers. The kernel asks for
    # security.capability before each write, so that refusal is the first thing that getxattr does.

    @immediate
    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if not name.startswith(_USER_XATTR) or is_virtual(inode):
            raise FUSEError(EOPNOTSUPP)
        return self._store.getxattr(inode, name)

    @immediate
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        refuse_virtual(inode)
        if not name.startswith(_USER_XATTR):
            raise FUSEError(EOPNOTSUPP)
        if name == _USER_XATTR:
            raise FUSEError(EINVAL)
        # pyfuse3 has dealt with XATTR_CREATE and XATTR_REPLACE; who may set user.kvfs.* native knows
        self._store.setxattr(inode, name, value, caller=ctx.uid)

    @immediate
    def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return [] if is_virtual(inode) else self._store.listxattr(inode)

    @immediate
    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        refuse_virtual(inode)
        if not name.startswith(_USER_XATTR):
            raise FUSEError(EOPNOTSUPP)
        self._store.removexattr(inode, name, caller=ctx.uid)

    # files ----------------------------------------------------------------

    @waiting
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        refuse_virtual(parent_inode, name)
        if _takes_set_uid(ctx, mode):
            there = self._store.lookup(parent_inode, name)
            if there is None:
                raise FUSEError(EPERM)
            self._store.forget(there[0], 1)  # a name that is there is only opened
        try:
            attr = self._store.create(parent_inode, name, *self._inherit(parent_inode, mode, ctx))
            flags &= ~os.O_TRUNC  # it is empty already
        except FileExistsError:
            # The kernel sends CREATE when it believes the name absent; without O_EXCL it is then to be opened.
            existing = None if flags & os.O_EXCL else self._store.lookup(parent_inode, name, ctx.pid)
            if existing is None:
                raise
            attr = existing
        ino = attr[0]
        try:
            info = await self._open(ino, flags, ctx)
        except BaseException:
            self._store.forget(ino, 1)  # no entry is returned, so the kernel has no reference
            raise
        return info, entry(self._store.getattr(ino) if flags & os.O_TRUNC else attr)

    @waiting
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        return self._control.open(inode, flags) if is_virtual(inode) else await self._open(inode, flags, ctx)

    async def _open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        file = OpenFile.from_flags(ino, flags, self._read_only)
        truncate = bool(flags & os.O_TRUNC)  # with O_RDONLY too, as other file systems do
        self._store.open(ino, file.writable, truncate, ctx.pid)
        try:
            if truncate:
                if ctx.uid != 0:
                    self._clear_set_id(ino)
                await self._engine.truncate(ino, 0)
            if file.touches_atime:
                self._store.touch_atime(ino)
            fh = self._next_handle()
            info = self._data.opened(fh, file)
        except BaseException:
            self._store.release(ino, file.writable)
            raise
        self._files[fh] = file
        return info

    def _clear_set_id(self, ino: int) -> None:
        """For O_TRUNC by who is not privileged: the kernel leaves that to who takes the flag with OPEN."""
        _, _, mode, *_ = self._store.getattr(ino)
        gone = mode & stat.S_ISUID | (mode & stat.S_ISGID if mode & stat.S_IXGRP else 0)
        if gone:
            self._store.setattr(ino, _native.SET_MODE, mode=mode & ~gone)
            pyfuse3.invalidate_inode(ino, attr_only=True)

    @waiting
    def read(self, fh: int, off: int, size: int) -> "Awaitable[Buffer]":  # type: ignore[override]
        # pyfuse3's stub says bytes; it takes any contiguous buffer
        if is_virtual(fh):
            return self._control.read(fh, off, size)
        return self._data.read(self._files[fh], off, size)

    @waiting
    def write(self, fh: int, off: int, buf: bytes) -> Awaitable[int]:
        if is_virtual(fh):
            return self._control.write(fh, buf)
        return self._data.write(self._files[fh], off, buf)

    @waiting
    async def flush(self, fh: int) -> None:
        """Each close() of a descriptor. What was written reaches the device, and an error of that its writer."""
        if is_virtual(fh):
            return
        file = self._files[fh]
        if file.writable:
            await self._engine.flush(file.ino)
        if file.touches_atime:
            # Whoever looks after the close sees the new atime, cached pages or not. When the kernel will not hear of
            # it (the mount is going away), a close must not fail for that.
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(file.ino, attr_only=True)

    @immediate
    def release(self, fh: int) -> None:
        if is_virtual(fh):
            self._control.release(fh)
            return
        file = self._files.pop(fh)
        self._data.closed(fh, file)
        self._store.release(file.ino, file.writable)

    @waiting
    async def fsync(self, fh: int, datasync: bool) -> None:
        if not is_virtual(fh):
            await self._engine.fsync(self._files[fh].ino)

    # directories ----------------------------------------------------------

    @immediate
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        listing = None if is_virtual(inode) else self._store.opendir(inode)
        fh = self._next_handle()
        self._directories[fh] = OpenDirectory(inode, listing)
        return fh

    @immediate
    def releasedir(self, fh: int) -> None:
        del self._directories[fh]

    @waiting
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        directory = self._directories[fh]
        if directory.listing is not None:
            await self._engine.fsync(directory.ino)

    @immediate
    def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """Fill ``token`` with entries after position ``start_id``: "." is at 1, ".." at 2, the others follow."""
        directory = self._directories[fh]
        if start_id == 0 and not self._reply_dots(b".", directory.ino, 1, token):
            return
        if start_id <= 1 and not self._reply_dots(b"..", self._parent(directory.ino), 2, token):
            return
        position = max(start_id - _DOTS, 0)
        if directory.listing is None:
            for index, (name, attributes) in enumerate(self._control.list()[position:], position + _DOTS + 1):
                if not pyfuse3.readdir_reply(token, name, attributes, index):
                    return
        else:
            self._reply_entries(directory.listing, position, token)
            if position == 0 and not self._read_only:
                self._store.touch_atime(directory.ino)

    def _parent(self, ino: int) -> int:
        return _native.ROOT_INODE if is_virtual(ino) else self._store.parent(ino)

    def _reply_dots(self, name: bytes, ino: int, position: int, token: ReaddirToken) -> bool:
        """The kernel takes only number and type of these two, and no reference."""
        dots = EntryAttributes()
        dots.st_ino = ino
        dots.st_mode = stat.S_IFDIR
        return pyfuse3.readdir_reply(token, name, dots, position)

    def _reply_entries(self, listing: Directory, position: int, token: ReaddirToken) -> None:
        store, attributes, batch = self._store, EntryAttributes(), _FIRST_BATCH
        while entries := listing.read(position, batch, remember=True):
            for index, (name, attr, position) in enumerate(entries):
                if not pyfuse3.readdir_reply(token, name, entry(attr, attributes), position + _DOTS):
                    for _, (ino, *_), _ in entries[index:]:
                        store.forget(ino, 1)
                    return
            batch = min(2 * batch, _LARGEST_BATCH)


def _takes_set_uid(ctx: RequestContext, mode: int) -> bool:
    """Would whoever asks make a program that runs with its owner's rights? Only root may; splitter.hpp says why."""
    return ctx.uid != 0 and bool(mode & stat.S_ISUID)
