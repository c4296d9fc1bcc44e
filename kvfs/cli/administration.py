"""What ``kvfsctl format``, ``info`` and ``fsck`` do and print."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kvfs.errors import KvfsError, UsageError
from kvfs.store import volume
from kvfs.store.volume import FsckReport, RepairReport, VolumeInfo
from kvfs.units import format_size


def format_stores(
    stores: Sequence[Path], *, size: int | None, segment_size: int, label: str, force: Sequence[str]
) -> list[VolumeInfo]:
    """Make each of ``stores`` an empty volume; ``force`` names those that may hold something.

    UsageError when a name comes twice or ``force`` names another; then what ``volume.create`` raises. All of them are
    checked before the first is made. When one fails nevertheless, what was made before it is undone, but for devices
    and for what ``force`` gave up, which the error names.
    """
    resolved = [store.resolve() for store in stores]
    for index, store in enumerate(resolved):
        if store in resolved[:index]:
            raise UsageError(f"expected different stores, found {stores[index]} twice", "name each once")
    forced = {Path(name).resolve(): name for name in force}
    for path, name in forced.items():
        if path not in resolved:
            raise UsageError(
                f"expected --force to name a store to format, found {name}",
                f"stores: {', '.join(map(str, stores))}",
            )
    forces = [str(store) if path in forced else None for store, path in zip(stores, resolved, strict=True)]
    if len(stores) > 1:
        for store, may_go in zip(stores, forces, strict=True):
            volume.check_create(str(store), size, segment_size=segment_size, label=label, force=may_go)
    made: list[VolumeInfo] = []
    undo: list[tuple[Path, int | None]] = []
    lasting: list[Path] = []
    try:
        for store, path, may_go in zip(stores, resolved, forces, strict=True):
            old_size = path.stat().st_size if path.exists() else None
            is_undone = not path.is_block_device() and may_go is None
            made.append(volume.create(str(store), size, segment_size=segment_size, label=label, force=may_go))
            if is_undone:
                undo.append((path, old_size))
            else:
                lasting.append(store)
    except BaseException as error:
        for path, old_size in undo:
            volume.unmake_file(path, old_size)
        if lasting and isinstance(error, KvfsError):
            left = f"formatted before that: {', '.join(map(str, lasting))}"
            raise type(error)(error.message, f"{error.hint}; {left}" if error.hint else left) from error
        raise
    return made


def check_store(store: Path, *, verify_data: bool) -> FsckReport:
    """fsck with a progress bar on standard error, where that is a terminal."""
    with _progress(f"checking {store}") as tell:
        return volume.fsck(store, tell, verify_data)


def repair_store(store: Path, *, verify_data: bool) -> RepairReport:
    """fsck --repair, with a progress bar for the check."""
    with _progress(f"checking {store}") as tell:
        return volume.repair(store, tell, verify_data)


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
