"""O_DIRECT: aligned reads and writes, at block borders and the end of the file, together with buffered handles."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from support.direct import aligned, direct_read
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.mount import TestMount

CREATE = os.O_RDWR | os.O_CREAT
MIB = 1 << 20
ALIGNMENTS = [512, 4096]


def test_one_write_rename_one_read(tree: Path, kvfs_mount: TestMount) -> None:
    """vLLM's FS tier (DESIGN 6)."""
    pages = {f"page{size}": os.urandom(size) for size in (4096, 64 * 1024, MIB, 2 * MIB, 32 * MIB)}

    def check() -> None:
        for name, data in pages.items():
            with opened(tree / name, os.O_RDONLY | os.O_DIRECT) as fd:
                assert direct_read(fd, len(data), 0) == data

    for name, data in pages.items():
        with opened(tree / "tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_DIRECT) as fd:
            write_all(fd, aligned(data), 0)
        os.rename(tree / "tmp", tree / name)
    check()
    kvfs_mount.remount()
    check()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_aligned_pieces(tree: Path, alignment: int) -> None:
    expected = bytearray(pattern(300 * 1024))
    with opened(tree / "file", CREATE | os.O_DIRECT) as fd:
        write_all(fd, aligned(bytes(expected)), 0)
        for index, (start, blocks) in enumerate([(1, 1), (7, 3), (63, 2), (64, 1), (0, 5), (40, 20)], start=1):
            piece = bytes([index]) * (blocks * alignment)
            offset = start * alignment
            write_all(fd, aligned(piece), offset)
            expected[offset : offset + len(piece)] = piece
            assert direct_read(fd, len(piece), offset) == piece
        assert direct_read(fd, len(expected), 0) == expected
    assert read_file(tree / "file") == expected


@pytest.mark.parametrize("size", [1, 511, 4095, 4097, 10_000, MIB + 5])
def test_read_across_the_end_stops_there(tree: Path, size: int) -> None:
    data = pattern(size)
    write_file(tree / "file", data)
    with opened(tree / "file", os.O_RDONLY | os.O_DIRECT) as fd:
        room = (size // 4096 + 2) * 4096
        assert direct_read(fd, room, 0) == data
        assert direct_read(fd, 4096, size // 4096 * 4096) == data[size // 4096 * 4096 :]
        assert direct_read(fd, 4096, room) == b""


def test_buffered_and_direct_handles_see_each_other(tree: Path) -> None:
    """FlexKV opens its pool file both ways (DESIGN 6)."""
    with opened(tree / "file", CREATE) as buffered, opened(tree / "file", os.O_RDWR | os.O_DIRECT) as direct:
        os.ftruncate(buffered, 10 * MIB)
        for index in range(1, 9):
            piece = bytes([index]) * 8192
            offset = index * MIB
            write_all(direct, aligned(piece), offset)
            assert os.pread(buffered, 8194, offset - 1) == b"\0" + piece + b"\0"
            write_all(buffered, b"edge", offset + 8190)
            assert direct_read(direct, 12_288, offset) == piece[:-2] + b"edge" + bytes(4094)
        assert os.fstat(direct).st_size == 10 * MIB


def test_direct_write_over_cached_pages(tree: Path) -> None:
    write_file(tree / "file", b"a" * 65_536)
    with opened(tree / "file", os.O_RDWR) as buffered, opened(tree / "file", os.O_RDWR | os.O_DIRECT) as direct:
        assert os.pread(buffered, 65_536, 0) == b"a" * 65_536
        write_all(direct, aligned(b"b" * 4096), 8192)
        assert os.pread(buffered, 4098, 8191) == b"a" + b"b" * 4096 + b"a"


def test_direct_read_of_dirty_pages(tree: Path) -> None:
    with opened(tree / "file", CREATE) as buffered, opened(tree / "file", os.O_RDONLY | os.O_DIRECT) as direct:
        write_all(buffered, b"dirty" * 1000, 3)
        assert direct_read(direct, 8192, 0) == bytes(3) + b"dirty" * 1000


def test_extending_writes(tree: Path) -> None:
    with opened(tree / "file", CREATE | os.O_DIRECT) as fd:
        for index in range(64):
            write_all(fd, aligned(bytes([index]) * 4096), index * 4096)
            assert os.fstat(fd).st_size == (index + 1) * 4096
    assert read_file(tree / "file") == b"".join(bytes([index]) * 4096 for index in range(64))


def test_appending(tree: Path) -> None:
    with opened(tree / "file", CREATE | os.O_DIRECT | os.O_APPEND) as fd:
        for index in range(8):
            assert os.writev(fd, [aligned(bytes([index]) * 4096)]) == 4096
    assert os.stat(tree / "file").st_size == 8 * 4096


def test_vectors(tree: Path) -> None:
    pieces = [pattern(length, length) for length in (4096, 8192, 4096)]
    with opened(tree / "file", CREATE | os.O_DIRECT) as fd:
        assert os.pwritev(fd, [aligned(piece) for piece in pieces], 4096) == 16_384
        buffers = [aligned(len(piece)) for piece in pieces]
        assert os.preadv(fd, buffers, 4096) == 16_384
        assert [bytes(buffer) for buffer in buffers] == pieces
        assert direct_read(fd, 4096, 0) == bytes(4096)


def test_set_after_open(tree: Path) -> None:
    """Dynamo's KVBM sets O_DIRECT by F_SETFL on what mkostemp gave it (DESIGN 6)."""
    data = pattern(2 * MIB)
    with opened(tree / "file", CREATE | os.O_EXCL) as fd:
        write_all(fd, b"buffered first", 0)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        write_all(fd, aligned(data), 0)
        assert direct_read(fd, len(data), 0) == data


def test_hole(tree: Path) -> None:
    with opened(tree / "file", CREATE | os.O_DIRECT) as fd:
        os.ftruncate(fd, 10 * MIB)
        write_all(fd, aligned(b"x" * 4096), 5 * MIB)
        assert direct_read(fd, MIB, 0) == bytes(MIB)
        assert direct_read(fd, 8192, 5 * MIB - 4096) == bytes(4096) + b"x" * 4096


@pytest.mark.parametrize(("offset", "length"), [(1, 4096), (0, 1000), (511, 513)])
def test_unaligned_calls_work_or_are_refused_whole(tree: Path, offset: int, length: int) -> None:
    """FUSE servers may take what block file systems refuse; either way nothing is torn."""
    data = pattern(16_384)
    write_file(tree / "file", data)
    with opened(tree / "file", os.O_RDWR | os.O_DIRECT) as fd:
        try:
            assert direct_read(fd, length, offset) == data[offset : offset + length]
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        try:
            write_all(fd, aligned(b"w" * length), offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            data = data[:offset] + b"w" * length + data[offset + length :]
    assert read_file(tree / "file") == data


def test_beyond_the_largest_file(tree: Path) -> None:
    with opened(tree / "file", CREATE | os.O_DIRECT) as fd, raises(errno.EFBIG):
        write_all(fd, aligned(b"x" * 4096), 1 << 62)
