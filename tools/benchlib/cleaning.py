"""A store that is nearly full and written to for ever: what cleaning costs the device, and how long writers wait.

A pool file takes a share of what statfs calls the file system's capacity; clients overwrite whole pages of it at
random, by O_DIRECT requests of up to 1 MiB. First the pool is overwritten once, untimed, so that what is measured is
the steady state. Write amplification is what the daemon sent to the device by what clients wrote meanwhile.
"""

import json
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchlib import pattern, system
from benchlib.bench import MIB, Bench
from benchlib.figures import Measurement
from benchlib.scale import ScaleFigure
from benchlib.system import BenchError
from benchlib.targets import Kvfs
from benchlib.workers import run_together
from kvfs.units import format_size

STALL_GOAL = 50.0  # ms at p99.9
_FILLS = (0.60, 0.90)  # of the capacity
_PAGES = (64 * 1024, 2 * MIB)
_CHECKED = 500  # pages read back after a run


@dataclass
class OverwritePages:
    """Overwrite random pages of those whose number leaves ``client`` when divided by ``clients``.

    At least ``count`` pages are written, and for at least ``seconds``. A request is one write of up to 1 MiB.
    """

    path: Path
    page: int  # bytes
    pages: int  # in the file
    client: int
    clients: int
    count: int
    seconds: float

    def prepare(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT)
        self._memory = mmap.mmap(-1, self.page)
        self._blocks = pattern.as_blocks(self._memory)
        pattern.fill(self._blocks)

    def run(self, samples: list[int]) -> int:
        draw, now = random.Random(self.client), time.perf_counter_ns
        own = range(self.client, self.pages, self.clients)
        view = memoryview(self._memory)
        end, done = time.monotonic() + self.seconds, 0
        while done < self.count or time.monotonic() < end:
            number = own[draw.randrange(len(own))]
            pattern.mark(self._blocks, number)
            for at in range(0, self.page, MIB):
                part = view[at : at + MIB]
                begin = now()
                put = os.pwrite(self._fd, part, number * self.page + at)
                samples.append(now() - begin)
                if put != len(part):
                    raise BenchError(f"{self.path}: expected one write of {len(part)} bytes, it took {put}")
            done += 1
        os.close(self._fd)
        return done * self.page


def cleaning_steps() -> int:
    return 3 * len(_FILLS) * len(_PAGES)


def run_cleaning(bench: Bench, step: Callable[[str], None]) -> list[ScaleFigure]:
    """``step(what)`` is called before each piece of work, :func:`cleaning_steps` times in all."""
    size, free = bench.options.store_size, system.free_bytes(bench.work)
    if free < size:
        raise BenchError(f"{bench.work}: expected {format_size(size)} free, found {format_size(free)}")
    figures: list[ScaleFigure] = []
    for fill in _FILLS:
        for page in _PAGES:
            figures += _pool(bench, fill, page, step)
    return figures


def _pool(bench: Bench, fill: float, page: int, step: Callable[[str], None]) -> Iterator[ScaleFigure]:
    name = f"pool-{round(fill * 100)}-{format_size(page).replace(' ', '').lower()}"
    title = f"pool at {fill:.0%} of the store, pages of {format_size(page)}"
    kvfs = Kvfs(name, bench.options.kvfs_command, bench.work, bench.options.store_size)
    try:
        kvfs.mount()
        path, clients = kvfs.root / "pool", bench.options.threads
        space = os.statvfs(kvfs.root)
        pages = int(space.f_bavail * space.f_frsize * fill) // page // clients * clients
        step(f"{name}: fill")
        _write_all(path, page, pages)

        def overwrite(count: int, seconds: float) -> Measurement:
            return run_together(
                [OverwritePages(path, page, pages, number, clients, count, seconds) for number in range(clients)]
            )

        step(f"{name}: overwrite once")
        overwrite(pages // clients, 0.0)
        step(f"{name}: measure")
        before = _device_bytes(kvfs)
        measured = overwrite(pages // clients, bench.options.seconds)
        amplification = (_device_bytes(kvfs) - before) / measured.units
        _check(path, page, pages)
    finally:
        kvfs.close()
    yield ScaleFigure(f"{name}-wa", f"{title}: bytes to the device per byte written", amplification, "x")
    yield ScaleFigure(f"{name}-rate", f"{title}: overwritten", measured.rate / 1e6, "MB/s")
    for label, percent in (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)):
        value = measured.latency.percentile(percent)
        if value is not None:
            goal = f" (goal: {STALL_GOAL:.0f} ms)" if label == "p99.9" else ""
            yield ScaleFigure(f"{name}-{label}", f"{title}: write, {label}{goal}", value / 1e6, "ms")
    assert measured.latency.maximum is not None
    yield ScaleFigure(f"{name}-max", f"{title}: write, longest", measured.latency.maximum / 1e6, "ms")


def _write_all(path: Path, page: int, pages: int) -> None:
    with mmap.mmap(-1, page) as memory:
        blocks = pattern.as_blocks(memory)
        pattern.fill(blocks)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o644)
        try:
            for number in range(pages):
                pattern.mark(blocks, number)
                if os.pwrite(fd, memory, number * page) != page:
                    raise BenchError(f"{path}: expected room for {format_size(pages * page)}, a write was short")
            os.fsync(fd)
        finally:
            os.close(fd)
        del blocks  # else the memory cannot be closed


def _check(path: Path, page: int, pages: int) -> None:
    """A sample, from the device: every block of a page has to be that page's."""
    with mmap.mmap(-1, page) as memory:
        blocks = pattern.as_blocks(memory)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            for number in random.Random(pages).sample(range(pages), min(pages, _CHECKED)):
                if os.preadv(fd, [memory], number * page) != page:
                    raise BenchError(f"{path}: expected a page at {number * page}, the read was short")
                pattern.check_all(blocks, number, 0)
        finally:
            os.close(fd)
        del blocks


def _device_bytes(kvfs: Kvfs) -> int:
    """Written so far; the daemon is asked to write what it holds first."""
    os.sync()
    fd = os.open(kvfs.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    stats = json.loads((kvfs.root / ".kvfs" / "stats").read_text())
    return int(stats["components"]["store"]["device"]["write_bytes_total"])
