"""fsync(2) of files and directories, and that all of a tree is there after a clean remount."""

import os
import random
from functools import partial
from pathlib import Path

import pytest
from support.expect import opened, write_all, write_file
from support.mount import TestMount
from support.process import all_at_once
from support.tree import listing

CREATE = os.O_RDWR | os.O_CREAT


def test_fsync_and_fdatasync(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        os.fsync(fd)
        for index in range(10):
            write_all(fd, os.urandom(50_000), index * 49_999)
            (os.fsync if index % 2 else os.fdatasync)(fd)
        os.ftruncate(fd, 3)
        os.fsync(fd)


def test_fsync_of_a_descriptor_opened_for_reading(tree: Path) -> None:
    write_file(tree / "file", b"x")
    with opened(tree / "file", os.O_RDONLY) as fd:
        os.fsync(fd)


def test_fsync_of_directories(tree: Path) -> None:
    os.mkdir(tree / "d")
    with opened(tree / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
        write_file(tree / "d" / "file")
        os.fsync(fd)
        os.unlink(tree / "d" / "file")
        os.fdatasync(fd)
        os.rmdir(tree / "d")
        os.fsync(fd)


def test_fsync_of_an_unlinked_file(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, b"x" * 100_000, 0)
        os.unlink(tree / "file")
        os.fsync(fd)
        assert os.pread(fd, 10, 0) == b"x" * 10


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC], ids=["O_SYNC", "O_DSYNC"])
def test_synchronous_writes(tree: Path, flag: int) -> None:
    with opened(tree / "file", CREATE | flag) as fd:
        for index in range(5):
            write_all(fd, bytes([index]) * 10_000, index * 10_000)
    assert os.stat(tree / "file").st_size == 50_000


def test_processes_sync_one_file_and_many(tree: Path) -> None:
    write_file(tree / "shared")

    def worker(number: int) -> None:
        with opened(tree / "shared", os.O_RDWR) as shared, opened(tree / f"own{number}", CREATE) as own:
            for index in range(20):
                write_all(shared, bytes([number + 1]) * 1000, (index * 4 + number) * 1000)
                write_all(own, os.urandom(1000), index * 1000)
                os.fsync(shared)
                os.fsync(own)

    all_at_once([partial(worker, n) for n in range(4)])
    with open(tree / "shared", "rb") as file:
        for index in range(80):
            assert file.read(1000) == bytes([index % 4 + 1]) * 1000


def test_whole_tree_outlives_clean_remounts(tree: Path, kvfs_mount: TestMount) -> None:
    draw = random.Random(4)
    for index in range(300):
        directory = tree / f"d{draw.randrange(8)}" / f"e{draw.randrange(8)}"
        os.makedirs(directory, exist_ok=True)
        path = directory / f"f{index}"
        kind = draw.randrange(10)
        if kind == 0:
            os.symlink("s" * draw.randrange(1, 300), path)
        elif kind == 1:
            os.mkfifo(path)
        else:
            write_file(path, draw.randbytes(draw.choice([0, 1, 4095, 4096, 70_000])))
            os.chmod(path, draw.choice([0o600, 0o644, 0o755]))
        if kind == 2:
            os.link(path, tree / f"link{index}")
        if kind == 3:
            os.unlink(path)
        if kind == 4:
            os.rename(path, tree / f"moved{index}")
    before = listing(tree)
    assert len(before) > 250
    kvfs_mount.remount(drop_caches=os.geteuid() == 0)
    assert listing(tree) == before
    write_file(tree / "after", b"one more")
    kvfs_mount.remount()
    after = listing(tree)
    assert after.pop("after").size == 8
    assert after == before


def test_inode_numbers_outlive_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    for name in ("a", "b", "c"):
        write_file(tree / name)
    os.unlink(tree / "b")
    before = {name: os.stat(tree / name).st_ino for name in ("a", "c")}
    kvfs_mount.remount()
    assert {name: os.stat(tree / name).st_ino for name in ("a", "c")} == before
    write_file(tree / "new")
    assert os.stat(tree / "new").st_ino not in before.values()
