"""truncate(2) and sparse files: what was cut off never comes back, what was never written is zeros."""

import errno
import os
from pathlib import Path

import pytest
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.mount import TestMount

CREATE = os.O_RDWR | os.O_CREAT
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
EDGES = [0, 1, 511, 4095, 4096, 4097, 8191, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB - 1, MIB, MIB + 1]


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("durable", [False, True], ids=["dirty", "synced"])
def test_stale_bytes_never_come_back(tree: Path, size: int, durable: bool) -> None:
    data = pattern(MIB + 4096 + 5)
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, data, 0)
        if durable:
            os.fsync(fd)
        os.ftruncate(fd, size)
        assert os.fstat(fd).st_size == size
        assert os.pread(fd, len(data), 0) == data[:size]
        if durable:
            os.fsync(fd)
        os.ftruncate(fd, len(data))
        assert os.pread(fd, len(data) + 1, 0) == data[:size] + bytes(len(data) - size)
    assert read_file(tree / "file") == data[:size] + bytes(len(data) - size)


@pytest.mark.parametrize("size", [1, 4095, 4097, 256 * KIB + 1, MIB - 1])
def test_stale_bytes_do_not_come_back_by_a_write_beyond(tree: Path, size: int) -> None:
    data = pattern(MIB)
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, data, 0)
        os.fsync(fd)
        os.ftruncate(fd, size)
        write_all(fd, b"far", 2 * MIB)
        assert os.pread(fd, 3 * MIB, 0) == data[:size] + bytes(2 * MIB - size) + b"far"


def test_stale_bytes_do_not_come_back_after_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    data = pattern(300 * KIB)
    for size in (5, 4096, 5000, 256 * KIB + 7):
        write_file(tree / str(size), data)
        os.truncate(tree / str(size), size)
    kvfs_mount.remount()
    for size in (5, 4096, 5000, 256 * KIB + 7):
        os.truncate(tree / str(size), len(data))
        assert read_file(tree / str(size)) == data[:size] + bytes(len(data) - size)
    kvfs_mount.remount()
    for size in (5, 4096, 5000, 256 * KIB + 7):
        assert read_file(tree / str(size)) == data[:size] + bytes(len(data) - size)


def test_down_and_up_while_two_handles_are_open(tree: Path) -> None:
    with opened(tree / "file", CREATE) as first, opened(tree / "file", os.O_RDWR) as second:
        write_all(first, b"a" * 10_000, 0)
        os.ftruncate(second, 5000)
        write_all(first, b"b" * 10, 9990)
        assert os.pread(second, 20_000, 0) == b"a" * 5000 + bytes(4990) + b"b" * 10
        os.truncate(tree / "file", 0)
        assert os.pread(first, 100, 0) == b""
        write_all(first, b"c", 4096)
        assert os.pread(second, 5000, 0) == bytes(4096) + b"c"


def test_every_size_downwards(tree: Path) -> None:
    data = pattern(9000)
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, data, 0)
        for size in range(len(data) - 1, 0, -101):
            os.ftruncate(fd, size)
            assert os.pread(fd, len(data), 0) == data[:size]


def test_by_path_and_by_descriptor(tree: Path) -> None:
    write_file(tree / "file", b"0123456789")
    os.truncate(tree / "file", 4)
    assert read_file(tree / "file") == b"0123"
    os.symlink("file", tree / "link")
    os.truncate(tree / "link", 6)
    assert read_file(tree / "file") == b"0123\0\0"


def test_truncate_names_what_is_wrong(tree: Path) -> None:
    write_file(tree / "file", b"x")
    os.mkdir(tree / "directory")
    os.mkfifo(tree / "fifo")
    with raises(errno.ENOENT):
        os.truncate(tree / "absent", 0)
    with raises(errno.EISDIR):
        os.truncate(tree / "directory", 0)
    with raises(errno.ENOTDIR):
        os.truncate(tree / "file" / "below", 0)
    with raises(errno.EINVAL):
        os.truncate(tree / "fifo", 0)
    with raises(errno.EINVAL):
        os.truncate(tree / "file", -1)
    with opened(tree / "file", os.O_RDONLY) as fd, raises(errno.EINVAL):
        os.ftruncate(fd, 0)
    assert read_file(tree / "file") == b"x"


def test_sparse_file_of_one_tebibyte(tree: Path, kvfs_mount: TestMount) -> None:
    """As FlexKV and SGLang's hf3fs make them (DESIGN 6): ftruncate first, then pwrite anywhere."""
    places = [0, 1, 4096 - 3, GIB, 37 * GIB + 12_345, 512 * GIB - 1, TIB - 5000, TIB - 3]
    with opened(tree / "file", CREATE) as fd:
        os.ftruncate(fd, TIB)
        for index, place in enumerate(places):
            write_all(fd, bytes([index + 1]) * 3, place)
        os.fsync(fd)
    kvfs_mount.remount()
    with opened(tree / "file", os.O_RDONLY) as fd:
        status = os.fstat(fd)
        assert status.st_size == TIB
        assert status.st_blocks * 512 <= 2 * len(places) * 256 * KIB
        assert os.pread(fd, 8, 0) == b"\1\2\2\2\0\0\0\0"
        for index, place in enumerate(places[2:], start=3):
            assert os.pread(fd, 3, place) == bytes([index]) * 3
        assert os.pread(fd, MIB, 100 * GIB) == bytes(MIB)
        assert os.pread(fd, 10, TIB - 4) == b"\0" + bytes([len(places)]) * 3
        assert os.pread(fd, 10, TIB) == b""


def test_write_that_ends_at_one_tebibyte_without_a_size_set_first(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, b"last", TIB - 4)
        assert os.fstat(fd).st_size == TIB
        os.ftruncate(fd, TIB - 2)
        assert os.pread(fd, 10, TIB - 5) == b"\0la"
        os.ftruncate(fd, 0)
        assert os.pread(fd, 10, 0) == b""
