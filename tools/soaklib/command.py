"""``tools/soak``: the store, the mount, the clients, and the verdict."""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from benchlib.system import run_command
from benchlib.targets import Kvfs
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kvfs.errors import KvfsError
from kvfs.units import format_size, parse_size
from soaklib.clients import STYLES, Counts
from soaklib.content import SoakError
from soaklib.crew import Crew
from soaklib.flat import Trend, trend

_SAMPLE = 1.0  # s
_WARM_UP = 0.3  # of the time, and until the store is full: what is filled for the first time grows
_MEMORY_SHARE, _MEMORY_LEAST = 0.05, float(12 << 20)  # of the mean; bytes
_FILES_SHARE, _FILES_LEAST = 0.05, 8.0
_FSCK_TIMEOUT = 600.0  # s
_PROBLEM = re.compile(r"\b(WARNING|ERROR|CRITICAL|Traceback)\b")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long the clients work.")] = 60.0,
    size: Annotated[str, typer.Option(help="Of the store, made for this.")] = "4G",
    full: Annotated[float, typer.Option(help="Percent of the store that clients fill.", min=10, max=99)] = 95.0,
    clients: Annotated[int, typer.Option(help="Processes of each style.", min=1)] = 1,
    work: Annotated[Path | None, typer.Option(help="A directory for store and mount; a temporary one.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="For kvfs mount, as in --option=--data-path=pyfuse3.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what the clients choose.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON on standard output.")] = False,
) -> None:
    """Clients in the styles of real engines on a store that is nearly full; every byte that is read is verified.

    Ends with an error for wrong or missing bytes, for any error that a client meets, for a warning in the daemon's log,
    for memory or descriptors of the daemon that grow, and for a store that fsck does not find clean afterwards.
    """
    console = Console(stderr=True)
    place = Path(tempfile.mkdtemp(prefix="kvfs-soak-", dir=work))
    try:
        verdict = _run(place, minutes * 60, parse_size(size), full / 100, clients, tuple(option or ()), seed, console)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if as_json:
        print(json.dumps(verdict, indent=2))
    else:
        _print(verdict, console)
    if verdict["problems"]:
        raise typer.Exit(1)


def _run(
    place: Path,
    seconds: float,
    size: int,
    full: float,
    clients: int,
    options: tuple[str, ...],
    seed: int,
    console: Console,
) -> dict[str, Any]:
    binaries = Path(sys.executable).parent
    log = place / "soak.log"
    mount = Kvfs("soak", binaries / "kvfs", place, size, [word for text in options for word in text.split("=", 1)])
    problems: list[str] = []
    memory: list[tuple[float, float]] = []
    files: list[tuple[float, float]] = []
    fullest = 0.0
    stats: dict[str, Any] = {}
    try:
        mount.mount()
        (daemon,) = mount.pids()[:1]
        with (
            Crew([style for style in STYLES for _ in range(clients)], mount.root, full, seed) as crew,
            _progress(console) as progress,
        ):
            bar = progress.add_task("", total=seconds, said="filling")
            begin = time.monotonic()
            try:
                while (spent := time.monotonic() - begin) < seconds:
                    crew.listen(min(_SAMPLE, seconds - spent))
                    status = os.statvfs(mount.root)
                    used = 1 - status.f_bfree / status.f_blocks
                    fullest = max(fullest, used)
                    if crew.store_was_full() and spent > _WARM_UP * seconds:
                        memory.append((spent, float(_anonymous_bytes(daemon))))
                        files.append((spent, float(_descriptors(daemon))))
                    progress.update(bar, completed=spent, said=_said(crew.counts(), used))
                crew.stop()
            except (KvfsError, OSError) as error:
                problems.append(str(error))
            counts, by_style = crew.counts(), crew.by_style()
        try:
            stats = json.loads((mount.root / ".kvfs" / "stats").read_text())
            mount.umount()
            problems += _fsck(binaries, mount.store)
        except (KvfsError, OSError) as error:  # of a mount that hangs: the problem that comes first is the reason
            problems.append(str(error))
    finally:
        problems += [line for line in _lines(log) if _PROBLEM.search(line)]
        mount.close()
    trends = _trends(memory, files, problems)
    if fullest < full - 0.02:
        problems.append(f"expected the store to be {full:.0%} full, found {fullest:.0%} at most; give it more time")
    return {
        "seconds": seconds,
        "store_bytes": size,
        "fullest": round(fullest, 4),
        "counts": asdict(counts),
        "by_client": {name: asdict(each) for name, each in by_style.items()},
        **{name: {**asdict(each), "is_flat": each.is_flat} for name, each in trends.items()},
        "requests": stats.get("requests_total", {}),
        "problems": problems,
    }


def _trends(
    memory: list[tuple[float, float]], files: list[tuple[float, float]], problems: list[str]
) -> dict[str, Trend]:
    if len(memory) < 3:
        problems.append("the store was not full long enough for memory and descriptors to be judged; give it more time")
        return {}
    found = {
        "memory": trend(memory, _MEMORY_SHARE, _MEMORY_LEAST),
        "descriptors": trend(files, _FILES_SHARE, _FILES_LEAST),
    }
    for name, each in found.items():
        if not each.is_flat:
            problems.append(
                f"{name}: expected to grow by {each.bound:,.0f} at most in {each.seconds:.0f} s, "
                f"found {each.growth:,.0f}"
            )
    return found


def _anonymous_bytes(pid: int) -> int:
    """Resident memory of its own: what is shared (the warm tier, a memfd) has a budget of its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert match is not None, "no RssAnon"
    return int(match[1]) << 10


def _descriptors(pid: int) -> int:
    """Without those of the warm tier, a file without a name for each page: how many is a matter of its budget."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the listing
            count += not str(link.readlink()).endswith(" (deleted)")
    return count


def _fsck(binaries: Path, store: Path) -> list[str]:
    try:
        run_command([str(binaries / "kvfsctl"), "fsck", str(store)], _FSCK_TIMEOUT)
    except KvfsError as error:
        return [str(error)]
    return []


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _progress(console: Console) -> Progress:
    return Progress(BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"), console=console)


def _said(counts: Counts, used: float) -> str:
    return (
        f"{used:.0%} full, {format_size(counts.bytes_written)} written, {format_size(counts.bytes_verified)} verified, "
        f"{counts.misses} evicted, {counts.removed} removed, {counts.refused} refused"
    )


def _print(verdict: dict[str, Any], console: Console) -> None:
    counts = Counts(**verdict["counts"])
    console.print(f"{verdict['seconds']:.0f} s: {_said(counts, verdict['fullest'])} ({counts.reads} reads)")
    if "memory" in verdict:
        memory, files = verdict["memory"], verdict["descriptors"]
        console.print(
            f"memory {format_size(int(memory['mean']))}, growth {format_size(int(memory['growth']))} of "
            f"{format_size(int(memory['bound']))} allowed in {memory['seconds']:.0f} s; "
            f"descriptors {files['mean']:.0f}, growth {files['growth']:.1f} of {files['bound']:.0f}"
        )
    for problem in verdict["problems"]:
        console.print(f"soak: {problem}", style="red", highlight=False, markup=False)
    if not verdict["problems"]:
        console.print("no error")


def main() -> None:
    try:
        app()
    except SoakError as error:
        sys.exit(f"soak: {error}")
