"""``.kvfs`` in the root of every mount: files that the daemon makes up when they are opened.

The directory is found by name only. It is in no listing, so no walk of the tree meets it, and its name cannot be
created, removed or renamed. Inode numbers and file handles lie in a range at the top of 64 bits that the store
never hands out: a comparison tells them apart.

Every read of a handle sees one snapshot, as of its open. direct_io keeps the snapshots of several handles apart.
The size has to be right nevertheless: read(2) then goes without it, but sendfile(2), and with it Python's shutil,
stops there. So a name is not cached, its LOOKUP renders and shows the size, and the OPEN that follows it takes what
was rendered.

To add a file, add a row to the table that is given to ``ControlDirectory``.
"""

import itertools
import os
import stat
import time
from collections.abc import Awaitable, Sequence
from errno import EACCES, EBADF, ENOENT, EPERM
from typing import Final, Protocol

from pyfuse3 import EntryAttributes, FileInfo, FUSEError

from kvfs._native import FIRST_VIRTUAL_INODE, ROOT_INODE
from kvfs.fs.attributes import NAME_TIMEOUT, absent_entry

CONTROL_NAME: Final = b".kvfs"
FIRST_VIRTUAL: Final = FIRST_VIRTUAL_INODE  # inode numbers and file handles from here on are virtual


class VirtualHandle(Protocol):
    """One open of a virtual file."""

    async def read(self, offset: int, size: int) -> bytes: ...

    async def write(self, data: bytes) -> int:
        """One write(2) of at most a request's size, wherever it says it goes. OSError, FUSEError."""


class VirtualFile(Protocol):
    """A row of the table."""

    name: bytes
    mode: int  # permission bits

    def refresh(self) -> None:
        """The name is looked up: an open may follow, and should see the file as it is now."""

    def size(self) -> int:
        """Of what the next, or else the last, open gives to read."""

    def open(self, flags: int) -> VirtualHandle:
        """``flags`` of open(2). Raises OSError."""


class Snapshot:
    """Content that was complete at open."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    async def write(self, data: bytes) -> int:
        raise FUSEError(EBADF)  # the kernel asks nobody to write what was opened for reading


class ControlDirectory:
    """The virtual half of the tree. The callers have checked ``is_virtual``."""

    def __init__(self, files: Sequence[VirtualFile]) -> None:
        self._inodes: dict[int, VirtualFile] = dict(enumerate(files, FIRST_VIRTUAL + 1))
        self._names = {file.name: ino for ino, file in self._inodes.items()}
        self._handles: dict[int, VirtualHandle] = {}
        self._next_handle = itertools.count(FIRST_VIRTUAL).__next__
        self._born_ns = time.time_ns()
        self._owner = os.getuid(), os.getgid()

    def lookup(self, name: bytes) -> EntryAttributes:
        """An entry of the directory; ``.kvfs`` itself is ``getattr(FIRST_VIRTUAL)``."""
        ino = self._names.get(name)
        if ino is None:
            return absent_entry()
        self._inodes[ino].refresh()
        return self.getattr(ino)

    def getattr(self, ino: int) -> EntryAttributes:
        result = EntryAttributes()
        result.st_ino = ino
        if ino == FIRST_VIRTUAL:
            result.st_mode = stat.S_IFDIR | 0o555
            result.st_nlink = 2
            result.entry_timeout = result.attr_timeout = NAME_TIMEOUT
        elif ino in self._inodes:
            file = self._inodes[ino]
            result.st_mode = stat.S_IFREG | file.mode
            result.st_size = file.size()
            result.entry_timeout = result.attr_timeout = 0
        else:
            raise FUSEError(ENOENT)
        result.st_uid, result.st_gid = self._owner
        result.st_atime_ns = result.st_mtime_ns = result.st_ctime_ns = self._born_ns
        return result

    def list(self) -> list[tuple[bytes, EntryAttributes]]:
        return [(name, self.lookup(name)) for name in self._names]

    def open(self, ino: int, flags: int) -> FileInfo:
        file = self._inodes[ino]
        if flags & os.O_ACCMODE != os.O_RDONLY and not file.mode & 0o222:
            raise FUSEError(EACCES)  # the kernel's permission check lets root through
        handle = file.open(flags)
        fh = self._next_handle()
        self._handles[fh] = handle
        return FileInfo(fh=fh, direct_io=True, keep_cache=False)

    def read(self, fh: int, offset: int, size: int) -> Awaitable[bytes]:
        return self._handles[fh].read(offset, size)

    def write(self, fh: int, data: bytes) -> Awaitable[int]:
        return self._handles[fh].write(data)

    def is_writable(self, ino: int) -> bool:
        return ino in self._inodes and self._inodes[ino].mode & 0o222 != 0

    def release(self, fh: int) -> None:
        del self._handles[fh]


def is_virtual(number: int) -> bool:
    """Of an inode number or a file handle."""
    return number >= FIRST_VIRTUAL


def is_control_name(parent: int, name: bytes) -> bool:
    """Is this the name of the control directory itself?"""
    return name == CONTROL_NAME and parent == ROOT_INODE


def refuse_virtual(parent: int, name: bytes = b"") -> None:
    """EPERM for whoever would change the control directory, its name, or (``parent`` an inode) one of its files."""
    if parent >= FIRST_VIRTUAL or is_control_name(parent, name):
        raise FUSEError(EPERM)
