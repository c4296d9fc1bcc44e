"""``kvfsctl evict`` and ``kvfsctl drain``: make room in a store that is mounted, least recently used files first.

The daemon does it (``kvfs.fs.eviction``); this asks how far it is, and tells it to stop when it is interrupted. Paths
go as inode numbers, each held by an O_PATH descriptor meanwhile: that keeps the number from becoming another file's,
and does not count as an open file, which would stay.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from kvfs.cli.admin import ask
from kvfs.cli.mounts import FSTYPE, Mount, kvfs_mount_at, mount_table
from kvfs.errors import KvfsError, NotMounted, UsageError
from kvfs.units import format_size, parse_size

_INTERVAL = 0.1  # s
_REASONS = {"open": "open", "being_written": "being written", "pinned": "pinned", "not_evictable": "set not evictable"}


@dataclass(frozen=True)
class Kept:
    """What stays, and why: a reason of ``_REASONS``."""

    reason: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Outcome:
    """``wanted_bytes``: how much was to go. ``used_files``: left alone because somebody used them meanwhile.

    ``free_bytes`` of ``size_bytes`` afterwards, without what is open and nameless.
    """

    dry_run: bool
    files: int
    bytes: int
    wanted_bytes: int
    kept: tuple[Kept, ...]
    used_files: int
    free_bytes: int
    size_bytes: int

    @property
    def is_complete(self) -> bool:
        return self.bytes >= self.wanted_bytes


def parse_share(text: str) -> float:
    """``80%`` as 0.8. UsageError when it is none, or not from 0 % to 100 %."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1
    if not text.endswith("%") or not 0 <= share <= 1:
        raise UsageError(f"expected a share of the store, found {text!r}", "write it as in 80%")
    return share


def evict(mountpoint: Path, paths: Sequence[Path], *, size: str | None, to: str | None, dry_run: bool) -> Outcome:
    """Until ``size`` is gone, or no more than ``to`` of the store is used, or, of ``paths``, nothing is left."""
    if size is not None and to is not None:
        raise UsageError("expected --bytes or --to, found both", "give one of them")
    if size is None and to is None and not paths:
        raise UsageError(
            "expected how much to evict, found nothing", "give --bytes, --to or PATHs; kvfsctl drain takes all"
        )
    mount = kvfs_mount_at(mountpoint)
    count = None if size is None else parse_size(size)
    if to is not None:
        total, free = _space(mount)
        count = max(0, total - free - int(total * parse_share(to)))
    return _run(mount, paths, count, dry_run)


def drain(path: Path, *, dry_run: bool) -> Outcome:
    """Everything at or below ``path`` that may go."""
    mount = _mount_of(path)
    resolved = Path(os.path.realpath(path))
    return _run(mount, () if resolved == mount.mountpoint else (resolved,), None, dry_run)


def print_outcome(outcome: Outcome) -> None:
    verb = "would be evicted" if outcome.dry_run else "evicted"
    print(f"{_count(outcome.files)}, {format_size(outcome.bytes)} {verb}")
    if not outcome.is_complete:
        print(f"{format_size(outcome.wanted_bytes - outcome.bytes)} less than was wanted: there is no more that may go")
    for kept in outcome.kept:
        print(f"{_count(kept.files)}, {format_size(kept.bytes)} stay: {_REASONS.get(kept.reason, kept.reason)}")
    if outcome.used_files:
        print(f"{_count(outcome.used_files)} stay: used meanwhile")
    print(f"{format_size(outcome.free_bytes)} of {format_size(outcome.size_bytes)} free")


def _count(files: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}"


def _run(mount: Mount, paths: Sequence[Path], count: int | None, dry_run: bool) -> Outcome:
    console = Console(stderr=True)
    with ExitStack() as held:
        roots = [_hold(path, mount, held) for path in paths]
        ask(mount.mountpoint, "evict", roots=roots, bytes=count, dry_run=dry_run)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        try:
            with bar:
                said = _watch(mount, bar)
        except BaseException:
            with contextlib.suppress(KvfsError):  # why this fails counts, not that it cannot be stopped any more
                ask(mount.mountpoint, "evict-stop")
            raise
    total, free = _space(mount)
    return Outcome(
        dry_run=dry_run,
        files=said["files"],
        bytes=said["bytes"],
        wanted_bytes=said["wanted_bytes"],
        kept=tuple(Kept(reason, each["files"], each["bytes"]) for reason, each in said["kept"].items()),
        used_files=said["used_files"],
        free_bytes=free,
        size_bytes=total,
    )


def _watch(mount: Mount, bar: Progress) -> dict[str, Any]:
    """The job's last word."""
    task = bar.add_task("looking", total=None)
    while True:
        said: dict[str, Any] = ask(mount.mountpoint, "evict-progress")
        if said["looked"] < said["to_look"] or not said["wanted_bytes"]:
            bar.update(task, description="looking", total=None)
        else:
            bar.update(task, description="evicting", total=said["wanted_bytes"], completed=said["bytes"])
        if said["done"]:
            return said
        time.sleep(_INTERVAL)


def _space(mount: Mount) -> tuple[int, int]:
    """Bytes of the store, and how many of them are free."""
    found = os.statvfs(mount.mountpoint)
    return found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize


def _hold(path: Path, mount: Mount, held: ExitStack) -> int:
    """The inode number of ``path``, which has to be in ``mount``."""
    if _mount_of(path).ident != mount.ident:
        raise UsageError(f"{path}: expected a path below {mount.mountpoint}", "name what is in that mount")
    try:
        fd = os.open(os.path.realpath(path), os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise KvfsError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    held.callback(os.close, fd)
    return os.fstat(fd).st_ino


def _mount_of(path: Path) -> Mount:
    """The kvfs mount that ``path`` lies in; NotMounted when it is in none."""
    resolved = Path(os.path.realpath(path))
    inside = [mount for mount in reversed(mount_table()) if resolved.is_relative_to(mount.mountpoint)]
    over = max(inside, key=lambda mount: len(mount.mountpoint.parts), default=None)
    if over is None or over.fstype != FSTYPE:
        raise NotMounted(
            f"{path}: expected a path in a kvfs mount, found one in {over.fstype if over else 'none'}",
            "name a mountpoint, or something below one",
        )
    return over
