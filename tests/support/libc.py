"""Calls that ``os`` does not offer: renameat2, directory streams, utimensat with OMIT and NOW, fallocate.

Names and constants as in ``<linux/fs.h>``, ``<dirent.h>`` and ``<fcntl.h>``. Each raises ``OSError`` with
the errno that the call left.
"""

import ctypes
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16

DT_FIFO = 1
DT_DIR = 4
DT_REG = 8
DT_LNK = 10
DT_SOCK = 12

StrPath = str | bytes | os.PathLike[str]


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("inode", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("record_length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.readdir.argtypes = (ctypes.c_void_p,)
_libc.telldir.restype = ctypes.c_long
_libc.telldir.argtypes = (ctypes.c_void_p,)
_libc.seekdir.restype = None
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
_libc.rewinddir.restype = None
_libc.rewinddir.argtypes = (ctypes.c_void_p,)
_libc.closedir.argtypes = (ctypes.c_void_p,)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _raise(path: StrPath | None = None) -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), None if path is None else os.fspath(path))


def renameat2(old: StrPath, new: StrPath, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        _raise(old)


def utimensat(path: StrPath, atime_ns: int, mtime_ns: int) -> None:
    """Times in ns since the epoch; ``UTIME_NOW`` or ``UTIME_OMIT`` in place of either."""

    def timespec(value: int) -> _Timespec:
        if value in (UTIME_NOW, UTIME_OMIT):
            return _Timespec(0, value)
        return _Timespec(*divmod(value, 1_000_000_000))

    times = (_Timespec * 2)(timespec(atime_ns), timespec(mtime_ns))
    if _libc.utimensat(AT_FDCWD, os.fsencode(path), times, 0) != 0:
        _raise(path)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, offset, length) != 0:
        _raise()


class DirectoryStream:
    """``DIR *``: entries as (name, d_type), with the positions that seekdir takes."""

    def __init__(self, path: StrPath) -> None:
        self._stream: int | None = _libc.opendir(os.fsencode(path))
        if not self._stream:
            _raise(path)

    def read(self) -> tuple[bytes, int] | None:
        """The next entry, "." and ".." included; ``None`` at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir(self._stream)
        if entry:
            return entry.contents.name, entry.contents.type
        if ctypes.get_errno():
            _raise()
        return None

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        while (entry := self.read()) is not None:
            yield entry

    def tell(self) -> int:
        position: int = _libc.telldir(self._stream)
        return position

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        if self._stream:
            _libc.closedir(self._stream)
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
