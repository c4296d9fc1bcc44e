"""Results as JSON for machines, and the figures that JSON and tables both show."""

from dataclasses import asdict
from typing import Any

from benchlib.bench import Bench
from benchlib.figures import Latency, Measurement, Spread, paired_ratio
from benchlib.goals import Verdict, verdicts
from benchlib.loopcost import LoopCost
from benchlib.notes import device_bytes, missing, warnings
from benchlib.scale import ScaleFigure
from benchlib.schedule import RowResult

FORMAT_VERSION = 2
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99_9": 99.9}


def as_json(
    bench: Bench,
    environment: dict[str, Any],
    results: list[RowResult],
    scale: list[ScaleFigure],
    loop_costs: list[LoopCost],
) -> dict[str, Any]:
    """Rates in units per second, latencies in ns, CPU in seconds per GB (10^9 bytes) or microseconds per operation.

    ``p99_9`` is null where there were fewer than 1,000 requests, ``daemon_cpu`` and ``device_bytes`` where there is
    no daemon. ``foreign_cpus``: CPUs that others kept busy. ``goals``: what is asked of those targets that were
    measured with their peers.
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
            "random_seconds": options.seconds,
        },
        "not_measured": missing(bench),
        "warnings": warnings(environment, results),
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
        "loop_costs": [asdict(cost) for cost in loop_costs],
    }


def _row(result: RowResult) -> dict[str, Any]:
    row = result.row
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "peer": row.peer,
        "goals": [_goal(verdict) for verdict in verdicts(row.goals, result.measured)],
        "targets": {
            target: {
                "rate": _spread(Spread.of(one.rate for one in measured)),
                "ratio_to_peer": _spread(ratio) if (ratio := ratio_of(result, target)) else None,
                "latency_ns": _latency(Latency.merged([one.latency for one in measured])),
                "client_cpu": _spread(cpu_per_unit(row.unit, measured, [one.client_cpu for one in measured])),
                "daemon_cpu": _spread(daemon) if (daemon := daemon_cpu(row.unit, measured)) else None,
                "kernel_cpu": _spread(cpu_per_unit(row.unit, measured, [one.kernel_cpu for one in measured])),
                "device_bytes": device_bytes(measured),
                "foreign_cpus": _spread(Spread.of(one.foreign_cpus for one in measured)),
            }
            for target, measured in result.measured.items()
        },
    }


def _goal(verdict: Verdict) -> dict[str, Any]:
    goal = verdict.goal
    return {
        "target": goal.target,
        "peer": goal.peer,
        "asked": goal.ratio,
        "found": _spread(verdict.found),
        "met": verdict.is_met,
    }


def _spread(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "min": spread.minimum, "max": spread.maximum}


def _latency(latency: Latency) -> dict[str, int | None]:
    shown = {name: latency.percentile(percent) for name, percent in PERCENTILES.items()}
    return {**shown, "max": latency.maximum, "samples": latency.samples}


def ratio_of(result: RowResult, target: str) -> Spread | None:
    peer = result.measured.get(result.row.peer)
    return paired_ratio(result.measured[target], peer) if peer and target != result.row.peer else None


def cpu_per_unit(unit: str, measured: list[Measurement], seconds: list[float]) -> Spread:
    scale = 1e9 if unit == "B" else 1e6
    return Spread.of(scale * used / one.units for one, used in zip(measured, seconds, strict=True))


def daemon_cpu(unit: str, measured: list[Measurement]) -> Spread | None:
    used = [one.daemon_cpu for one in measured if one.daemon_cpu is not None]
    return cpu_per_unit(unit, measured, used) if used else None
