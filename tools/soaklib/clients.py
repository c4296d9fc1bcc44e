"""What engines do to a file system, each style as it was traced: see DESIGN 6.

A client works in a directory of its own and knows what it has written. ``step()`` writes a page or reads one back and
verifies all of it. A page that is gone is a miss, as a cache's client takes it; wrong, short or no bytes are errors. A
write that meets ENOSPC is counted as refused, and answered as engines do: by removing pages of one's own.
"""

import errno
import fcntl
import mmap
import os
import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from ctypes import CDLL, c_int, c_int64, get_errno
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from soaklib.content import SoakError, verify, words

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

BLOCK = 4096
_TOKEN = 57_344  # B per token of a 7B model: pages that end within a block
SIZES = (BLOCK, _TOKEN, 16 * _TOKEN, 256 << 10, 1 << 20, 2 << 20, 4 << 20)


@dataclass
class Counts:
    """``misses``: pages that were evicted; ``removed``: deleted to stay below the limit; ``refused``: ENOSPC."""

    writes: int = 0
    reads: int = 0
    bytes_written: int = 0
    bytes_verified: int = 0
    misses: int = 0
    removed: int = 0
    refused: int = 0


class Client(ABC):
    """``most_full``: the share of the store's blocks that may be in use before this client deletes pages of its own."""

    style = ""

    def __init__(self, directory: Path, most_full: float, seed: int) -> None:
        self.directory = directory
        self.most_full = most_full
        self.counts = Counts()
        self.draw = random.Random(f"{self.style} {seed}")
        self.filled = False  # the store has been as full as it is to be: from then on there is reading, too
        directory.mkdir(exist_ok=True)

    def step(self) -> None:
        try:
            self.work()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.counts.refused += 1
            self.filled = True
            self.refused()

    @abstractmethod
    def work(self) -> None: ...

    @abstractmethod
    def refused(self) -> None:
        """The store had no room for what the last step wrote."""

    def close(self) -> None:  # noqa: B027 - most have nothing open between steps
        """Let go of what is open."""

    def used(self) -> float:
        status = os.statvfs(self.directory)
        return 1 - status.f_bfree / status.f_blocks

    def verified(self, found: object, name: str, version: int, offset: int, size: int) -> None:
        verify(found, name, version, offset, size)
        self.counts.reads += 1
        self.counts.bytes_verified += size


class Pages(Client):
    """Pages that are written once, read many times, and deleted, oldest first, when the store is too full."""

    def __init__(self, directory: Path, most_full: float, seed: int) -> None:
        super().__init__(directory, most_full, seed)
        self.pages: OrderedDict[str, int] = OrderedDict()  # name: size
        self.next = 0

    def work(self) -> None:
        if self.used() >= self.most_full:
            self.filled = True
            self.refused()
        if self.filled and self.pages and self.draw.random() < 0.6:
            self.look()
        else:
            self.add()

    def refused(self) -> None:
        for _ in range(min(2, len(self.pages))):
            self.remove()

    def add(self) -> None:
        name, size = f"{self.style}-{self.next:08x}", self.draw.choice(SIZES)
        self.next += 1
        try:
            self.write(self.directory / name, name, size)
        except OSError:
            for path in self.directory.glob(f"{name}*"):
                path.unlink()
            raise
        found = os.stat(self.directory / name).st_size
        if found != size:
            raise SoakError(f"{name}: expected a size of {size} right after it was written, found {found}")
        self.pages[name] = size
        self.counts.writes += 1
        self.counts.bytes_written += size

    def look(self) -> None:
        name = self.draw.choice(list(self.pages)[-200:])
        try:
            self.read(self.directory / name, name, self.pages[name])
        except FileNotFoundError:
            del self.pages[name]
            self.counts.misses += 1

    def remove(self) -> None:
        name, _ = self.pages.popitem(last=False)
        try:
            os.unlink(self.directory / name)
            self.counts.removed += 1
        except FileNotFoundError:
            self.counts.misses += 1

    @abstractmethod
    def write(self, path: Path, name: str, size: int) -> None: ...

    @abstractmethod
    def read(self, path: Path, name: str, size: int) -> None: ...


class VllmTier(Pages):
    """A temporary file, one O_DIRECT write, rename; one O_DIRECT read."""

    style = "vllm"

    def write(self, path: Path, name: str, size: int) -> None:
        memory = mmap.mmap(-1, size)
        np.frombuffer(memory, dtype=np.uint64)[:] = words(name, 0, 0, size)
        temporary = path.with_name(f"{name}.tmp")
        flags = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_WRONLY | os.O_DIRECT
        fd = os.open(temporary, flags, 0o644)
        try:
            _write_all(fd, memory, 0)
        finally:
            os.close(fd)
        os.rename(temporary, path)

    def read(self, path: Path, name: str, size: int) -> None:
        if not os.access(path, os.F_OK):
            raise FileNotFoundError(path)
        memory = mmap.mmap(-1, size)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            got = os.preadv(fd, [memory], 0)
        finally:
            os.close(fd)
        self.verified(memoryview(memory)[:got], name, 0, 0, size)


