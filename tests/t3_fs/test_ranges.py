"""fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range: on the native data path, and wherever else there are these."""

import errno
import os
import random
from pathlib import Path

import pytest
from support.direct import aligned, direct_read
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate
from support.mount import TestMount, data_path

pytestmark = pytest.mark.skipif(data_path() != "native", reason="pyfuse3 has no handlers for these")

MIB = 1 << 20
CREATE = os.O_RDWR | os.O_CREAT
PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
SCALE = int(os.environ.get("KVFS_TEST_SCALE", "1"))


class TestFallocate:
    def test_extends(self, tree: Path) -> None:
        with opened(tree / "file", CREATE) as fd:
            write_all(fd, b"x" * 10_000, 0)
            fallocate(fd, 0, 5000, MIB)
            assert os.fstat(fd).st_size == 5000 + MIB
            assert os.pread(fd, 2 * MIB, 0) == b"x" * 10_000 + bytes(MIB - 5000)

    def test_keeps_the_size_when_told_so(self, tree: Path) -> None:
        with opened(tree / "file", CREATE) as fd:
            write_all(fd, b"x" * 10_000, 0)
            fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, MIB)
            assert os.fstat(fd).st_size == 10_000
            write_all(fd, b"y", 20_000)
            assert os.pread(fd, MIB, 0) == b"x" * 10_000 + bytes(10_000) + b"y"

    @pytest.mark.parametrize("mode", [PUNCH, FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE])
    @pytest.mark.parametrize(
        ("offset", "length"), [(0, 4096), (4096, 262_144), (100, 50), (3000, 300_000), (399_000, MIB)]
    )
    def test_zeroes(self, tree: Path, mode: int, offset: int, length: int) -> None:
        data = pattern(400_000)
        write_file(tree / "file", data)
        with opened(tree / "file") as fd:
            assert os.pread(fd, MIB, 0) == data  # what the kernel has in its cache now has to go
            fallocate(fd, mode, offset, length)
            size = 400_000 if mode & FALLOC_FL_KEEP_SIZE else max(400_000, offset + length)
            end = min(offset + length, 400_000)
            expected = (data[:offset] + bytes(end - offset) + data[end:]).ljust(size, b"\0")
            assert os.pread(fd, 2 * MIB, 0) == expected
        assert read_file(tree / "file") == expected

    def test_refusals(self, tree: Path) -> None:
        with opened(tree / "file", CREATE) as fd:
            for offset, length in ((-1, 10), (0, 0), (0, -1)):
                with raises(errno.EINVAL):
                    fallocate(fd, 0, offset, length)
            with raises(errno.EOPNOTSUPP):
                fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096)  # without KEEP_SIZE
            with raises(errno.EFBIG):
                fallocate(fd, 0, (1 << 63) - 4096, 4095)
        with opened(tree / "file", os.O_RDONLY) as fd, raises(errno.EBADF):
            fallocate(fd, 0, 0, 4096)

    @pytest.mark.kvfs_only
    def test_of_more_than_there_is(self, tree: Path) -> None:
        with opened(tree / "file", CREATE) as fd:
            with raises(errno.ENOSPC):
                fallocate(fd, 0, 0, 1 << 40)
            write_all(fd, b"x", 0)

    def test_outlives_a_remount(self, kvfs_mount: TestMount, tree: Path) -> None:
        write_file(tree / "file", b"x" * MIB)
        with opened(tree / "file") as fd:
            fallocate(fd, 0, MIB, MIB)
            fallocate(fd, PUNCH, 65536, 65536)
            os.fsync(fd)
        kvfs_mount.remount()
        expected = b"x" * 65536 + bytes(65536) + b"x" * (MIB - 131_072) + bytes(MIB)
        assert read_file(tree / "file") == expected


