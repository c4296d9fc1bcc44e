"""``kvfs-replay``: the console script."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kvfs.cli.app import make_app, run
from kvfs.errors import UsageError
from kvfs.replay.traces import Arrivals, Format
from kvfs.units import parse_size

app = make_app("Play traces of LLM serving against kvfs.")


@app.command()
def cachesim(
    trace: Annotated[Path, typer.Option(metavar="FILE", help="A trace; JSON lines, may be gzipped.")],
    capacity: Annotated[
        list[str],
        typer.Option(metavar="SIZE", help="Of the cache: a share of the trace's blocks, as in 5%, or bytes."),
    ],
    policy: Annotated[
        str, typer.Option(metavar="NAME,...", help="kvfs, lru, s3fifo, arc, min, ideal.")
    ] = "kvfs,lru,s3fifo,arc,min,ideal",
    kind: Annotated[Format, typer.Option("--format", help="Of the trace.")] = Format.AUTO,
    sessions_per_hour: Annotated[
        float, typer.Option(min=1e-3, max=1e6, help="How often sessions start whose trace does not tell when.")
    ] = 100.0,
    seed: Annotated[int, typer.Option(help="Of the times at which they start.")] = 0,
    block_size: Annotated[str, typer.Option(metavar="SIZE", help="Of a block, for a capacity in bytes.")] = "2M",
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write JSON to FILE, or to standard output for -.")
    ] = None,
) -> None:
    """Simulate a cache with the store's eviction policy, beside others, over a trace.

    --capacity may be given several times, or several separated by commas.
    """
    from kvfs.replay.cachesim import parse_policies, print_report, simulate, write_json

    capacities = [part.strip() for text in capacity for part in text.split(",") if part.strip()]
    if not capacities:
        raise UsageError("expected a capacity, found none", "write it as in --capacity 5%")
    report = simulate(
        trace,
        list(dict.fromkeys(capacities)),
        parse_policies(policy),
        kind,
        Arrivals(sessions_per_hour, seed),
        parse_size(block_size),
    )
    if json != "-":
        print_report(report)
    if json is not None:
        write_json(report, json)


def main() -> NoReturn:
    run(app, "kvfs-replay")
