"""What one client does, as the engines do it: whole pages published under a temporary name, read back by request.

A workload is built in the parent, forked, then ``prepare()`` runs untimed and ``run()`` timed. ``run`` appends the
latency of each request, in ns, to ``samples``. What it does between requests (an open, a stamp, a check of two words)
counts in the throughput and not in the latency.
"""

import errno
import hashlib
import mmap
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchlib import pattern
from benchlib.pattern import WrongBytes


@dataclass(frozen=True)
class FileSet:
    """``count`` files of ``size`` bytes (a multiple of 4 KiB) with ids from ``first_id`` on.

    Names are 64 hexadecimal digits, as engines that name pages by their block hash have them.
    """

    first_id: int
    count: int
    size: int

    @property
    def bytes(self) -> int:
        return self.count * self.size

    @property
    def ids(self) -> range:
        return range(self.first_id, self.first_id + self.count)

    def paths_in(self, directory: Path) -> list[str]:
        return [str(directory / name_of(file_id)) for file_id in self.ids]


class Share:
    """The numbers below ``count``, each handed to one of the clients that were forked with it.

    Clients take the next file when they are done with one, as a pool of threads does: with fixed shares the run
    would end with one client alone.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = multiprocessing.Value("q", 0)

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._next.get_lock():
                taken = self._next.value
                self._next.value = taken + 1
            if taken >= self._count:
                return
            yield taken


def name_of(file_id: int) -> str:
    return hashlib.sha256(b"%d" % file_id).hexdigest()


class Workload(Protocol):
    def prepare(self) -> None: ...

    def run(self, samples: list[int]) -> int:
        """Do it all; bytes transferred, or operations where there are none."""


@dataclass
class ReadFiles:
    """Open each file, read it front to back by requests of ``request`` bytes, close it.

    ``share`` may count beyond the files: it then starts over with the first.
    """

    directory: Path
    files: FileSet
    share: Share
    request: int
    direct: bool
    check_all: bool = False

    def prepare(self) -> None:
        self._memory = mmap.mmap(-1, self.request)
        self._memory.write(bytes(self.request))  # have the pages before the clock starts
        self._paths = self.files.paths_in(self.directory)

    def run(self, samples: list[int]) -> int:
        blocks = pattern.as_blocks(self._memory)
        views = [memoryview(self._memory)]
        flags = os.O_RDONLY | (os.O_DIRECT if self.direct else 0)
        check = pattern.check_all if self.check_all else pattern.check_ends
        now = time.perf_counter_ns
        size, total = self.files.size, 0
        for number in self.share:
            file_id, path = self.files.ids[number % self.files.count], self._paths[number % self.files.count]
            fd = os.open(path, flags)
            for offset in range(0, size, self.request):
                begin = now()
                got = os.preadv(fd, views, offset)
                samples.append(now() - begin)
                if got != min(self.request, size - offset):
                    raise WrongBytes(f"{path}: expected {self.request} bytes at {offset}, the read was short: {got}")
                check(blocks[: got // pattern.BLOCK], file_id, offset // pattern.BLOCK)
            os.close(fd)
            total += size
        return total


@dataclass
class PublishFiles:
    """Create each file under a temporary name, one write of all of it, close, rename; a request is all four.

    ``durable``: an fsync of the directory ends the run. On kvfs and ext4 that makes names durable, and the
    data behind them, which O_DIRECT brought to the device or is on its way there.
    """

    directory: Path
    files: FileSet
    share: Share
    direct: bool
    durable: bool

    def prepare(self) -> None:
        self._memory = mmap.mmap(-1, self.files.size)
        self._blocks = pattern.as_blocks(self._memory)
        pattern.fill(self._blocks)
        self._paths = self.files.paths_in(self.directory)

    def run(self, samples: list[int]) -> int:
        view = memoryview(self._memory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_DIRECT if self.direct else 0)
        now = time.perf_counter_ns
        size, total = self.files.size, 0
        for number in self.share:
            path = self._paths[number]
            pattern.mark(self._blocks, self.files.ids[number])
            temporary = path + ".tmp"
            begin = now()
            fd = os.open(temporary, flags, 0o644)
            put = os.write(fd, view)
            os.close(fd)
            os.rename(temporary, path)  # noqa: PTH104 - the call itself is what is timed
            samples.append(now() - begin)
            if put != size:
                raise WrongBytes(f"{path}: expected one write of {size} bytes, it took {put}")
            total += size
        if self.durable:
            sync_directory(self.directory)
        return total


@dataclass
class TouchPages:
    """Map each file, read and compare the stamp in every 4 KiB of it, unmap it; a request is one whole file.

    ``share`` may count beyond the files: it then starts over with the first.
    """

    directory: Path
    files: FileSet
    share: Share

    def prepare(self) -> None:
        self._paths = self.files.paths_in(self.directory)

    def run(self, samples: list[int]) -> int:
        now = time.perf_counter_ns
        size, total = self.files.size, 0
        for number in self.share:
            file_id, path = self.files.ids[number % self.files.count], self._paths[number % self.files.count]
            begin = now()
            fd = os.open(path, os.O_RDONLY)
            memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
            os.close(fd)
            pattern.check_stamps(pattern.as_blocks(memory), file_id, 0)
            memory.close()
            samples.append(now() - begin)
            total += size
        return total


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def supports_direct(directory: Path) -> bool:
    """Whether O_DIRECT opens work there (tmpfs: from kernel 6.6 on)."""
    probe = directory / "o-direct-probe"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