class TestSeek:
    def test_finds_data_and_holes(self, tree: Path) -> None:
        with opened(tree / "file", os.O_WRONLY | os.O_CREAT) as fd:  # not O_RDWR: see test_range_views.py
            write_all(fd, b"x" * 65536, MIB)
            os.ftruncate(fd, 4 * MIB)
            os.fsync(fd)
            assert os.lseek(fd, 0, os.SEEK_DATA) == MIB
            assert os.lseek(fd, MIB, os.SEEK_DATA) == MIB
            assert os.lseek(fd, MIB, os.SEEK_HOLE) == MIB + 65536
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
            for offset, whence in ((2 * MIB, os.SEEK_DATA), (4 * MIB, os.SEEK_DATA), (4 * MIB, os.SEEK_HOLE)):
                with raises(errno.ENXIO):
                    os.lseek(fd, offset, whence)

    def test_what_was_just_written_is_data(self, tree: Path) -> None:
        with opened(tree / "file", CREATE) as fd:
            write_all(fd, b"x", 10_000_000)
            assert os.lseek(fd, 0, os.SEEK_DATA) <= 10_000_000
            assert os.lseek(fd, 10_000_000, os.SEEK_HOLE) == 10_000_001

    def test_copies_of_sparse_files_are_the_same(self, tree: Path) -> None:
        draw = random.Random(1)
        with opened(tree / "file", CREATE) as fd:
            for _ in range(20):
                write_all(fd, draw.randbytes(draw.randrange(1, 50_000)), draw.randrange(8 * MIB))
            size = os.fstat(fd).st_size
            copy, end = bytearray(size), 0
            while end < size:
                begin = os.lseek(fd, end, os.SEEK_DATA)  # the last write ends at the size: there is always more
                end = os.lseek(fd, begin, os.SEEK_HOLE)
                copy[begin:end] = os.pread(fd, end - begin, begin)
            assert bytes(copy) == os.pread(fd, size, 0)


class TestCopyFileRange:
    @pytest.mark.parametrize("offset", [0, 1, 4096, 70_000])
    def test_copies_all(self, tree: Path, offset: int) -> None:
        data = pattern(3 * MIB + 17)
        write_file(tree / "from", data)
        write_file(tree / "to", b"z" * (4 * MIB))
        with opened(tree / "from", os.O_RDONLY) as source, opened(tree / "to") as target:
            assert os.pread(target, 10, 0) == b"z" * 10  # in the kernel's cache
            done = 0
            while step := os.copy_file_range(source, target, len(data), done, offset + done):
                done += step
            assert done == len(data)
        expected = bytearray(b"z" * (4 * MIB))
        expected[offset : offset + len(data)] = data
        assert read_file(tree / "to") == bytes(expected)

    def test_within_a_file(self, tree: Path) -> None:
        data = pattern(MIB)
        write_file(tree / "file", data)
        with opened(tree / "file") as fd:
            assert os.copy_file_range(fd, fd, 1000, 0, 500_000) == 1000
            with raises(errno.EINVAL):
                os.copy_file_range(fd, fd, 1000, 0, 500)
        assert read_file(tree / "file") == data[:500_000] + data[:1000] + data[501_000:]

    def test_sees_what_is_only_in_the_kernel_or_in_memory(self, tree: Path) -> None:
        with opened(tree / "from", CREATE) as source, opened(tree / "to", CREATE) as target:
            write_all(source, b"just written", 0)
            assert os.copy_file_range(source, target, 100, 0, 0) == 12
            assert os.pread(target, 100, 0) == b"just written"


@pytest.mark.parametrize("seed", range(2 * SCALE))
def test_random_ranges_against_bytes(tree: Path, seed: int) -> None:
    """Through a buffered and an O_DIRECT descriptor of the same file, as FlexKV has them."""
    draw = random.Random(seed)
    size = 2 * MIB
    model = bytearray(size)
    with (
        opened(tree / "file", CREATE) as buffered,
        opened(tree / "file", os.O_RDWR | os.O_DIRECT) as direct,
    ):
        os.ftruncate(buffered, size)
        for _ in range(150):
            kind = draw.choice(("write", "direct", "punch", "zero", "copy", "read", "direct read"))
            begin, length = draw.randrange(size), draw.randrange(1, 200_000)
            if kind.startswith("direct"):
                begin, length = begin // 4096 * 4096, -(-length // 4096) * 4096
            length = min(length, size - begin)
            if kind in ("write", "direct"):
                data = draw.randbytes(length)
                fd, memory = (buffered, data) if kind == "write" else (direct, aligned(data))
                write_all(fd, memory, begin)
                model[begin : begin + length] = data
            elif kind in ("punch", "zero"):
                fallocate(buffered, PUNCH if kind == "punch" else FALLOC_FL_ZERO_RANGE, begin, length)
                model[begin : begin + length] = bytes(length)
            elif kind == "copy":
                length = min(length, size // 2)
                begin, target = begin % (size // 2 - length + 1), size // 2 + draw.randrange(size // 2 - length + 1)
                done = os.copy_file_range(buffered, buffered, length, begin, target)
                model[target : target + done] = model[begin : begin + done]
            elif kind == "read":
                assert os.pread(buffered, length, begin) == model[begin : begin + length]
            else:
                assert direct_read(direct, length, begin) == model[begin : begin + length]
        assert os.pread(buffered, size + 1, 0) == bytes(model)
    assert read_file(tree / "file") == bytes(model)
