"""Four ways in which engines keep KV pages as files (DESIGN 6), each with the calls that its client makes.

A page's bytes follow from its number, so that whoever finds a page can say what it has to hold. A page that is not
there is a miss, which is ordinary; anything else that is wrong raises.
"""

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BLOCK = 4096
MIB = 1 << 20
_ODD = 0x9E3779B97F4A7C15


def page_bytes(number: int, size: int) -> bytes:
    """``size`` bytes that differ from those of every other number, everywhere."""
    words = np.arange(-(-size // 8), dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    words += np.uint64((number + 1) * _ODD & (1 << 64) - 1)
    return words.tobytes()[:size]


def check_page(found: bytes | memoryview, number: int, what: object) -> None:
    assert found == page_bytes(number, len(found)), f"{what}: not the bytes of page {number}"


class Style:
    """One client, with a directory of its own. ``size`` of every page, in bytes."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        directory.mkdir(exist_ok=True)

    def path(self, number: int) -> Path:
        return self.directory / f"{number:016x}.kv"

    def store(self, number: int) -> None:
        raise NotImplementedError

    def load(self, number: int) -> bytes:
        """FileNotFoundError: a miss."""
        raise NotImplementedError

    def verify(self, number: int) -> bool:
        """Whether the page is there; it is whole and right then."""
        try:
            found = self.load(number)
        except FileNotFoundError:
            return False
        assert len(found) == self.size, f"{self.path(number)}: expected {self.size} bytes, found {len(found)}"
        check_page(found, number, self.path(number))
        return True

    def _temporary(self, number: int) -> Path:
        return self.directory / f"{number:016x}.kv.tmp.{threading.get_ident()}"


def _aligned(content: bytes) -> mmap.mmap:
    buffer = mmap.mmap(-1, len(content))
    buffer[:] = content
    return buffer


class VllmTier(Style):
    """vLLM's FS tier: O_DIRECT, exclusive temporary, one write, rename; O_DIRECT, one read."""

    def store(self, number: int) -> None:
        temporary = self._temporary(number)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_DIRECT, 0o644)
        try:
            with _aligned(page_bytes(number, self.size)) as buffer:
                assert os.write(fd, buffer) == self.size
        finally:
            os.close(fd)
        temporary.rename(self.path(number))

    def load(self, number: int) -> bytes:
        fd = os.open(self.path(number), os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, self.size) as buffer:
                count = os.readv(fd, [buffer])
                return buffer[:count]
        finally:
            os.close(fd)


class LmcacheDisk(Style):
    """LMCache's local disk: the final name at once, one write, no rename. Half a page under it is no news to it."""

    def store(self, number: int) -> None:
        with open(self.path(number), "wb") as file:
            file.write(page_bytes(number, self.size))

    def load(self, number: int) -> bytes:
        buffer = bytearray(self.size)
        with open(self.path(number), "rb") as file:
            count = file.readinto(buffer)
        return bytes(buffer[:count])


class SglangFile(Style):
    """SGLang's HiCacheFile: numpy's tofile to a temporary, os.replace; asks for free space before."""

    def store(self, number: int) -> None:
        os.statvfs(self.directory)
        temporary = self._temporary(number)
        np.frombuffer(page_bytes(number, self.size), dtype=np.uint8).tofile(temporary)
        temporary.replace(self.path(number))

    def load(self, number: int) -> bytes:
        return np.fromfile(self.path(number), dtype=np.uint8).tobytes()


class LlmdFs(Style):
    """llm-d's fs backend: a stream in pieces of 1 MiB, rename; from the end backwards; atime says what was used."""

    def store(self, number: int) -> None:
        content = page_bytes(number, self.size)
        temporary = self._temporary(number)
        with open(temporary, "wb", buffering=MIB) as file:
            for at in range(0, self.size, MIB):
                file.write(content[at : at + MIB])
        temporary.rename(self.path(number))

    def load(self, number: int) -> bytes:
        with open(self.path(number), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            half = size // 2
            file.seek(half)
            tail = file.read()
            file.seek(0)
            found = file.read(half) + tail
        path = self.path(number)
        with contextlib.suppress(FileNotFoundError):  # evicted since it was closed
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return found


STYLES: tuple[Callable[[Path, int], Style], ...] = (VllmTier, LmcacheDisk, SglangFile, LlmdFs)
