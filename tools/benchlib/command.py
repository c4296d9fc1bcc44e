"""The command line: options, what is refused, clean-up on any way out."""

import fnmatch
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchlib import notes, report, system, tables
from benchlib.bench import Bench, Options
from benchlib.callgrind import require_callgrind
from benchlib.cleaning import cleaning_steps, run_cleaning
from benchlib.fio import require_fio
from benchlib.loopcost import loop_cost_steps, run_loop_cost
from benchlib.rows import Row, all_rows
from benchlib.scale import run_scale, scale_steps
from benchlib.schedule import RowResult, run_row, steps
from benchlib.system import BenchError
from benchlib.workloads import supports_direct
from kvfs.cli.app import print_json, run
from kvfs.errors import UsageError
from kvfs.units import parse_size

_QUICK = {"rounds": 3, "data": "256M", "small_files": 4_000, "lookups": 20_000, "seconds": 1.0}
_FULL = {"rounds": 6, "data": "1G", "small_files": 20_000, "lookups": 100_000, "seconds": 3.0}
_LOOK = 0.5  # s that the machine is watched before anything is done

_TABLE_WIDTH = 200  # at least: the table takes what it needs

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Less data and fewer rounds: under 4 minutes.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds per row [6; 3 with --quick].")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Rows, as in 'cold-*'; repeatable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Only native, pyfuse3, raw, ext4 ...; repeatable.")] = None,
    list_rows: Annotated[bool, typer.Option("--list", help="Name the rows and do nothing.")] = False,
    scale: Annotated[bool, typer.Option("--scale", help="Instead: memory, recovery and ls of many files.")] = False,
    scale_files: Annotated[int, typer.Option(min=1000, max=10_000_000, help="Files for --scale.")] = 1_000_000,
    loop_cost: Annotated[
        bool, typer.Option("--loop-cost", help="Instead: microseconds and instructions of a 4 KiB request.")
    ] = False,
    cleaning: Annotated[
        bool, typer.Option("--cleaning", help="Instead: bytes to the device and stalls of a nearly full store.")
    ] = False,
    directory: Annotated[Path, typer.Option(help="On the disk to measure.")] = Path("/var/tmp"),
    store_size: Annotated[str, typer.Option(help="Size of each store.")] = "8G",
    data: Annotated[str | None, typer.Option(help="Bytes per row and round [1G; 256M with --quick].")] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Clients at once.")] = 4,
    request: Annotated[str, typer.Option(help="Bytes per read, on both sides.")] = "1M",
    kvfs: Annotated[Path | None, typer.Option(help="The kvfs command, by default the one beside Python.")] = None,
    json_to: Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Write JSON as well.")] = None,
) -> None:
    """Measure kvfs against fio on its own store, ext4, tmpfs and itself; print ratios of this one run."""
    defaults: dict[str, Any] = _QUICK if quick else _FULL
    options = Options(
        rounds=rounds or defaults["rounds"],
        threads=threads,
        request=parse_size(request),
        data=parse_size(data or defaults["data"]),
        store_size=parse_size(store_size),
        small_files=defaults["small_files"],
        lookups=defaults["lookups"],
        seconds=defaults["seconds"],
        kvfs_command=_find_kvfs(kvfs),
        targets=tuple(target or ()),
    )
    if scale + loop_cost + cleaning > 1:
        raise UsageError("expected one of --scale, --loop-cost and --cleaning, found several")
    if json_to not in (None, "-") and not Path(json_to).parent.is_dir():
        raise UsageError(f"--json {json_to}: expected a file in a directory that is there, found no such directory")
    console = Console(stderr=json_to == "-")
    console.width = max(console.width, _TABLE_WIDTH)  # a wrapped line keeps its figures, a narrower column does not
    with _work_directory(directory) as work, _bench(options, work) as context:
        rows = _select(all_rows(context), only)
        if list_rows:
            for row in rows:
                console.print(f"{row.name:18} {row.title}", highlight=False)
            return
        environment = {
            **system.describe(),
            "busy_cpus": system.busy_cpus(_LOOK),
            "file_system": system.filesystem_type(work),
            "cold": "drop_caches" if system.is_root() else "the pages of the files dropped",
        }
        console.print(notes.machine(environment), highlight=False, soft_wrap=True)
        for line in (*notes.missing(context), *notes.warnings(environment, [])):
            console.print(line, highlight=False, soft_wrap=True)
        results, figures, costs = [], [], []
        if scale:
            with _progress(scale_steps(scale_files)) as step:
                figures = run_scale(context, scale_files, step)
            console.print(tables.scale_table(figures, str(environment["file_system"])))
        elif cleaning:
            with _progress(cleaning_steps()) as step:
                figures = run_cleaning(context, step)
            console.print(tables.scale_table(figures, ""))
        elif loop_cost:
            require_callgrind()
            with _progress(loop_cost_steps(context)) as step:
                costs = run_loop_cost(context, step)
            console.print(tables.loop_table(costs))
        else:
            results = _measure(context, rows)
            console.print(notes.how_to_read(context, environment), highlight=False, soft_wrap=True)
            console.print(tables.row_table(results))
            for line in (notes.summary(results), *notes.warnings(environment, results)):
                console.print(line, highlight=False, soft_wrap=True)
        if json_to:
            value = report.as_json(context, environment, results, figures, costs)
            if json_to == "-":
                print_json(value)
            else:
                Path(json_to).write_text(json.dumps(value, indent=2) + "\n")


