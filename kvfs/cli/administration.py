"""What ``kvfsctl format``, ``info`` and ``fsck`` do and print."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kvfs.cli.stores import OpenStore, opened_as_named
from kvfs.errors import KvfsError, UsageError
from kvfs.store import volume
from kvfs.store.volume import FsckReport, RepairReport, VolumeInfo
from kvfs.units import format_size


def format_stores(
    names: Sequence[str],
    *,
    size: int | None,
    segment_size: int,
    label: str,
    force: Sequence[str],
    config: Path | None = None,
) -> list[VolumeInfo]:
    """Make each of the stores an empty volume; ``force`` names those that may hold something, as ``names`` do.

    UsageError when a name comes twice or ``force`` names another; then what ``volume.create`` raises. All of them are
    checked before the first is made. When one fails nevertheless, what was made before it is undone, but for devices
    and for what ``force`` gave up, which the error names.
    """
    with ExitStack() as stack:
        stores = [stack.enter_context(opened_as_named(name, config)) for name in names]
        resolved = [store.path.resolve() for store in stores]
        for index, path in enumerate(resolved):
            if path in resolved[:index]:
                raise UsageError(f"expected different stores, found {names[index]} twice", "name each once")
        forced = {_forced(name, stores): name for name in force}
        for path, name in forced.items():
            if path not in resolved:
                raise UsageError(
                    f"expected --force to name a store to format, found {name}", f"stores: {', '.join(names)}"
                )
        wanted = [
            _Wanted(store, path, str(store.path) if path in forced else None)
            for store, path in zip(stores, resolved, strict=True)
        ]
        return _format(wanted, size, segment_size, label)


class _Wanted(NamedTuple):
    """``resolved``: its path without symbolic links. ``force``: its path, when what it holds may go."""

    store: OpenStore
    resolved: Path
    force: str | None


def _forced(name: str, stores: Sequence[OpenStore]) -> Path:
    return next((store.path for store in stores if store.name == name), Path(name)).resolve()


def _format(wanted: Sequence[_Wanted], size: int | None, segment_size: int, label: str) -> list[VolumeInfo]:
    if len(wanted) > 1:
        for store, _, force in wanted:
            volume.check_create(str(store.path), size, segment_size=segment_size, label=label, force=force)
    made: list[VolumeInfo] = []
    undo: list[tuple[Path, int | None]] = []
    lasting: list[str] = []
    try:
        for store, path, force in wanted:
            old_size = path.stat().st_size if path.exists() else None
            is_undone = not path.is_block_device() and force is None
            found = volume.create(str(store.path), size, segment_size=segment_size, label=label, force=force)
            made.append(msgspec.structs.replace(found, path=store.name))
            if is_undone:
                undo.append((path, old_size))
            else:
                lasting.append(store.name)
    except BaseException as error:
        for path, old_size in undo:
            volume.unmake_file(path, old_size)
        if lasting and isinstance(error, KvfsError):
            left = f"formatted before that: {', '.join(lasting)}"
            raise type(error)(error.message, f"{error.hint}; {left}" if error.hint else left) from error
        raise
    return made


def describe_store(name: str, config: Path | None) -> VolumeInfo:
    """As its superblocks do."""
    with opened_as_named(name, config) as store:
        return msgspec.structs.replace(volume.info(store.path), path=store.name)


def check_store(name: str, config: Path | None, *, verify_data: bool) -> FsckReport:
    """fsck with a progress bar on standard error, where that is a terminal."""
    with opened_as_named(name, config) as store, _progress(f"checking {name}") as tell:
        return msgspec.structs.replace(volume.fsck(store.path, tell, verify_data), path=store.name)


def repair_store(name: str, config: Path | None, *, verify_data: bool) -> RepairReport:
    """fsck --repair, with a progress bar for the check."""
    with opened_as_named(name, config) as store, _progress(f"checking {name}") as tell:
        found = volume.repair(store.path, tell, verify_data)
        before, after = (msgspec.structs.replace(report, path=store.name) for report in (found.before, found.after))
        return msgspec.structs.replace(found, path=store.name, before=before, after=after)


@contextmanager
def _progress(text: str) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task(escape(text), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_volume(found: VolumeInfo) -> None:
    rows = [
        ("store", f"{found.path} ({found.kind}, {format_size(found.device_size)})"),
        ("format", f"KVFS{found.format_version}"),
        ("uuid", found.uuid),
        ("label", found.label or "-"),
        ("size", f"{format_size(found.size)} ({found.segments} segments of {format_size(found.segment_size)})"),
        ("created", _time(found.created_ns)),
        ("epoch", str(found.epoch)),
        ("state", "closed in order" if found.clean else "mounted, or not closed in order: the next mount recovers"),
        *([("taken over", found.claimed)] if found.claimed else []),
        ("last mount", ", ".join(f"{key} {value}" for key, value in found.owner.items()) or "none yet"),
    ]
    rows += [
        (f"superblock {copy.copy}", f"at byte {copy.offset}: {'valid' if copy.valid else copy.problem}")
        for copy in found.superblocks
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)


def print_report(report: FsckReport) -> None:
    print(
        f"{report.path}: {report.files} files, {report.directories} directories, {format_size(report.bytes)} in "
        f"{report.extents} extents, {report.segments} segments, {report.log_frames} log frames"
    )
    for problem in report.problems:
        print(f"{problem.kind} at {problem.where}: {problem.detail}")
    hidden = report.problem_count - len(report.problems)
    if hidden > 0:
        print(f"and {hidden} more")
    print("clean" if report.clean else f"{report.problem_count} problem{'' if report.problem_count == 1 else 's'}")


def print_repair(report: RepairReport) -> None:
    print_report(report.before)
    if report.before.clean:
        return
    print("repair:")
    for line in report.done:
        print(f"  {line}")
    if report.after.clean:
        print("repaired")
        return
    for problem in report.after.problems:
        print(f"left: {problem.kind} at {problem.where}: {problem.detail}")


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).astimezone().isoformat(sep=" ")
