"""Rows that look up names, the operation that engines do most."""

from benchlib.bench import KVFS, PAGE_SIZES, TMPFS, Bench
from benchlib.figures import Measurement
from benchlib.workers import run_together
from benchlib.workloads import FileSet, LookupAbsent

_FLOOR = "floor"


class Lookup:
    """access(F_OK) of names that are not there, by one client, as an engine's scheduler asks for every key.

    ``repeated``: the same names were asked for just before. The target ``floor`` is no file system: what the client's
    call and clock cost without a lookup.
    """

    unit = "op"

    def __init__(self, bench: Bench, repeated: bool) -> None:
        self.name = "lookup-repeated" if repeated else "lookup-first"
        self.title = f"lookup of absent names, {'repeated' if repeated else 'first time'}, 1 client"
        files = bench.chosen(KVFS, bench.local, TMPFS)
        self.targets = [*files, _FLOOR] if files else []
        self.peer = bench.local
        self._repeated = repeated
        self._absent: FileSet | None = None

    def prepare(self, bench: Bench, turn: int) -> None:
        self._absent = bench.new_files(bench.options.lookups, 4096)
        for target in self.targets:
            if target != _FLOOR:
                bench.read_set(target, min(PAGE_SIZES))

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        assert self._absent is not None
        if target == _FLOOR:
            return run_together([LookupAbsent(None, self._absent)])
        directory, _ = bench.read_set(target, min(PAGE_SIZES))
        workload = LookupAbsent(directory, self._absent)
        if self._repeated:
            run_together([workload])
        return bench.together(bench.reading(target), [workload])

    def finish(self, bench: Bench, turn: int) -> None:
        pass
