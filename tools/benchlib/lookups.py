"""Rows that look up names, the operation that engines do most."""

from benchlib.bench import NATIVE, PAGE_SIZES, PYFUSE3, TMPFS, Bench
from benchlib.figures import Measurement
from benchlib.goals import Goal
from benchlib.usage import watched
from benchlib.workloads import FileSet

_FLOOR = "floor"
_REPEATED_PASSES = 10  # over names that the kernel knows to be absent: one pass would be too short to time


class Lookup:
    """access(F_OK) of names that are not there, by one native thread, as an engine's scheduler asks for every key.

    ``repeated``: the same names were asked for just before. The target ``floor`` is no file system: what the client's
    call and clock cost without a lookup.
    """

    unit = "op"
    in_memory = True

    def __init__(self, bench: Bench, repeated: bool) -> None:
        self.name = "lookup-repeated" if repeated else "lookup-first"
        self.title = f"lookup of absent names, {'repeated' if repeated else 'first time'}, 1 client"
        files = bench.chosen(NATIVE, PYFUSE3, bench.local, TMPFS)
        self.targets = [*files, _FLOOR] if files else []
        self.peer = bench.local
        self.goals = (Goal(NATIVE, bench.local, 0.8),) if repeated else ()
        self._repeated = repeated
        self._absent: FileSet | None = None

    def prepare(self, bench: Bench, turn: int) -> None:
        self._absent = bench.new_files(bench.options.lookups, 4096)
        for target in self.targets:
            if target != _FLOOR:
                bench.read_set(target, min(PAGE_SIZES))

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        assert self._absent is not None
        look_up, passes = bench.metadata.look_up_absent, _REPEATED_PASSES if self._repeated else 1
        if target == _FLOOR:
            return look_up([""] * self._absent.count * passes)
        directory, _ = bench.read_set(target, min(PAGE_SIZES))
        paths = self._absent.paths_in(directory)
        if self._repeated:
            look_up(paths)
        return watched(bench.reading(target).pids(), lambda: look_up(paths * passes))

    def finish(self, bench: Bench, turn: int) -> None:
        pass
