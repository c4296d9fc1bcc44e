"""``kvfsctl warm``: bring files into memory, say how much of them is there, or let go of them.

Each file is opened for reading as the caller, and asked about by ioctl on that descriptor: rights are those of
open(2). Files that the mount's warm tier does not take (too small, too large, or there is no tier) are warmed by
reading them, which leaves them in the kernel's page cache. O_DIRECT keeps the open itself from bringing anything in.
"""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from kvfs.cli.mounts import Mount, mount_of, mount_table
from kvfs.errors import KvfsError, one_line
from kvfs.fs import page_cache, warm
from kvfs.fs.warm import Warmth
from kvfs.units import format_size

_SHOWN_FAILURES = 20
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # s


class Action(StrEnum):
    WARM = "warm"
    CHECK = "check"
    EVICT = "evict"


@dataclass(frozen=True)
class File:
    """``size`` in bytes, as the walk found it."""

    path: Path
    size: int


@dataclass(frozen=True)
class Outcome:
    """``warm_bytes`` in memory when it was done; ``None``: the kernel does not tell. ``error``: one line, or empty."""

    size: int
    warm_bytes: int | None
    error: str = ""


@dataclass(frozen=True)
class Failure:
    path: str
    error: str


@dataclass
class Summary:
    """Counts in files and bytes. ``warm_files``: wholly in memory. ``unknown_files``: the kernel does not tell."""

    action: Action
    files: int = 0
    bytes: int = 0
    warm_files: int = 0
    warm_bytes: int = 0
    unknown_files: int = 0
    failed_files: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, path: Path, outcome: Outcome) -> None:
        self.files += 1
        self.bytes += outcome.size
        self.warm_bytes += outcome.warm_bytes or 0
        self.warm_files += outcome.warm_bytes is not None and outcome.warm_bytes >= outcome.size
        self.unknown_files += outcome.warm_bytes is None and not outcome.error
        if outcome.error:
            self.fail(str(path), outcome.error)

    def fail(self, path: str, error: str) -> None:
        self.failed_files += 1
        self.failures.append(Failure(path, one_line(error)))


def warm_paths(paths: Sequence[Path], action: Action, jobs: int) -> Summary:
    """Every regular file at or below ``paths``, ``jobs`` at a time, with a progress bar on a terminal.

    Symlinks are followed where they are named, not where they are found; other file systems below are left out.
    NotMounted when a path is not in a kvfs mount, KvfsError when it does not exist; what fails later is in the Summary.
    """
    table = mount_table()
    roots = [_root(path, table) for path in paths]
    summary = Summary(action)
    files = [file for root in roots for file in _walk(root, summary)]
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
        task = bar.add_task(_DOING[action], total=sum(file.size for file in files))
        _run(files, action, jobs, summary, lambda count: bar.advance(task, count))
    summary.failures.sort(key=lambda failure: failure.path)
    return summary


_DOING = {Action.WARM: "warming", Action.CHECK: "checking", Action.EVICT: "evicting"}


def print_summary(summary: Summary) -> None:
    share = f" ({summary.warm_bytes / summary.bytes:.0%})" if summary.bytes else ""
    print(
        f"{summary.warm_files} of {summary.files} file{'' if summary.files == 1 else 's'}, "
        f"{format_size(summary.warm_bytes)} of {format_size(summary.bytes)}{share} in memory"
    )
    if summary.unknown_files:
        print(f"{summary.unknown_files} more may be in the page cache: the kernel tells only who may write them")
    for failure in summary.failures[:_SHOWN_FAILURES]:
        print(f"{failure.path}: {failure.error}")
    if len(summary.failures) > _SHOWN_FAILURES:
        print(f"and {len(summary.failures) - _SHOWN_FAILURES} more")


def _root(path: Path, table: Sequence[Mount]) -> Path:
    """``path`` resolved."""
    resolved, _ = mount_of(path, table)
    try:
        found = resolved.stat()
    except OSError as error:
        raise KvfsError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise KvfsError(f"{path}: expected a file or a directory, found neither")
    return resolved


def _walk(root: Path, summary: Summary) -> Iterator[File]:
    """Regular files of one file system; a directory that cannot be read is a failure in ``summary``."""
    found = root.stat()
    if stat.S_ISREG(found.st_mode):
        yield File(root, found.st_size)
        return
    device = found.st_dev
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # unlinked since the listing
                        continue
                    if stat.S_ISREG(status.st_mode):
                        yield File(Path(entry.path), status.st_size)
                    elif stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                        pending.append(Path(entry.path))
        except OSError as error:
            summary.fail(str(directory), error.strerror or str(error))


def _run(files: Sequence[File], action: Action, jobs: int, summary: Summary, progress: Callable[[int], None]) -> None:
    """``files`` are taken from the front by ``jobs`` threads, which sit in system calls nearly all the time."""
    waiting = iter(files)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                file = next(waiting, None)
            if file is None:
                return
            try:
                outcome = _serve_patiently(file, action, progress)
            except FileNotFoundError:  # unlinked since the walk
                progress(file.size)
                continue
            except OSError as error:
                progress(file.size)
                outcome = Outcome(file.size, 0, _explain(error))
            with lock:
                summary.add(file.path, outcome)

    with ThreadPoolExecutor(max_workers=min(jobs, len(files)) or 1) as pool:
        for done in [pool.submit(work) for _ in range(min(jobs, len(files)))]:
            done.result()


def _serve_patiently(file: File, action: Action, progress: Callable[[int], None]) -> Outcome:
    """A file that changes while it is read, or whose last writer has just gone, is tried again, opened anew."""
    for pause in _PAUSES:
        try:
            return _serve(file, action, progress)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause)
    return _serve(file, action, progress)


def _serve(file: File, action: Action, progress: Callable[[int], None]) -> Outcome:
    fd = _open(file.path, os.O_DIRECT)
    try:
        report = _ask(fd, {Action.WARM: warm.WARM, Action.CHECK: warm.STATE, Action.EVICT: warm.EVICT}[action])
        size = os.fstat(fd).st_size
        if action is Action.EVICT:
            page_cache.drop(fd)
        if report is not None and report.warmth is Warmth.WARM:
            if action is Action.WARM and not report.passthrough:
                # who reads with O_DIRECT gets it out of the tier, who reads buffered out of the page cache
                _fill(file, size, progress)
            else:
                progress(file.size)
            # an evicted page goes when this descriptor, its last user, does
            return Outcome(size, 0 if action is Action.EVICT else report.warm_bytes)
        if action is Action.WARM:
            _fill(file, size, progress)
            return Outcome(size, size)
        progress(file.size)
        return Outcome(size, page_cache.cached_bytes(fd, size))
    finally:
        os.close(fd)


def _ask(fd: int, command: int) -> warm.Report | None:
    """``None`` where there is no warm tier."""
    try:
        return warm.ask(fd, command)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.ENOSYS):
            return None
        raise


def _fill(file: File, size: int, progress: Callable[[int], None]) -> None:
    fd = _open(file.path)
    try:
        page_cache.fill(fd, size, progress)
    finally:
        os.close(fd)


def _open(path: Path, flags: int = 0) -> int:
    """Without a new atime where that is allowed: some evict by it, and this is not the use that they mean."""
    flags |= os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC:
            return "no room in the warm tier: what is in it is in use, or memory is short"
        case errno.ESTALE:
            return "it is being written all the time"
        case _:
            return error.strerror or str(error)