def _measure(context: Bench, rows: list[Row]) -> list[RowResult]:
    rounds = context.options.rounds
    with _progress(sum(steps(row, rounds) for row in rows)) as step:
        return [run_row(context, row, rounds, step) for row in rows]


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Yields what is called at the begin of each of ``total`` pieces of work, with what it is."""
    # no refresh thread: it would run beside what is measured, and be lost in the forked clients
    progress = Progress(
        TextColumn("{task.description:42}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), auto_refresh=False, transient=True,
    )  # fmt: skip
    with progress:
        yield _stepper(progress, progress.add_task("", total=total))


def _stepper(progress: Progress, task: Any) -> Callable[[str], None]:
    begun = 0

    def step(what: str) -> None:
        nonlocal begun
        progress.update(task, description=what, completed=begun)
        progress.refresh()
        begun += 1

    return step


def _select(rows: list[Row], patterns: list[str] | None) -> list[Row]:
    chosen = [row for row in rows if not patterns or any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]
    if not chosen:
        raise UsageError(
            f"--only: no row is called {' or '.join(patterns or [])}", f"rows: {', '.join(row.name for row in rows)}"
        )
    return chosen


def _find_kvfs(named: Path | None) -> Path:
    path = named or Path(sys.executable).parent / "kvfs"
    if shutil.which(path) is None:
        raise BenchError(
            f"expected the command {path}, found none", "run tools/quickstart --setup, or name it with --kvfs"
        )
    return path


@contextmanager
def _work_directory(parent: Path) -> Iterator[Path]:
    """A fresh directory on a disk, removed unless something is still mounted below it."""
    if not parent.is_dir():
        raise UsageError(f"--directory {parent}: expected a directory", "name one on the disk to measure")
    kind = system.filesystem_type(parent)
    if kind == "tmpfs":
        raise UsageError(
            f"--directory {parent}: expected a disk, found tmpfs", "name a directory on the disk to measure"
        )
    work = Path(tempfile.mkdtemp(prefix="kvfs-bench-", dir=parent.resolve()))
    try:
        if not supports_direct(work):
            raise BenchError(f"--directory {parent}: expected a file system with O_DIRECT, {kind} has none here")
        yield work
    finally:
        left = [point for point, _ in system.mounts() if Path(point).is_relative_to(work)]
        if left:
            print(f"bench: {left[0]} is still mounted; unmount it, then remove {work}", file=sys.stderr)
        else:
            shutil.rmtree(work)


@contextmanager
def _bench(options: Options, work: Path) -> Iterator[Bench]:
    """A Bench that is taken down undisturbed: a second Ctrl-C does not leave mounts behind."""
    require_fio()
    context = Bench(options, work)
    try:
        yield context
    finally:
        previous = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
        context.close()
        for number, handler in previous:
            signal.signal(number, handler)


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, _terminated)
    run(app, "tools/bench")
