"""Rows that make files: whole pages, and small ones."""

import os

from benchlib import system
from benchlib.bench import MIB, NATIVE, PYFUSE3, RAW, TMPFS, Bench
from benchlib.figures import Measurement
from benchlib.fio import FioJob
from benchlib.goals import Goal
from benchlib.usage import watched
from benchlib.workloads import FileSet, sync_directory

_MOSTLY = 0.9  # of a file's size with blocks behind it: preallocated


class WriteNew:
    """New files: temporary name, one O_DIRECT write, close, rename; at the end an fsync of the directory.

    The store is freshly formatted in every round. The peer writes, by requests of a whole file, to a file of the
    store's size that is in the state in which the store's own was then: sparse, or preallocated.
    """

    unit = "B"
    peer = RAW
    in_memory = False
    goals = (Goal(NATIVE, RAW, 0.80),)

    def __init__(self, bench: Bench, size: int) -> None:
        self.name = f"write-{size // MIB}m"
        self.title = f"new files, write + rename, {size // MIB} MiB"
        self.targets = bench.chosen(NATIVE, PYFUSE3, RAW, bench.local, TMPFS)
        self._size = size
        self._raw_file = bench.work / "raw.file"
        self._files: FileSet | None = None

    def prepare(self, bench: Bench, turn: int) -> None:
        self._files = bench.page_files(self._size)
        for target in self.targets:
            if target != RAW:
                bench.drop(target, "write")
                bench.writing(target).directory("new")
        if RAW in self.targets:
            self._make_raw_file(bench)
        os.sync()

    def _make_raw_file(self, bench: Bench) -> None:
        """As the store's file is; without kvfs among the targets: sparse."""
        size, allocated = bench.options.store_size, False
        if kvfs := bench.first_kvfs():
            status = bench.store_of(kvfs, "write").stat()
            size, allocated = status.st_size, status.st_blocks * 512 > _MOSTLY * status.st_size
        with self._raw_file.open("wb") as file:
            if allocated:
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            os.fsync(file.fileno())

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        assert self._files is not None
        if target == RAW:
            size, depth = self._files.bytes, bench.options.threads
            return bench.fio(None, FioJob((self._raw_file,), "write", self._size, size=size, depth=depth))
        place = bench.writing(target)
        return bench.publish(place, place.directory("new"), self._files, direct=target != TMPFS, durable=True)

    def finish(self, bench: Bench, turn: int) -> None:
        """Read back what the first round wrote, cold, every byte; then make room."""
        assert self._files is not None
        files = [target for target in self.targets if target != RAW]
        if turn == 0:
            _check_written(bench, files, "new", self._files)
        for target in files:
            bench.drop(target, "write")  # only to make room: prepare() would do it too
        self._raw_file.unlink(missing_ok=True)


class SmallFiles:
    """Create, one buffered write of 4 KiB, close, rename, all in one directory; nothing is synced on any side."""

    name = "small-files"
    title = "create + 4 KiB write + close + rename, native threads"
    unit = "op"
    peer = PYFUSE3
    in_memory = False
    goals = (Goal(NATIVE, PYFUSE3, 2.0),)

    def __init__(self, bench: Bench) -> None:
        self.targets = bench.chosen(NATIVE, PYFUSE3, bench.local, TMPFS)
        self._files: FileSet | None = None

    def prepare(self, bench: Bench, turn: int) -> None:
        self._files = bench.new_files(bench.options.small_files, 4096)
        for target in self.targets:
            bench.writing(target).directory(f"small-{turn}")

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        assert self._files is not None
        place, files = bench.writing(target), self._files
        directory = place.directory(f"small-{turn}")
        return watched(place.pids(), lambda: bench.metadata.publish(directory, files, bench.options.threads))

    def finish(self, bench: Bench, turn: int) -> None:
        assert self._files is not None
        for target in self.targets:
            sync_directory(bench.writing(target).directory(f"small-{turn}"))
        if turn == 0:
            _check_written(bench, self.targets, f"small-{turn}", self._files)


def _check_written(bench: Bench, targets: list[str], directory: str, files: FileSet) -> None:
    for target in targets:
        bench.writing(target).make_cold()
    system.drop_caches([bench.writing(target).directory(directory) for target in targets])
    for target in targets:
        place = bench.writing(target)
        bench.read(place, place.directory(directory), files, direct=False, check_all=True)
