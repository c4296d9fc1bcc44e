"""The data path: whatever answers READ and WRITE of open files.

One interface, because it is the part that gets replaced: here the requests come through pyfuse3 and the bytes
through Python's hands (tier 0). A native request loop that answers READ and WRITE before pyfuse3 sees them
needs only ``opened`` and ``closed``, to keep its own table of handles, and the FileInfo to steer the kernel.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pyfuse3 import FileInfo

from kvfs.store import Engine

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on


@dataclass(slots=True)
class OpenFile:
    """One open file description of a client."""

    ino: int
    readable: bool
    writable: bool  # counted so by Store.open; release has to say the same
    touches_atime: bool

    @classmethod
    def from_flags(cls, ino: int, flags: int, read_only: bool) -> "OpenFile":
        """``flags``: of open(2). ``read_only``: of the volume."""
        access = flags & os.O_ACCMODE
        readable = access != os.O_WRONLY
        return cls(ino, readable, access != os.O_RDONLY, readable and not flags & os.O_NOATIME and not read_only)


class DataPath(Protocol):
    """``fh`` is the kernel's number for the handle, unique while it is open."""

    def opened(self, fh: int, file: OpenFile) -> FileInfo:
        """A handle begins; the result carries ``fh`` and tells the kernel how to cache."""

    def closed(self, fh: int, file: OpenFile) -> None:
        """No further request will name ``fh``."""

    def read(self, file: OpenFile, offset: int, size: int) -> "Awaitable[Buffer]":
        """``size`` bytes at ``offset``, fewer only at end of file. OSError EIO: not what was once written."""

    def write(self, file: OpenFile, offset: int, data: bytes) -> Awaitable[int]:
        """All of ``data``; its length. OSError ENOSPC, EFBIG, EIO."""


# From Linux 6.6 on a direct_io write drops the cached pages that it overwrites; before, a mapping would keep them.
_DIRECT_WRITES_INVALIDATE = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 6)


class EngineDataPath:
    """Tier 0: requests from pyfuse3, bytes from the native engine.

    Reads cost one copy, from the native buffer into the kernel: pyfuse3 takes any contiguous buffer. Writes
    arrive as ``bytes``, copied once out of libfuse's pipe.
    """

    def __init__(self, engine: Engine) -> None:
        self._read = engine.read
        self._write = engine.write
        self._touch_atime = engine.store.touch_atime
        self._getattr = engine.store.getattr
        self._map_writers: Counter[int] = Counter()  # by inode: handles that may write by a shared mapping

    def opened(self, fh: int, file: OpenFile) -> FileInfo:
        """How the kernel caches.

        The page cache stays valid from open to open, as data changes through this kernel only.

        direct_io makes the kernel refuse shared mappings, so only what cannot be mapped gets it: a handle that
        cannot read. There it keeps written pages out of the page cache, saves a copy (measured: the client's CPU time
        per byte falls to a third or less), and saves the GETXATTR for security.capability that comes before each
        cached write. It also narrows a hole: while a cached write extends a file, the kernel shows the size it
        gets from here but cuts reads off at the old one. What direct_io leaves undone is to take set-ID bits away at
        a write, hence the exception. Another: while somebody can write by a shared mapping, a direct write would
        go past a page that the mapping has just faulted in, and that page, written back later, would put old bytes
        over it.
        """
        if file.readable and file.writable:
            self._map_writers[file.ino] += 1
        direct = _DIRECT_WRITES_INVALIDATE and not file.readable and not self._has_set_id(file.ino)
        direct = direct and file.ino not in self._map_writers
        return FileInfo(fh=fh, direct_io=direct, keep_cache=True)

    def _has_set_id(self, ino: int) -> bool:
        return self._getattr(ino)[2] & (stat.S_ISUID | stat.S_ISGID) != 0

    def closed(self, fh: int, file: OpenFile) -> None:
        if file.readable and file.writable:
            self._map_writers[file.ino] -= 1
            if not self._map_writers[file.ino]:
                del self._map_writers[file.ino]

    def read(self, file: OpenFile, offset: int, size: int) -> "Awaitable[Buffer]":
        if file.touches_atime:
            self._touch_atime(file.ino)
        return self._read(file.ino, offset, size)

    def write(self, file: OpenFile, offset: int, data: bytes) -> Awaitable[int]:
        return self._write(file.ino, offset, data)