class LlmD(Pages):
    """A stream in pieces of 1 MiB, tmp and rename; reads the tail after seeking to the end, and touches atime."""

    style = "llm-d"

    def write(self, path: Path, name: str, size: int) -> None:
        temporary = path.with_name(f"{name}.tmp")
        with temporary.open("wb", buffering=1 << 20) as file:
            file.write(words(name, 0, 0, size).tobytes())
        os.rename(temporary, path)

    def read(self, path: Path, name: str, size: int) -> None:
        with path.open("rb", buffering=0) as file:
            if (end := file.seek(0, os.SEEK_END)) != size:
                raise SoakError(f"{name}: expected its end at {size}, found it at {end}")
            start = self.draw.randrange(size // 8) * 8
            file.seek(start)
            found = bytearray(size - start)
            view, got = memoryview(found), 0
            while got < len(found) and (n := file.readinto(view[got:])):
                got += n
        self.verified(view[:got], name, 0, start, size - start)
        try:
            os.utime(path)
        except FileNotFoundError:  # evicted since
            self.counts.misses += 1


class LmCacheDisk(Pages):
    """One buffered write to the final name, no rename; one readinto."""

    style = "lmcache"

    def write(self, path: Path, name: str, size: int) -> None:
        with path.open("wb", buffering=0) as file:
            _write_all(file.fileno(), words(name, 0, 0, size).tobytes(), 0)

    def read(self, path: Path, name: str, size: int) -> None:
        found = bytearray(size)
        with path.open("rb", buffering=0) as file:
            got = file.readinto(found) or 0
        self.verified(memoryview(found)[:got], name, 0, 0, size)


class LmCacheGds(Pages):
    """ftruncate and a shared mapping to write, a private populated one to read."""

    style = "gds"

    def write(self, path: Path, name: str, size: int) -> None:
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            os.ftruncate(fd, size)
            with mmap.mmap(fd, size, mmap.MAP_SHARED) as mapping:
                mapping[:] = words(name, 0, 0, size).tobytes()
                mapping.flush()
        finally:
            os.close(fd)

    def read(self, path: Path, name: str, size: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            with mmap.mmap(fd, size, mmap.MAP_PRIVATE | mmap.MAP_POPULATE, mmap.PROT_READ) as mapping:
                self.verified(bytes(mapping), name, 0, 0, size)
        finally:
            os.close(fd)


class Pool(Client):
    """One sparse file whose slots are written in place, by pwrite, again and again: hf3fs, FlexKV."""

    style = "pool"
    SLOT = 256 << 10
    SLOTS = 96

    def __init__(self, directory: Path, most_full: float, seed: int) -> None:
        super().__init__(directory, most_full, seed)
        self.versions = [0] * self.SLOTS  # 0: not written, or not known
        self.written = 0
        self.last = 0
        self.fd = os.open(directory / "pool", os.O_CREAT | os.O_RDWR, 0o644)
        os.ftruncate(self.fd, 1 << 40)

    def refused(self) -> None:
        """Others make room; what the slot holds is not known."""
        self.versions[self.last] = 0

    def work(self) -> None:
        self.last = slot = self.draw.randrange(self.SLOTS)
        offset = slot * self.SLOT * 64  # far apart: sparse
        if self.versions[slot] and self.draw.random() < 0.6:
            found = os.pread(self.fd, self.SLOT, offset)
            self.verified(found, "pool", self.versions[slot], offset, self.SLOT)
            return
        self.written += 1
        _write_all(self.fd, words("pool", self.written, offset, self.SLOT).tobytes(), offset)
        self.versions[slot] = self.written
        self.counts.writes += 1
        self.counts.bytes_written += self.SLOT
        if self.counts.writes % 64 == 0:
            os.fsync(self.fd)

    def close(self) -> None:
        os.close(self.fd)


class Scratch(Client):
    """A temporary file with O_DIRECT set after its open, fallocate, written and read while it has no name: Dynamo."""

    style = "scratch"
    SIZE = 2 << 20

    def refused(self) -> None:
        """Its file is gone with its descriptor."""

    def work(self) -> None:
        path = self.directory / f"tmp{self.counts.writes:08x}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
            os.unlink(path)
            _fallocate(fd, self.SIZE)
            memory = mmap.mmap(-1, self.SIZE)
            np.frombuffer(memory, dtype=np.uint64)[:] = words(path.name, 0, 0, self.SIZE)
            _write_all(fd, memory, 0)
            self.counts.writes += 1
            self.counts.bytes_written += self.SIZE
            found = mmap.mmap(-1, self.SIZE)
            got = os.preadv(fd, [found], 0)
            self.verified(memoryview(found)[:got], path.name, 0, 0, self.SIZE)
        finally:
            os.close(fd)


STYLES: tuple[type[Client], ...] = (VllmTier, LlmD, LmCacheDisk, LmCacheGds, Pool, Scratch)

_libc = CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (c_int, c_int, c_int64, c_int64)


def _fallocate(fd: int, length: int) -> None:
    if _libc.fallocate(fd, 0, 0, length) != 0 and (code := get_errno()) != errno.EOPNOTSUPP:
        raise OSError(code, os.strerror(code))


def _write_all(fd: int, data: "Buffer", offset: int) -> None:
    """One write(2), as engines do. One that is short has met ENOSPC, which the next then says."""
    view = memoryview(data)
    done = os.pwrite(fd, view, offset)
    if done < len(view):
        more = os.pwrite(fd, view[done:], offset + done)
        raise SoakError(f"expected a write of {len(view)} bytes at {offset}, {done} were taken, and {more} of the rest")
