"""What ``kvfsctl scrub`` does: has the daemon of a mount read and verify everything, and watches it.

The scrub is the daemon's: it goes on when this command is killed, and Ctrl-C pauses it. The position is kept by the
store, so whoever starts it again, after a remount too, goes on there.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from kvfs.cli.admin import ask
from kvfs.units import format_size

_INTERVAL = 0.25  # s between looks at a scrub that runs

State = Literal["running", "paused", "idle"]
Action = Literal["start", "pause", "cancel", "status"]


class ScrubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``state`` paused: the next start goes on. Counts are of this pass, or of the last one when idle.

    ``damaged``: checksummed units that did not verify; ``dropped``: files that had them; ``unreadable``: requests that
    the device failed. Times are ISO 8601, None when it never happened. ``rate``: bytes a second at most, 0: unlimited.
    """

    state: State
    files: int
    bytes: int
    expected_bytes: int
    damaged: int
    dropped: int
    unreadable: int
    rate: int
    started: str | None
    finished: str | None
    passes: int

    @property
    def is_clean(self) -> bool:
        return self.damaged == 0 and self.unreadable == 0


def command_scrub(mountpoint: Path, action: Action, rate: int) -> ScrubStatus:
    """Raises what :func:`kvfs.cli.admin.ask` does."""
    arguments = {"rate": rate} if action == "start" else {}
    found = ask(mountpoint, "scrub", action=action, **arguments)
    return ScrubStatus(
        state="running" if found["running"] else "paused" if found["next_inode"] else "idle",
        files=found["pass_files"],
        bytes=found["pass_bytes"],
        expected_bytes=found["expected_bytes"],
        damaged=found["pass_damaged"],
        dropped=found["pass_dropped"],
        unreadable=found["pass_unreadable"],
        rate=found["rate_bytes"],
        started=_time(found["started_ns"]),
        finished=_time(found["finished_ns"]),
        passes=found["passes_total"],
    )


def watch_scrub(mountpoint: Path, status: ScrubStatus) -> ScrubStatus:
    """Until it no longer runs, with a progress bar on a terminal; an interrupt pauses it."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task(escape(f"scrubbing {mountpoint}"), total=status.expected_bytes, completed=status.bytes)
        try:
            while status.state == "running":
                time.sleep(_INTERVAL)
                status = command_scrub(mountpoint, "status", 0)
                bar.update(task, total=status.expected_bytes, completed=status.bytes)
        except KeyboardInterrupt:
            status = command_scrub(mountpoint, "pause", 0)
    return status


def print_scrub(mountpoint: Path, status: ScrubStatus) -> None:
    match status.state:
        case "running":
            doing = f"running since {status.started}"
        case "paused":
            doing = f"paused; `kvfsctl scrub {mountpoint}` goes on"
        case _:
            doing = f"finished {status.finished}" if status.finished else "never run"
    print(f"{mountpoint}: scrub {doing}")
    if status.started is None:
        return
    done = f"{format_size(status.bytes)} of {format_size(status.expected_bytes)} in {status.files} files read"
    if status.is_clean:
        print(f"{done}, all of it as it was written")
        return
    print(
        f"{done}; {status.damaged} damaged checksummed unit{'' if status.damaged == 1 else 's'}, "
        f"{status.dropped} file{'' if status.dropped == 1 else 's'} dropped, "
        f"{status.unreadable} request{'' if status.unreadable == 1 else 's'} that the device failed; "
        "the mount's log names them"
    )


def _time(nanoseconds: int) -> str | None:
    if nanoseconds == 0:
        return None
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).astimezone().isoformat(sep=" ")
