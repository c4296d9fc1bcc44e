"""Results as tables for people."""

from rich import box
from rich.table import Table

from benchlib.bench import NATIVE
from benchlib.figures import Latency, Measurement, Spread
from benchlib.goals import Verdict, verdicts
from benchlib.loopcost import LoopCost
from benchlib.report import PERCENTILES, cpu_per_unit, daemon_cpu, ratio_of
from benchlib.scale import ScaleFigure
from benchlib.schedule import RowResult
from kvfs.units import format_size


def row_table(results: list[RowResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("row", "on"):
        table.add_column(name, no_wrap=True)
    for name in ("rate", "ratio", "asked", "p50", "p99", "p99.9", "CPU client + daemon + kernel"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        unit = result.row.unit
        asked = verdicts(result.row.goals, result.measured)
        for number, (target, measured) in enumerate(result.measured.items()):
            latency = Latency.merged([one.latency for one in measured])
            ratio = ratio_of(result, target)
            table.add_row(
                result.row.name if number == 0 else "",
                target,
                _rates(unit, Spread.of(one.rate for one in measured)),
                _with_range(ratio, ".2f") if ratio else "peer" if target == result.row.peer else "",
                ", ".join(_asked(each, result.row.peer) for each in asked if each.goal.target == target),
                *(_duration(latency.percentile(percent)) for percent in PERCENTILES.values()),
                _cpu_text(unit, measured),
                style="bold" if target == NATIVE else "",
                end_section=number == len(result.measured) - 1,
            )
    return table


def _asked(verdict: Verdict, peer: str) -> str:
    """The peer and the figure are in the column before, unless it is another peer."""
    goal = verdict.goal
    of_whom = "" if goal.peer == peer else f" of {goal.peer} ({verdict.found.median:.2f})"
    return f"{goal.ratio:.2f}{of_whom} {'met' if verdict.is_met else 'missed'}"


def scale_table(figures: list[ScaleFigure], peer: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    table.add_column("kvfs", justify="right")
    table.add_column(peer, justify="right")
    for figure in figures:
        shown = (_scale_text(value, figure.unit) for value in (figure.value, figure.peer))
        table.add_row(figure.title, *shown)
    return table


def loop_table(costs: list[LoopCost]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("4 KiB reads from memory, on", no_wrap=True)
    for name in ("clients", "rate", "daemon, program", "daemon, kernel", "instructions"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("of these in")
    for cost in costs:
        parts = cost.instructions_by_object or {}
        table.add_row(
            cost.target,
            str(cost.clients),
            f"{cost.rate / 1e3:.1f} k/s",
            f"{cost.user_us:.2f} us",
            f"{cost.system_us:.2f} us",
            "" if cost.instructions is None else f"{cost.instructions:,.0f}",
            ", ".join(f"{name} {count:,.0f}" for name, count in parts.items()),
        )
    return table


def _rates(unit: str, spread: Spread) -> str:
    if unit == "B":
        return f"{_with_range(Spread(*(rate / 1e9 for rate in _values(spread))), '.2f')} GB/s"
    return f"{_with_range(Spread(*(rate / 1e3 for rate in _values(spread))), '.1f')} k/s"


def _values(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.minimum, spread.maximum


def _with_range(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.minimum:{form}}-{spread.maximum:{form}})"


def _duration(ns: int | None) -> str:
    if ns is None:
        return "-"
    return f"{ns / 1e6:.1f} ms" if ns >= 1_000_000 else f"{ns / 1e3:.1f} us"


def _cpu_text(unit: str, measured: list[Measurement]) -> str:
    form, name = (".2f", "s/GB") if unit == "B" else (".1f", "us/op")
    client, kernel = (
        cpu_per_unit(unit, measured, used)
        for used in ([one.client_cpu for one in measured], [one.kernel_cpu for one in measured])
    )
    daemon = daemon_cpu(unit, measured)
    return f"{client.median:{form}} + {f'{daemon.median:{form}}' if daemon else '-'} + {kernel.median:{form}} {name}"


def _scale_text(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "B":
        return format_size(int(value))
    if unit == "x":
        return f"{value:.2f}x"
    return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
