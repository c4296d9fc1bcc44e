"""Rows that read pages: cold and warm, and the clients themselves beside fio's.

Cold means: the kvfs store remounted, and after that the kernel's caches dropped (as a user who may not: those of the
files read). The device may have caches that nobody here can drop; they are the same for all.
"""

from pathlib import Path

from benchlib import system
from benchlib.bench import KVFS, MIB, RAW, TMPFS, Bench
from benchlib.figures import Measurement
from benchlib.fio import FioJob, run_fio
from benchlib.storemap import longest_range
from benchlib.targets import Kvfs
from benchlib.workloads import FileSet

_MEMORY_PASSES = 4  # over files in memory: one pass would be too short to time
_GENERATOR_BYTES = 256 * MIB


class ColdRead:
    """Whole files front to back by requests, nothing cached; the peer reads where in the store's file they lie."""

    unit = "B"
    peer = RAW

    def __init__(self, bench: Bench, size: int, direct: bool) -> None:
        how = "direct" if direct else "buffered"
        self.name = f"cold-{how}-{size // MIB}m"
        self.title = f"cold read, {'O_DIRECT' if direct else how}, {size // MIB} MiB files"
        self.targets = bench.chosen(KVFS, RAW, bench.local)
        if KVFS not in self.targets and RAW in self.targets:
            self.targets.remove(RAW)  # there is no store for it to read
        self._size = size
        self._direct = direct
        self._raw_job: FioJob | None = None

    def prepare(self, bench: Bench, turn: int) -> None:
        files = [target for target in self.targets if target != RAW]
        directories = [bench.read_set(target, self._size)[0] for target in files]
        for target in files:
            bench.reading(target).make_cold()
        if RAW in self.targets and self._raw_job is None:
            self._raw_job = self._locate(bench)
        system.drop_caches(directories)

    def _locate(self, bench: Bench) -> FioJob:
        kvfs = bench.reading(KVFS)
        assert isinstance(kvfs, Kvfs)
        offset, length = longest_range(kvfs.store, bench.options.data)
        request = min(bench.options.request, self._size)
        return FioJob(kvfs.store, "read", offset, length, request, depth=bench.options.threads)

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        if target == RAW:
            assert self._raw_job is not None
            return run_fio(self._raw_job)
        directory, files = bench.read_set(target, self._size)
        return bench.read(bench.reading(target), directory, files, direct=self._direct)

    def finish(self, bench: Bench, turn: int) -> None:
        """Once per row: every byte, cold again, by the same path."""
        if turn == 0:
            self.prepare(bench, turn)
            for target in self.targets:
                if target != RAW:
                    directory, files = bench.read_set(target, self._size)
                    bench.read(bench.reading(target), directory, files, direct=self._direct, check_all=True)


class WarmRead:
    """The same files a second time through the page cache."""

    unit = "B"

    def __init__(self, bench: Bench, size: int) -> None:
        self.name = f"warm-{size // MIB}m"
        self.title = f"warm read, page cache, {size // MIB} MiB files"
        self.targets = bench.chosen(KVFS, bench.local, TMPFS)
        self.peer = bench.local
        self._size = size

    def prepare(self, bench: Bench, turn: int) -> None:
        """Read all of them, checking every byte in the first round."""
        for target in self.targets:
            directory, files = bench.read_set(target, self._size)
            bench.read(bench.reading(target), directory, files, direct=False, check_all=turn == 0)

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        directory, files = bench.read_set(target, self._size)
        return bench.read(bench.reading(target), directory, files, direct=False, passes=_MEMORY_PASSES)

    def finish(self, bench: Bench, turn: int) -> None:
        pass


class Generator:
    """A client of this benchmark beside one of fio's, both on tmpfs: how much of a figure is the asking."""

    name = "generator"
    title = "one of these clients beside fio (psync), tmpfs, one file"
    unit = "B"
    peer = "fio"

    def __init__(self, bench: Bench) -> None:
        self.targets = ["client", "fio"] if TMPFS in bench.names else []
        self._file: FileSet | None = None

    def prepare(self, bench: Bench, turn: int) -> None:
        if self._file is None:
            place = bench.writing(TMPFS)
            self._file = bench.new_files(1, _GENERATOR_BYTES)
            bench.publish(place, place.directory("generator"), self._file, direct=False, durable=False)

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        assert self._file is not None
        place = bench.writing(TMPFS)
        directory = place.directory("generator")
        if target == "client":
            return bench.read(place, directory, self._file, direct=False, passes=_MEMORY_PASSES, clients=1)
        path = Path(self._file.paths_in(directory)[0])
        return run_fio(
            FioJob(
                path,
                "read",
                offset=0,
                size=self._file.size,
                request=bench.options.request,
                engine="psync",
                direct=False,
                loops=_MEMORY_PASSES,
            )
        )

    def finish(self, bench: Bench, turn: int) -> None:
        if turn == bench.options.rounds - 1:
            bench.drop(TMPFS, "write")
