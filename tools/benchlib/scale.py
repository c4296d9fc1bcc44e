"""A million small files: what they cost in memory, how fast a killed mount is back, how fast ``ls`` is.

Memory is the resident memory (VmRSS) of the daemon and its children, beyond that of the same mount when it was empty,
per file; with 64-character names.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchlib import system
from benchlib.bench import Bench
from benchlib.system import BenchError
from benchlib.targets import Directory, Kvfs
from benchlib.workloads import FileSet
from kvfs.units import format_size

_PER_DIRECTORY = 100_000
_CHECKED = 2_000  # files read back after the recovery, spread over all
_ROOM = 8192  # store bytes per file of 4 KiB: data, its log record, and twice the metadata for checkpoints
_NEEDED = 6144  # bytes per file on the disk, the peer's directory included
_SETTLED = 1.0  # s without a change of the resident memory
_PATIENCE = 60.0  # s for it to settle


@dataclass(frozen=True)
class ScaleFigure:
    """``value`` and the same of the peer, where it has one, in ``unit`` (B, B/file, s, files/s)."""

    name: str
    title: str
    value: float
    unit: str
    peer: float | None = None


def scale_steps(files: int) -> int:
    return -(-files // _PER_DIRECTORY) + 6


def run_scale(bench: Bench, files: int, step: Callable[[str], None]) -> list[ScaleFigure]:
    """``step(what)`` is called before each piece of work, :func:`scale_steps` times in all."""
    size = max(bench.options.store_size, files * _ROOM)
    need, free = files * _NEEDED, system.free_bytes(bench.work)
    if free < need:
        raise BenchError(f"{bench.work}: expected {format_size(need)} free, found {format_size(free)}")
    kvfs = Kvfs("scale", bench.options.kvfs_command, bench.work, size)
    try:
        return list(_run(bench, kvfs, files, step))
    finally:
        kvfs.close()


def _run(bench: Bench, kvfs: Kvfs, files: int, step: Callable[[str], None]) -> Iterator[ScaleFigure]:
    step("scale: an empty mount")
    kvfs.mount()
    empty = _settled(kvfs)
    yield ScaleFigure("empty_resident", "resident memory, empty mount", empty, "B")

    def per_file(name: str, when: str) -> ScaleFigure:
        return ScaleFigure(
            name, f"resident memory per file beyond that, {when}", (_settled(kvfs) - empty) / files, "B/file"
        )

    begin = time.monotonic()
    sets: list[tuple[Path, FileSet]] = []
    for first in range(0, files, _PER_DIRECTORY):
        step(f"scale: {first:,} of {files:,} files")
        some = bench.new_files(min(_PER_DIRECTORY, files - first), 4096)
        directory = kvfs.directory(f"d{len(sets)}")
        bench.publish(kvfs, directory, some, direct=False, durable=True)
        sets.append((directory, some))
    yield ScaleFigure("create_rate", "files created", files / (time.monotonic() - begin), "files/s")
    yield per_file("resident_written", "as written")
    system.drop_caches([])
    yield per_file("resident_forgotten", "kernel's caches dropped")

    step("scale: ls")
    peer = Directory("scale-peer", bench.work / "scale-peer")
    try:
        place = peer.directory("d0")
        bench.publish(peer, place, bench.new_files(sets[0][1].count, 4096), direct=False, durable=True)
        yield from _listings(sets[0][0], place, sets[0][1].count)
    finally:
        peer.close()

    step("scale: kill and recover")
    kvfs.kill()
    recovered = kvfs.mount()
    yield ScaleFigure("recovery", "mount after kill -9, until it answers", recovered, "s")
    yield per_file("resident_recovered", "recovered")
    step("scale: check")
    _check(bench, kvfs, sets)

    step("scale: clean remount")
    kvfs.umount()
    yield ScaleFigure("remount", "mount after a clean unmount", kvfs.mount(), "s")
    yield per_file("resident_remounted", "remounted")
    step("scale: an empty mount again")
    kvfs.umount()
    kvfs.store.unlink()
    yield ScaleFigure("mount_empty", "mount of a new store, for comparison", kvfs.mount(), "s")


def _settled(kvfs: Kvfs) -> float:
    """Resident bytes once they have stopped changing: the kernel's FORGETs arrive in their own time."""
    deadline = time.monotonic() + _PATIENCE
    seen, since = kvfs.resident(), time.monotonic()
    while time.monotonic() - since < _SETTLED and time.monotonic() < deadline:
        time.sleep(0.1)
        if (now := kvfs.resident()) != seen:
            seen, since = now, time.monotonic()
    return seen


def _listings(directory: Path, peer: Path, count: int) -> Iterator[ScaleFigure]:
    for name, title, command in (
        ("ls_f", f"ls -f of {count:,} names", ["ls", "-f"]),
        ("ls_l", f"ls -l of {count:,} names", ["ls", "-l"]),
    ):
        for suffix, when in (("first", "first time"), ("again", "again")):
            if suffix == "first":
                system.drop_caches([])
            ours, theirs = (_timed_ls(command, path, count) for path in (directory, peer))
            yield ScaleFigure(f"{name}_{suffix}", f"{title}, {when}", ours, "s", theirs)


def _timed_ls(command: list[str], directory: Path, count: int) -> float:
    begin = time.monotonic()
    done = subprocess.run([*command, str(directory)], capture_output=True, timeout=600, check=False)
    seconds = time.monotonic() - begin
    lines = done.stdout.count(b"\n")
    extra = 2 if command[1] == "-f" else 1  # . and .., or the line "total"
    if done.returncode != 0 or lines != count + extra:
        raise BenchError(
            f"{' '.join(command)} {directory}: expected {count + extra} lines, found {lines}", done.stderr.decode()
        )
    return seconds


def _check(bench: Bench, kvfs: Kvfs, sets: list[tuple[Path, FileSet]]) -> None:
    """All names are there, and files spread over all of them hold their own bytes."""
    for directory, files in sets:
        found = sum(1 for _ in directory.iterdir())
        if found != files.count:
            raise BenchError(f"{directory}: expected {files.count} files after the recovery, found {found}")
        sample = FileSet(files.first_id, min(files.count, _CHECKED // len(sets)), files.size)
        bench.read(kvfs, directory, sample, direct=False, check_all=True)
