"""statvfs(3) and st_blocks tell the truth."""

import os
from pathlib import Path

import pytest
from support.expect import opened, write_all, write_file
from support.mount import TestMount, wait_for

CREATE = os.O_RDWR | os.O_CREAT
MIB = 1 << 20


def synced_blocks(fd: int) -> int:
    os.fsync(fd)
    return os.fstat(fd).st_blocks


def test_block_size_is_the_alignment_of_o_direct(tree: Path) -> None:
    """LMCache takes f_bsize for its O_DIRECT alignment (DESIGN 6)."""
    volume = os.statvfs(tree)
    assert volume.f_bsize == 4096
    assert volume.f_frsize == 4096
    assert volume.f_namemax == 255
    with opened(tree / "file", CREATE) as fd:
        assert os.fstatvfs(fd).f_bsize == 4096


@pytest.mark.kvfs_only
def test_size_is_that_of_the_store(tree: Path) -> None:
    volume = os.statvfs(tree)
    size = volume.f_blocks * volume.f_frsize
    assert 0.8 * (2 << 30) <= size <= 2 << 30
    assert 0 < volume.f_bavail <= volume.f_bfree <= volume.f_blocks
    assert 0 < volume.f_ffree <= volume.f_files


@pytest.mark.kvfs_only
def test_used_grows_and_shrinks(tree: Path, kvfs_mount: TestMount) -> None:
    os.sync()
    before = os.statvfs(tree).f_bfree
    for index in range(16):
        write_file(tree / f"f{index}", os.urandom(4 * MIB))
    os.sync()
    blocks = 64 * MIB // 4096
    assert blocks <= before - os.statvfs(tree).f_bfree <= blocks * 1.25
    kvfs_mount.remount()
    assert blocks <= before - os.statvfs(tree).f_bfree <= blocks * 1.25
    for index in range(16):
        os.unlink(tree / f"f{index}")
    wait_for(lambda: before - os.statvfs(tree).f_bfree <= blocks * 0.1, "blocks of the unlinked files are free again")


@pytest.mark.kvfs_only
def test_files_in_use_are_counted(tree: Path) -> None:
    volume = os.statvfs(tree)
    used = volume.f_files - volume.f_ffree
    for index in range(100):
        write_file(tree / f"f{index}")
    volume = os.statvfs(tree)
    assert volume.f_files - volume.f_ffree == used + 100
    for index in range(100):
        os.unlink(tree / f"f{index}")
    wait_for(
        lambda: (now := os.statvfs(tree)).f_files - now.f_ffree == used, "count of files in use is back where it was"
    )


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 100_000, MIB])
def test_blocks_of_a_dense_file(tree: Path, size: int) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, os.urandom(size), 0)
        assert synced_blocks(fd) == -(-size // 4096) * 8
    assert os.stat(tree / "file").st_blocks == -(-size // 4096) * 8
    assert os.stat(tree / "file").st_blksize >= 4096


def test_blocks_before_the_data_is_on_the_device(tree: Path) -> None:
    """``du`` and evictors look right after the write: bytes on their way count too."""
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, os.urandom(MIB), 0)
        assert os.fstat(fd).st_blocks >= MIB // 512
    assert os.stat(tree / "file").st_blocks >= MIB // 512


def test_blocks_of_a_sparse_file(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        os.ftruncate(fd, 1 << 40)
        assert synced_blocks(fd) == 0
        write_all(fd, os.urandom(4096), 100 * MIB)
        assert synced_blocks(fd) == 8
        write_all(fd, os.urandom(8192), 1 << 39)
        assert synced_blocks(fd) == 24


def test_blocks_after_an_overwrite(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, os.urandom(MIB), 0)
        assert synced_blocks(fd) == MIB // 512
        for offset in (0, 4096, 5000, 512 * 1024 - 1):
            write_all(fd, os.urandom(10_000), offset)
        assert synced_blocks(fd) == MIB // 512


def test_blocks_after_truncate(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, os.urandom(MIB), 0)
        os.fsync(fd)
        os.ftruncate(fd, 10_000)
        assert synced_blocks(fd) == 24
        os.ftruncate(fd, MIB)
        assert synced_blocks(fd) == 24
        os.ftruncate(fd, 0)
        assert synced_blocks(fd) == 0


def test_blocks_outlive_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, os.urandom(12_345), 77 * MIB)
        before = synced_blocks(fd)
    kvfs_mount.remount()
    assert os.stat(tree / "file").st_blocks == before
