"""The rows of the table, in its order. Each knows its targets, the peer of its ratios, and how a round goes."""

from collections.abc import Sequence
from typing import Protocol

from benchlib.bench import MIB, NATIVE, PAGE_SIZES, PYFUSE3, RING, Bench
from benchlib.figures import Measurement
from benchlib.goals import Goal
from benchlib.lookups import Lookup
from benchlib.memory import FromMemory
from benchlib.reads import ColdRead, Generator, WarmRandom, WarmRead, WarmTouch
from benchlib.writes import SmallFiles, WriteNew


class Row(Protocol):
    """``unit``: what a rate counts, "B" or "op". ``peer``: the target that ratios refer to. ``in_memory``: no daemon
    should read from a device meanwhile."""

    name: str
    title: str
    unit: str
    peer: str
    in_memory: bool
    targets: list[str]

    @property
    def goals(self) -> Sequence[Goal]: ...

    def prepare(self, bench: Bench, turn: int) -> None:
        """Bring all targets into the row's state, untimed."""

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        """One target, timed; the targets follow each other without a pause."""

    def finish(self, bench: Bench, turn: int) -> None:
        """Check what the timing could not, and clear up, untimed."""


def all_rows(bench: Bench) -> list[Row]:
    """Those that have a target here."""
    threads = bench.options.threads
    rows: list[Row] = [ColdRead(bench, size, direct) for direct in (True, False) for size in PAGE_SIZES]
    rows += [WarmRead(bench, size, clients) for size in PAGE_SIZES for clients in sorted({1, threads})]
    rows += [WarmTouch(bench, size) for size in PAGE_SIZES]
    rows += [WarmRandom(bench, max(PAGE_SIZES))]
    rows += [WriteNew(bench, size) for size in PAGE_SIZES]
    rows += [FromMemory(bench, 64 * 1024, 1, Goal(NATIVE, PYFUSE3, 1.7))]
    for request, goals in (
        (MIB, (Goal(NATIVE, PYFUSE3, 1.8),)),
        (4096, (Goal(NATIVE, PYFUSE3, 4.0), Goal(RING, NATIVE, 1.3))),
    ):
        rows += [FromMemory(bench, request, n, *(goals if n == threads else ())) for n in sorted({1, threads})]
    rows += [SmallFiles(bench), Lookup(bench, repeated=False), Lookup(bench, repeated=True), Generator(bench)]
    return [row for row in rows if row.targets]
