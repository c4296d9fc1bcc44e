"""The rows of the table, in its order. Each knows its targets, the peer of its ratios, and how a round goes."""

from typing import Protocol

from benchlib.bench import PAGE_SIZES, Bench
from benchlib.figures import Measurement
from benchlib.lookups import Lookup
from benchlib.reads import ColdRead, Generator, WarmRead
from benchlib.writes import SmallFiles, WriteNew


class Row(Protocol):
    """``unit``: what a rate counts, "B" or "op". ``peer``: the target that ratios refer to."""

    name: str
    title: str
    unit: str
    peer: str
    targets: list[str]

    def prepare(self, bench: Bench, turn: int) -> None:
        """Bring all targets into the row's state, untimed."""

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        """One target, timed; the targets follow each other without a pause."""

    def finish(self, bench: Bench, turn: int) -> None:
        """Check what the timing could not, and clear up, untimed."""


def all_rows(bench: Bench) -> list[Row]:
    """Those that have a target here."""
    rows: list[Row] = [ColdRead(bench, size, direct) for direct in (True, False) for size in PAGE_SIZES]
    rows += [WarmRead(bench, size) for size in PAGE_SIZES]
    rows += [WriteNew(bench, size) for size in PAGE_SIZES]
    rows += [SmallFiles(bench), Lookup(bench, repeated=False), Lookup(bench, repeated=True), Generator(bench)]
    return [row for row in rows if row.targets]
