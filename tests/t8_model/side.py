"""One of the two file systems that are driven side by side: calls by path and by slot, with errors as values.

A slot is a small number that stands for an open file; both sides have the same file open in it, or none.
"""

import errno
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

from support.direct import aligned, direct_read
from support.libc import fallocate, renameat2, utimensat

BLOCK = 4096
XATTR = "user."

Outcome = object


def outcome(call: Callable[[], Outcome]) -> Outcome:
    """What ``call`` returned, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


class Side:
    """``root``: the directory that paths are relative to, and that stays there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.slots: dict[int, int] = {}

    def at(self, path: str) -> str:
        return os.path.join(self.root, path)

    # open files

    def open(self, slot: int, path: str, flags: int) -> None:
        self.slots[slot] = os.open(self.at(path), flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)

    def close(self, slot: int) -> None:
        os.close(self.slots.pop(slot))

    def write(self, slot: int, offset: int, data: bytes, direct: bool) -> int:
        return os.pwrite(self.slots[slot], aligned(data) if direct else data, offset)

    def append(self, slot: int, data: bytes) -> int:
        """write(2): at the descriptor's own position, with O_APPEND at the end."""
        return os.write(self.slots[slot], data)

    def read(self, slot: int, offset: int, size: int, direct: bool) -> bytes:
        if direct:
            return direct_read(self.slots[slot], size, offset)
        return os.pread(self.slots[slot], size, offset)

    def truncate_slot(self, slot: int, size: int) -> None:
        os.ftruncate(self.slots[slot], size)

    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        fallocate(self.slots[slot], mode, offset, length)

    def copy(self, source: int, target: int, offset: int, to: int, length: int) -> int:
        return os.copy_file_range(self.slots[source], self.slots[target], length, offset, to)

    def map_write(self, slot: int, offset: int, data: bytes) -> int:
        """Through a shared mapping of the whole file, as much as lies within it."""
        fd = self.slots[slot]
        size = os.fstat(fd).st_size
        offset, length = min(offset, size), max(0, min(len(data), size - offset))
        if length == 0:
            return 0
        with mmap.mmap(fd, size, mmap.MAP_SHARED) as mapping:
            mapping[offset : offset + length] = data[:length]
            mapping.flush()
        return length

    def map_read(self, slot: int) -> bytes:
        fd = self.slots[slot]
        size = os.fstat(fd).st_size
        if size == 0:
            return b""
        with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
            return mapping[:]

    def ranges(self, slot: int) -> list[tuple[int, int]]:
        """(start, end) of what SEEK_DATA and SEEK_HOLE call data; the descriptor's position stays."""
        fd, found, position = self.slots[slot], [], 0
        own = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            while True:
                start = os.lseek(fd, position, os.SEEK_DATA)
                position = os.lseek(fd, start, os.SEEK_HOLE)
                found.append((start, position))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return found
        finally:
            os.lseek(fd, own, os.SEEK_SET)

    def forget_pages(self, slot: int) -> None:
        os.posix_fadvise(self.slots[slot], 0, 0, os.POSIX_FADV_DONTNEED)

    def fsync(self, slot: int) -> None:
        os.fsync(self.slots[slot])

    def close_all(self) -> None:
        for slot in list(self.slots):
            try:
                self.close(slot)
            except OSError as error:  # of a daemon that was killed
                if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                    raise

    # names

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def rename(self, old: str, new: str, flags: int) -> None:
        renameat2(self.at(old), self.at(new), flags)

    def link(self, old: str, new: str) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.at(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self.at(path))

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self.at(path)))

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.at(path), size)

    # attributes

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def utimes(self, path: str, atime: int, mtime: int) -> None:
        utimensat(self.at(path), atime, mtime)

    def setxattr(self, path: str, key: str, value: bytes, flags: int) -> None:
        os.setxattr(self.at(path), XATTR + key, value, flags)

    def getxattr(self, path: str, key: str) -> bytes:
        return os.getxattr(self.at(path), XATTR + key)

    def removexattr(self, path: str, key: str) -> None:
        os.removexattr(self.at(path), XATTR + key)

    def listxattr(self, path: str) -> list[str]:
        return sorted(name for name in os.listxattr(self.at(path)) if name.startswith(XATTR))

    def stat(self, path: str) -> tuple[int, ...]:
        return attributes(os.lstat(self.at(path)))

    def stat_slot(self, slot: int) -> tuple[int, ...]:
        return attributes(os.fstat(self.slots[slot]))

    def times(self, path: str) -> tuple[int, int, int] | None:
        """mtime, ctime and the inode that has them, for whoever wants to know whether they moved."""
        try:
            found = os.lstat(self.at(path))
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def attributes(found: os.stat_result) -> tuple[int, ...]:
    """What has to be the same on every file system: directories' sizes and links are each one's own affair."""
    counted = () if stat.S_ISDIR(found.st_mode) else (found.st_nlink, found.st_size)
    return found.st_mode, found.st_uid, found.st_gid, *counted
