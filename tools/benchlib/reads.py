"""Rows that read pages: cold and warm, and the clients themselves beside fio's.

Cold means: the kvfs store remounted, and after that the kernel's caches dropped (as a user who may not: those of the
files read). The device may have caches that nobody here can drop; they are the same for all.
"""

from pathlib import Path

from benchlib import system
from benchlib.bench import MIB, NATIVE, PYFUSE3, RAW, TMPFS, Bench
from benchlib.figures import Measurement
from benchlib.fio import FioJob
from benchlib.goals import Goal
from benchlib.storemap import longest_range
from benchlib.workloads import FileSet, Share, TouchPages

_MEMORY_PASSES = 4  # over files in memory: one pass would be too short to time
_GENERATOR_BYTES = 256 * MIB
_RANDOM_REQUEST = 64 * 1024


class ColdRead:
    """Whole files front to back by requests, nothing cached; the peer reads where in the store's file they lie."""

    unit = "B"
    peer = RAW
    in_memory = False

    def __init__(self, bench: Bench, size: int, direct: bool) -> None:
        how = "direct" if direct else "buffered"
        self.name = f"cold-{how}-{size // MIB}m"
        self.title = f"cold read, {'O_DIRECT' if direct else how}, {size // MIB} MiB files"
        self.targets = bench.chosen(NATIVE, PYFUSE3, RAW, bench.local)
        self.goals = (Goal(NATIVE, RAW, 0.90 if direct else 0.60),)
        self._by_whom = bench.first_kvfs()
        if self._by_whom is None and RAW in self.targets:
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
        assert self._by_whom is not None
        store = bench.store_of(self._by_whom, "read")
        offset, length = longest_range(store, bench.options.data)
        request = min(bench.options.request, self._size)
        return FioJob((store,), "read", request, offset, length, depth=bench.options.threads)

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        if target == RAW:
            assert self._raw_job is not None
            return bench.fio(None, self._raw_job)
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


class _Warm:
    """Files that have just been read, all of them, with every byte checked in the first round."""

    unit = "B"
    in_memory = True

    def __init__(self, bench: Bench, size: int) -> None:
        self.targets = bench.chosen(NATIVE, PYFUSE3, bench.local, TMPFS)
        self.peer = bench.local
        self.goals = (Goal(NATIVE, bench.local, 0.90),)
        self._size = size

    def prepare(self, bench: Bench, turn: int) -> None:
        for target in self.targets:
            directory, files = bench.read_set(target, self._size)
            bench.warm(bench.reading(target), directory, files, check_all=turn == 0)

    def finish(self, bench: Bench, turn: int) -> None:
        pass


class WarmRead(_Warm):
    """Whole files front to back by requests."""

    def __init__(self, bench: Bench, size: int, clients: int) -> None:
        super().__init__(bench, size)
        self.name = f"warm-{size // MIB}m-{clients}t"
        self.title = f"warm read, {size // MIB} MiB files, {clients} client{'s' if clients > 1 else ''}"
        self._clients = clients

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        directory, files = bench.read_set(target, self._size)
        place = bench.reading(target)
        return bench.read(place, directory, files, direct=False, passes=_MEMORY_PASSES, clients=self._clients)


class WarmTouch(_Warm):
    """Whole files mapped, the first word of every page of memory read and compared."""

    def __init__(self, bench: Bench, size: int) -> None:
        super().__init__(bench, size)
        self.name = f"mmap-{size // MIB}m"
        self.title = f"warm mmap, every page touched, {size // MIB} MiB files"

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        directory, files = bench.read_set(target, self._size)
        workload = TouchPages(directory, files, Share(files.count * _MEMORY_PASSES))
        return bench.together(bench.reading(target), [workload] * bench.options.threads)


class WarmRandom(_Warm):
    """Buffered reads of 64 KiB anywhere in the files, by fio."""

    name = "warm-random-64k"
    title = "64 KiB random reads in warm files of 32 MiB"

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        directory, files = bench.read_set(target, self._size)
        job = FioJob(
            tuple(Path(path) for path in files.paths_in(directory)),
            "randread",
            _RANDOM_REQUEST,
            jobs=bench.options.threads,
            engine="psync",
            direct=False,
            seconds=bench.options.seconds,
        )
        return bench.fio(bench.reading(target), job)


class Generator:
    """A client of this benchmark beside one of fio's, both on tmpfs: how much of a figure is the asking."""

    name = "generator"
    title = "one of these clients beside fio (psync), tmpfs, one file"
    unit = "B"
    peer = "fio"
    in_memory = True
    goals: tuple[Goal, ...] = ()

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
        job = FioJob(
            (Path(self._file.paths_in(directory)[0]),),
            "read",
            bench.options.request,
            size=self._file.size,
            engine="psync",
            direct=False,
            loops=_MEMORY_PASSES,
        )
        return bench.fio(place, job)

    def finish(self, bench: Bench, turn: int) -> None:
        if turn == bench.options.rounds - 1:
            bench.drop(TMPFS, "write")
