"""Results as a table for people and as JSON for machines; both say the same."""

from typing import Any

from rich import box
from rich.table import Table

from benchlib.bench import KVFS, Bench
from benchlib.figures import Latency, Measurement, Spread, paired_ratio
from benchlib.scale import ScaleFigure
from benchlib.schedule import RowResult
from kvfs.units import format_size

FORMAT_VERSION = 1
_PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99_9": 99.9}


def as_json(
    bench: Bench, environment: dict[str, Any], results: list[RowResult], scale: list[ScaleFigure]
) -> dict[str, Any]:
    """Rates in units per second, latencies in ns, CPU in seconds per GB (10^9 bytes) or microseconds per operation.

    ``p99_9`` is null where there were fewer than 1,000 requests, ``daemon_cpu`` where there is no daemon.
    """
    options = bench.options
    return {
        "format": FORMAT_VERSION,
        "environment": environment,
        "parameters": {
            "rounds": options.rounds,
            "threads": options.threads,
            "request_bytes": options.request,
            "data_bytes": options.data,
            "store_bytes": options.store_size,
            "small_files": options.small_files,
            "lookups": options.lookups,
        },
        "rows": [_row(result) for result in results],
        "scale": [
            {
                "name": figure.name,
                "title": figure.title,
                "value": figure.value,
                "unit": figure.unit,
                "peer": figure.peer,
            }
            for figure in scale
        ],
    }


def _row(result: RowResult) -> dict[str, Any]:
    row = result.row
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "peer": row.peer,
        "targets": {
            target: {
                "rate": _spread(Spread.of(one.rate for one in measured)),
                "ratio_to_peer": _spread(ratio) if (ratio := _ratio(result, target)) else None,
                "latency_ns": _latency(Latency.merged([one.latency for one in measured])),
                "client_cpu": _spread(_cpu(row.unit, measured, [one.client_cpu for one in measured])),
                "daemon_cpu": _spread(daemon) if (daemon := _daemon(row.unit, measured)) else None,
            }
            for target, measured in result.measured.items()
        },
    }


def _spread(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "min": spread.minimum, "max": spread.maximum}


def _latency(latency: Latency) -> dict[str, int | None]:
    shown = {name: latency.percentile(percent) for name, percent in _PERCENTILES.items()}
    return {**shown, "max": latency.maximum, "samples": latency.samples}


def _ratio(result: RowResult, target: str) -> Spread | None:
    peer = result.measured.get(result.row.peer)
    return paired_ratio(result.measured[target], peer) if peer and target != result.row.peer else None


def _cpu(unit: str, measured: list[Measurement], seconds: list[float]) -> Spread:
    scale = 1e9 if unit == "B" else 1e6
    return Spread.of(scale * used / one.units for one, used in zip(measured, seconds, strict=True))


def _daemon(unit: str, measured: list[Measurement]) -> Spread | None:
    used = [one.daemon_cpu for one in measured if one.daemon_cpu is not None]
    return _cpu(unit, measured, used) if used else None


# the table -------------------------------------------------------------------


def row_table(results: list[RowResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("row", "on"):
        table.add_column(name, no_wrap=True)
    for name in ("rate", "ratio", "p50", "p99", "p99.9", "CPU client + daemon"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        unit = result.row.unit
        for number, (target, measured) in enumerate(result.measured.items()):
            latency = Latency.merged([one.latency for one in measured])
            ratio = _ratio(result, target)
            table.add_row(
                result.row.name if number == 0 else "",
                target,
                _rates(unit, Spread.of(one.rate for one in measured)),
                _with_range(ratio, ".2f") if ratio else "peer" if target == result.row.peer else "",
                *(_duration(latency.percentile(percent)) for percent in _PERCENTILES.values()),
                _cpu_text(unit, _cpu(unit, measured, [one.client_cpu for one in measured]), _daemon(unit, measured)),
                style="bold" if target == KVFS else "",
                end_section=number == len(result.measured) - 1,
            )
    return table


def scale_table(figures: list[ScaleFigure], peer: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    table.add_column("kvfs", justify="right")
    table.add_column(peer, justify="right")
    for figure in figures:
        shown = (_scale_text(value, figure.unit) for value in (figure.value, figure.peer))
        table.add_row(figure.title, *shown)
    return table


def machine(bench: Bench, environment: dict[str, Any]) -> str:
    return (
        f"{environment['cpus']} CPUs ({environment['cpu']}), {format_size(environment['memory_bytes'])}, "
        f"Linux {environment['kernel']}, load {environment['load_average']:.1f} at the start; "
        f"everything on {bench.local}"
    )


def how_to_read(bench: Bench, environment: dict[str, Any]) -> str:
    options = bench.options
    return (
        f"{options.rounds} rounds, {options.threads} clients, reads by {format_size(options.request)}, "
        f"{format_size(options.data)} per row and round, stores of {format_size(options.store_size)}; "
        f"cold: remounted, then {environment['cold']}\n"
        "median (minimum-maximum) over the rounds; a ratio is taken within a round, to the target marked peer; "
        "raw: fio io_uring on the store's own file"
    )


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


def _cpu_text(unit: str, client: Spread, daemon: Spread | None) -> str:
    form, name = (".2f", "s/GB") if unit == "B" else (".1f", "us/op")
    return f"{client.median:{form}}{f' + {daemon.median:{form}}' if daemon else ''} {name}"


def _scale_text(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "B":
        return format_size(int(value))
    return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
