"""What ``kvfsctl format``, ``info`` and ``fsck`` do and print."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kvfs.errors import ForeignData, UsageError
from kvfs.store import volume
from kvfs.store.signatures import Content, probe
from kvfs.store.volume import FsckReport, VolumeInfo
from kvfs.units import format_size


def format_stores(
    stores: Sequence[Path], *, size: int | None, segment_size: int, label: str, force: Sequence[str]
) -> list[VolumeInfo]:
    """Make each of ``stores`` an empty volume; ``force`` names those that may hold something.

    UsageError when a name comes twice or ``force`` names another; then what ``volume.create`` raises. What holds
    something is found before the first store is made; another failure leaves those made before it.
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
    for store, path in zip(stores, resolved, strict=True):
        if len(stores) > 1 and path not in forced and path.exists():
            found = probe(path)
            if found.content is not Content.EMPTY:
                raise ForeignData(
                    f"{store}: expected nothing on it, found {found.description}", f"--force {store} destroys that"
                )
    return [
        volume.create(
            str(store),
            size,
            segment_size=segment_size,
            label=label,
            force=str(store) if path in forced else None,
        )
        for store, path in zip(stores, resolved, strict=True)
    ]


def check_store(store: Path, *, verify_data: bool) -> FsckReport:
    """fsck with a progress bar on standard error, where that is a terminal."""
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
        task = bar.add_task(escape(f"checking {store}"), total=None)
        return volume.fsck(store, lambda done, total: bar.update(task, completed=done, total=total), verify_data)


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


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).astimezone().isoformat(sep=" ")
