"""The kernel's page cache of one file: how much of it is there, bringing it in, dropping it.

It is what keeps files warm where no warm tier does.
"""

import ctypes
import errno
import os
from collections.abc import Callable

_CACHESTAT = 451  # the same on every architecture
_CHUNK = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cached_bytes(fd: int, size: int) -> int | None:
    """Of the first ``size`` bytes, rounded to pages; ``None`` where the kernel does not tell.

    It tells from 6.5 on (cachestat(2)), newer ones only who may write the file or owns it.
    """
    asked, counts = _Range(0, 0), _Counts()
    if _libc.syscall(_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(counts), 0) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            return None
        raise OSError(code, os.strerror(code))
    return min(size, int(counts.cached) * os.sysconf("SC_PAGESIZE"))


def fill(fd: int, size: int, progress: Callable[[int], None]) -> None:
    """Read the file through the cache; ``progress(bytes)`` after each piece. OSError EIO: it cannot be read."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    buffer = bytearray(min(size, _CHUNK))
    offset = 0
    while offset < size:
        count = os.preadv(fd, [buffer], offset)
        if count == 0:
            break  # it became shorter
        progress(count)
        offset += count


def drop(fd: int) -> None:
    """What is dirty or mapped stays."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
