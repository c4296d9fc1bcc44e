"""``kvfs-replay cachesim``: what share of a trace's prefix blocks a cache of some size has, by eviction policy.

The policies are the store's own code (native/policy); the simulation is native too and described in
native/policy/simulation.hpp. A block counts as a hit only when all blocks before it in the request were hits.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kvfs import _native
from kvfs.errors import UsageError
from kvfs.replay.traces import Arrivals, Format, read_trace
from kvfs.units import format_size, parse_size

IDEAL = "ideal"  # a cache that never evicts
_REQUESTS_A_STEP = 256
_PERCENT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*%")


class Row(msgspec.Struct, frozen=True):
    """One policy at one capacity.

    ``*_percent``: of the references. ``ns_per_reference``: CPU time, that of the simulation included.
    """

    policy: str
    capacity: str
    capacity_blocks: int
    prefix_hit_percent: float
    hit_percent: float
    evicted: int
    policy_bytes: int
    ns_per_reference: float


class Report(msgspec.Struct, frozen=True):
    trace: str
    requests: int
    references: int
    footprint_blocks: int
    seed: int
    sessions_per_hour: float
    rows: list[Row]


def parse_capacity(text: str, footprint: int, block_bytes: int) -> int:
    """Blocks that ``text`` means: ``5%`` of ``footprint`` blocks, or bytes (``64G``) at ``block_bytes`` a block.

    UsageError when it is neither, or less than one block.
    """
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        blocks = parse_size(text) // block_bytes
        if blocks < 1:
            raise UsageError(
                f"expected a capacity of at least one block of {format_size(block_bytes)}, found {text!r}",
                "--block-size says how large a block is",
            )
        return blocks
    percent = float(match[1])
    if not 0 < percent <= 1000:
        raise UsageError(f"expected a capacity above 0 % and at most 1000 %, found {text!r}", "write it as in 5%")
    return max(1, int(footprint * percent / 100))


def parse_policies(text: str) -> list[str]:
    """Names of ``text``, separated by commas. UsageError for one that is not known."""
    known = [*_native.simulated_policies(), IDEAL]
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise UsageError(f"expected policies out of {', '.join(known)}, found {name!r}")
    return list(dict.fromkeys(wanted))


def simulate(
    path: Path,
    capacities: Sequence[str],
    policies: Sequence[str],
    kind: Format = Format.AUTO,
    arrivals: Arrivals | None = None,
    block_bytes: int = 1 << 20,
) -> Report:
    """Each policy at each capacity, with a progress bar on a terminal.

    TraceError for a bad trace, UsageError for a bad capacity, OSError when the trace cannot be read.
    """
    arrivals = arrivals or Arrivals()
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        reading = bar.add_task("reading the trace, bytes", total=path.stat().st_size)
        trace = _native.CacheTrace()
        for request in read_trace(path, kind, arrivals, lambda count: bar.advance(reading, count)):
            trace.add(request.now_ns, request.client, request.tail, request.runs)
        blocks = [parse_capacity(text, trace.blocks, block_bytes) for text in capacities]
        rows = []
        for policy in policies:
            for text, capacity in zip(capacities, blocks, strict=True):
                task = bar.add_task(f"{policy} at {text}, requests", total=trace.requests)
                rows.append(_run(trace, policy, text, capacity, partial(bar.advance, task)))
    return Report(
        str(path), trace.requests, trace.references, trace.blocks, arrivals.seed, arrivals.sessions_per_hour, rows
    )


def _run(trace: _native.CacheTrace, policy: str, text: str, capacity: int, progress: Callable[[int], None]) -> Row:
    # ideal: room for everything, so that no policy is ever asked
    simulation = (
        _native.CacheSimulation(trace, "lru", trace.blocks or 1)
        if policy == IDEAL
        else _native.CacheSimulation(trace, policy, capacity)
    )
    while simulation.step(_REQUESTS_A_STEP):
        progress(_REQUESTS_A_STEP)
    result = simulation.result()
    references = result["references"] or 1
    return Row(
        policy=policy,
        capacity=text,
        capacity_blocks=capacity,
        prefix_hit_percent=round(100 * result["prefix_hits"] / references, 3),
        hit_percent=round(100 * result["hits"] / references, 3),
        evicted=result["evicted"],
        policy_bytes=0 if policy == IDEAL else result["memory_bytes"],
        ns_per_reference=round(result["cpu_ns"] / references, 1),
    )


def print_report(report: Report, console: Console | None = None) -> None:
    """A table: a row for each policy, a column for each capacity."""
    console = console or Console()
    capacities = list(dict.fromkeys(row.capacity for row in report.rows))
    table = Table(title="prefix hits, % of block references", title_justify="left")
    table.add_column("policy")
    for capacity in capacities:
        table.add_column(capacity, justify="right")
    table.add_column("CPU ns/reference", justify="right")
    shown: dict[str, dict[str, Row]] = {}
    for row in report.rows:
        shown.setdefault(row.policy, {})[row.capacity] = row
    for policy, cells in shown.items():
        mean = sum(row.ns_per_reference for row in cells.values()) / len(cells)
        table.add_row(policy, *(f"{cells[name].prefix_hit_percent:.2f}" for name in capacities), f"{mean:.0f}")
    console.print(
        f"{report.trace}: {report.requests:,} requests, {report.references:,} references, "
        f"{report.footprint_blocks:,} blocks",
        highlight=False,
        soft_wrap=True,
    )
    console.print(table)


def write_json(report: Report, target: str) -> None:
    """Into the file ``target``, or onto standard output for ``-``. OSError when it cannot be written."""
    text: Any = msgspec.json.format(msgspec.json.encode(report), indent=2)
    if target == "-":
        print(text.decode())
    else:
        Path(target).write_bytes(text + b"\n")
