"""Rows times rounds times targets: prepared together, measured back to back, in an order that rotates."""

from collections.abc import Callable
from dataclasses import dataclass

from benchlib.bench import Bench
from benchlib.figures import Measurement
from benchlib.rows import Row


@dataclass(frozen=True)
class RowResult:
    """All measurements of a row: ``measured[target][round]``."""

    row: Row
    measured: dict[str, list[Measurement]]


def rotated(targets: list[str], turn: int) -> list[str]:
    """Each target is first, second... equally often when the rounds are a multiple of the targets."""
    first = turn % len(targets)
    return targets[first:] + targets[:first]


def run_row(bench: Bench, row: Row, rounds: int, step: Callable[[str], None]) -> RowResult:
    """``step(what)`` is called before each piece of work, :func:`steps` times in all."""
    measured: dict[str, list[Measurement]] = {target: [] for target in row.targets}
    for turn in range(rounds):
        step(f"{row.name}: prepare")
        row.prepare(bench, turn)
        for target in rotated(row.targets, turn):
            step(f"{row.name}: {target}, round {turn + 1} of {rounds}")
            measured[target].append(row.measure(bench, target, turn))
        step(f"{row.name}: check")
        row.finish(bench, turn)
    return RowResult(row, measured)


def steps(row: Row, rounds: int) -> int:
    return rounds * (len(row.targets) + 2)
