"""``kvfsctl doctor``: every probe, run and explained."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvfs.cli.probes import devices, fuse, host, io, native
from kvfs.cli.probes.finding import Finding, State
from kvfs.errors import MountError

_AREAS: tuple[tuple[str, tuple[Callable[[], Finding], ...]], ...] = (
    ("kvfs", native.PROBES),
    ("host", host.PROBES),
    ("FUSE", fuse.PROBES),
    ("I/O", io.PROBES),
    ("NVMe, fabric, GPU", devices.PROBES),
)
_MARKS = {State.OK: "green", State.LIMITED: "yellow", State.MISSING: "red", State.UNKNOWN: "dim"}


@dataclass(frozen=True)
class Diagnosis:
    """Findings by area, in the order to print them."""

    areas: dict[str, tuple[Finding, ...]]

    @property
    def is_able(self) -> bool:
        """Whether nothing is missing without which kvfs does not work."""
        return not any(
            finding.required and finding.state is State.MISSING for area in self.areas.values() for finding in area
        )

    def to_builtins(self) -> dict[str, Any]:
        return {
            "able": self.is_able,
            "features": [
                {"area": area, **asdict(finding)} for area, findings in self.areas.items() for finding in findings
            ],
        }


def diagnose() -> Diagnosis:
    """Run every probe."""
    return Diagnosis({area: tuple(probe() for probe in probes) for area, probes in _AREAS})


@dataclass(frozen=True)
class LoopComparison:
    """``loop``: what `kvfs mount` takes by itself. ``ratios``: reads by ring, of those by clones; none: not offered."""

    loop: str
    ratios: dict[str, float]

    def __str__(self) -> str:
        if not self.ratios:
            return "request loop: clones; there is nothing to compare, as FUSE over io_uring is missing."
        ratios = ", ".join(f"{pattern}: {ratio:.2f}" for pattern, ratio in self.ratios.items())
        return f"request loop: {self.loop}. Reads per second by ring, of those by clones (size x readers): {ratios}."

    def to_builtins(self) -> dict[str, Any]:
        return asdict(self)


def compare_request_loops() -> LoopComparison:
    """For a second; the outcome is kept for mounts to come. Raises MountError, NoFuse."""
    from kvfs.fs import request_loop  # it loads native code, which the probes must be able to miss

    if not request_loop.offered():
        return LoopComparison("clones", {})
    try:
        outcome = request_loop.measure()
    except OSError as error:
        raise MountError(f"the request loops could not be compared: {error}") from error
    request_loop.remember(outcome)
    return LoopComparison(outcome.loop, outcome.ratios)


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Each feature with what was found, what it is for (dim) and how to get it (cyan)."""
    width = max(len(finding.feature) for findings in diagnosis.areas.values() for finding in findings)
    for area, findings in diagnosis.areas.items():
        table = Table(title=area, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
        table.add_column(width=max(map(len, State)), no_wrap=True)
        table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            text = Text(finding.found)
            text.append(f"\nfor {finding.purpose}", style="dim")
            if finding.remedy:
                text.append(f"\n-> {finding.remedy}", style="cyan")
            table.add_row(Text(finding.state, style=_MARKS[finding.state]), finding.feature, text)
        console.print(table)
        console.print()
    if diagnosis.is_able:
        console.print("kvfs can mount here.")
    else:
        missing = ", ".join(
            finding.feature
            for area in diagnosis.areas.values()
            for finding in area
            if finding.required and finding.state is State.MISSING
        )
        console.print(f"kvfs cannot mount here: {missing} missing.")
