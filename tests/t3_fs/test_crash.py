"""The daemon is killed under writers: what they had made durable is there and whole, nothing is torn.

Each page name belongs to one writer, which replaces it by ever higher versions: tmp, write, (fsync,) rename,
(fsync of the directory). After each step that promises something it sends a record through a pipe *after* the
call returned, so a record that arrived is a promise given. The parent kills the daemon when it has seen a
drawn number of records, wherever the writers are then, mounts again and checks:

- every page under its final name is whole, fsync or not (publish follows data);
- the version under a final name is at least the last one that was made durable (fsync of file and directory);
- a page that was fsynced under its tmp name is there, whole, under that name or its final one.
"""

import contextlib
import os
import random
import struct
from functools import partial
from pathlib import Path

import pytest
from support.direct import aligned
from support.expect import opened, read_file
from support.mount import KvfsMount, TestMount
from support.pages import make_page, page_version
from support.process import Child

WRITERS = 4
PAGES_PER_WRITER = 12
SIZES = (4096, 8192, 57_344 + 28, 256 * 1024, 1 << 20, (1 << 20) + 4096)
RECORD = struct.Struct("<BBIQ")  # kind, writer, page, version
SYNCED, RENAMED, DURABLE = 1, 2, 3

pytestmark = pytest.mark.kvfs_only


def page_name(writer: int, page: int) -> str:
    return f"w{writer}-p{page}"


def write_pages(tree: Path, reports: int, writer: int, first_version: int, draw: random.Random) -> None:
    """Replace pages until the mount dies under it."""

    def report(kind: int) -> None:
        os.write(reports, RECORD.pack(kind, writer, page, version))

    version = first_version
    try:
        while True:
            version += 1
            page = draw.randrange(PAGES_PER_WRITER)
            final = tree / page_name(writer, page)
            temporary = tree / f"{final.name}.tmp{version}"
            style = draw.choice(("buffered", "direct", "in pieces"))
            data = make_page(final.name, version, draw.choice(SIZES[:2] if style == "direct" else SIZES))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_DIRECT if style == "direct" else 0)
            synced = draw.random() < 0.6
            with opened(temporary, flags) as fd:
                pieces = 5 if style == "in pieces" else 1
                step = -(-len(data) // pieces)
                for offset in range(0, len(data), step):
                    piece = data[offset : offset + step]
                    assert os.pwrite(fd, aligned(piece), offset) == len(piece), "short write"
                if synced:
                    os.fsync(fd)
                    report(SYNCED)
            os.rename(temporary, final)
            report(RENAMED)
            if synced and draw.random() < 0.5:
                with opened(tree, os.O_RDONLY | os.O_DIRECTORY) as fd:
                    os.fsync(fd)
                report(DURABLE)
    except OSError:  # the mount died, which is how this ends; anything else shows as too few records
        return


def read_records(pipe: int, wanted: int | None) -> list[tuple[int, int, int, int]]:
    """``wanted`` records, or all that are left until the writers are gone."""
    found: list[tuple[int, int, int, int]] = []
    while wanted is None or len(found) < wanted:
        data = os.read(pipe, RECORD.size)
        if not data:
            assert wanted is None, f"the writers stopped by themselves after {len(found)} records"
            break
        found.append(RECORD.unpack(data))
    return found


def one_round(tree: Path, mount: KvfsMount, number: int) -> int:
    """Returns how many promises were checked."""
    draw = random.Random(f"crash-{number}")
    first_version = number * 1_000_000
    reading, writing = os.pipe()
    writers = [
        Child(partial(write_pages, tree, writing, writer, first_version, random.Random(f"{number}-{writer}")))
        for writer in range(WRITERS)
    ]
    os.close(writing)
    records = read_records(reading, draw.randrange(20, 150))
    mount.abort()
    records += read_records(reading, None)
    os.close(reading)
    for child in writers:
        child.result()
    mount.kill9()
    check(tree, records)
    return len(records)


def check(tree: Path, records: list[tuple[int, int, int, int]]) -> None:
    finals: dict[str, int] = {}
    for name in os.listdir(tree):
        if ".tmp" not in name:
            finals[name] = page_version(name, read_file(tree / name))
    for kind, writer, page, version in records:
        name = page_name(writer, page)
        found = finals.get(name, -1)
        if kind == DURABLE:
            assert found >= version, f"{name}: version {version} was durable, found {found}"
        elif kind == SYNCED and found < version:
            temporary = tree / f"{name}.tmp{version}"
            assert temporary.exists(), f"{name}: version {version} was fsynced and is under neither name"
            assert page_version(name, read_file(temporary)) == version
    for name in os.listdir(tree):
        if ".tmp" in name:
            os.unlink(tree / name)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.expects_log("recover|clean")
@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.ci)])
def test_killed_under_load(tree: Path, kvfs_mount: TestMount, rounds: int) -> None:
    assert isinstance(kvfs_mount, KvfsMount)
    for number in range(1, rounds + 1):
        assert one_round(tree, kvfs_mount, number) > 0


@pytest.mark.expects_log("recover|clean")
def test_killed_while_idle_after_sync_loses_nothing(tree: Path, kvfs_mount: TestMount) -> None:
    assert isinstance(kvfs_mount, KvfsMount)
    pages = {f"page{index}": make_page(f"page{index}", index, SIZES[index % len(SIZES)]) for index in range(30)}
    for name, data in pages.items():
        (tree / name).write_bytes(data)
    with opened(tree, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
    kvfs_mount.kill9()
    assert sorted(os.listdir(tree)) == sorted(pages)
    for name, data in pages.items():
        assert read_file(tree / name) == data


@pytest.mark.expects_log("recover|clean")
def test_space_of_files_that_were_open_and_unlinked_comes_back_after_a_kill(tree: Path, kvfs_mount: TestMount) -> None:
    assert isinstance(kvfs_mount, KvfsMount)
    before = os.statvfs(kvfs_mount).f_bfree
    fd = os.open(tree / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, os.urandom(64 << 20))
    os.fsync(fd)
    os.unlink(tree / "file")
    with opened(tree, os.O_RDONLY | os.O_DIRECTORY) as directory:
        os.fsync(directory)
    kvfs_mount.abort()
    with contextlib.suppress(OSError):  # the mount that this handle was of is dead
        os.close(fd)
    kvfs_mount.kill9()
    assert os.listdir(tree) == []
    # the log may have taken a segment or two (8 MiB each in a store of this size) meanwhile
    assert before - os.statvfs(kvfs_mount).f_bfree < (32 << 20) // 4096


@pytest.mark.expects_log("recover|clean")
def test_a_dead_mount_answers_with_an_error_and_umount_clears_it(tree: Path, kvfs_mount: TestMount) -> None:
    assert isinstance(kvfs_mount, KvfsMount)
    kvfs_mount.abort()
    with pytest.raises(OSError, match="not connected"):
        os.stat(tree)
    kvfs_mount.kill9()
    assert os.path.isdir(kvfs_mount)


@pytest.mark.expects_log("recover|clean")
def test_umount_clears_a_dead_mount_that_a_client_still_has_files_open_in(tree: Path, kvfs_mount: TestMount) -> None:
    """Engines hold descriptors when a daemon dies. Nothing is left to flush, so nothing is worth refusing for."""
    assert isinstance(kvfs_mount, KvfsMount)
    fd = os.open(tree / "file", os.O_RDWR | os.O_CREAT)
    try:
        kvfs_mount.kill9()
        assert os.path.isdir(kvfs_mount)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
