"""fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range on the native data path: what each view shows afterwards, that is
the page cache, O_DIRECT, mappings, the space they take, and other programs."""

import contextlib
import errno
import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.direct import direct_read
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate
from support.mount import TestMount, data_path, wait_for

CREATE = os.O_RDWR | os.O_CREAT
BLOCK = 4096
MIB = 1 << 20
PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
pytestmark = [
    pytest.mark.kvfs_only,
    pytest.mark.skipif(data_path() != "native", reason="pyfuse3 has no handlers for these"),
]


def zeroed(data: bytes, start: int, end: int) -> bytes:
    return data[:start] + bytes(end - start) + data[end:]


def data_ranges(fd: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


class TestFallocate:
    def test_sets_space_aside(self, tree: Path) -> None:
        free = os.statvfs(tree).f_bfree
        with opened(tree / "file", CREATE) as fd:
            fallocate(fd, 0, 0, 10 * MIB)
            status = os.fstat(fd)
            assert (status.st_size, status.st_blocks) == (10 * MIB, 10 * MIB // 512)
            assert os.pread(fd, BLOCK, 5 * MIB) == bytes(BLOCK)
            fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20 * MIB)
            assert os.fstat(fd).st_size == 10 * MIB
            assert os.statvfs(tree).f_bfree <= free - 20 * MIB // BLOCK

    def test_the_command(self, tree: Path) -> None:
        program = shutil.which("fallocate")
        if program is None:
            pytest.skip("NOT TESTED: fallocate(1) is not installed")
        subprocess.run([program, "--length", "5M", tree / "file"], timeout=60, check=True)
        assert os.stat(tree / "file").st_size == 5 * MIB

    @pytest.mark.parametrize("mode", [PUNCH, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE])
    @pytest.mark.parametrize(("start", "end"), [(5, 10), (BLOCK, 9 * BLOCK), (100, MIB + 77), (MIB - 1, 2 * MIB)])
    def test_zeros_in_every_view(self, tree: Path, mode: int, start: int, end: int) -> None:
        data = pattern(2 * MIB)
        write_file(tree / "file", data)
        with opened(tree / "file", os.O_RDWR) as fd, opened(tree / "file", os.O_RDONLY | os.O_DIRECT) as direct:
            with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
                assert view[:] == data
                fallocate(fd, mode, start, end - start)
                expected = zeroed(data, start, end)
                assert view[:] == expected
            assert direct_read(direct, 2 * MIB, 0) == expected
            assert os.pread(fd, 2 * MIB, 0) == expected
        assert read_file(tree / "file") == expected

    def test_punching_under_a_writable_mapping(self, tree: Path) -> None:
        with opened(tree / "file", CREATE) as fd:
            os.ftruncate(fd, MIB)
            with mmap.mmap(fd, 0) as view:
                view[:] = b"a" * MIB
                fallocate(fd, PUNCH, 100, MIB // 2)
                view[0:1] = b"b"
                view.flush()
            expected = b"b" + b"a" * 99 + bytes(MIB // 2) + b"a" * (MIB // 2 - 100)
            assert os.pread(fd, MIB, 0) == expected
        assert read_file(tree / "file") == expected

    def test_punching_gives_space_back(self, tree: Path) -> None:
        write_file(tree / "file", pattern(8 * MIB))
        with opened(tree / "file", os.O_RDWR) as fd:
            os.fsync(fd)
            assert os.fstat(fd).st_blocks == 8 * MIB // 512
            fallocate(fd, PUNCH, MIB, 4 * MIB)
            os.fsync(fd)
            assert os.fstat(fd).st_blocks == 4 * MIB // 512


class TestSeek:
    def test_finds_data(self, tree: Path) -> None:
        with opened(tree / "file", os.O_WRONLY | os.O_CREAT) as fd, opened(tree / "file", os.O_RDONLY) as reader:
            os.ftruncate(fd, 1 << 40)
            for at in (3 * MIB, 1 << 39):
                write_all(fd, pattern(BLOCK), at)
            expected = [(3 * MIB, 3 * MIB + BLOCK), (1 << 39, (1 << 39) + BLOCK)]
            assert data_ranges(reader) == expected
            os.fsync(fd)
            assert data_ranges(reader) == expected
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                with raises(errno.ENXIO):
                    os.lseek(reader, 1 << 40, whence)

    def test_where_a_mapping_may_write_all_is_data(self, tree: Path) -> None:
        """The kernel does not send what a mapping wrote before it asks: who copies what is no hole must not miss it."""
        with opened(tree / "file", CREATE) as fd, opened(tree / "file", os.O_RDONLY) as reader:
            os.ftruncate(fd, MIB)
            with mmap.mmap(fd, 0) as view:
                view[5 * BLOCK] = 1
                subprocess.run(["cp", "--sparse=auto", tree / "file", tree / "copy"], timeout=60, check=True)
                assert data_ranges(reader) == [(0, MIB)]
                for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                    with raises(errno.ENXIO):
                        os.lseek(reader, MIB, whence)
        assert read_file(tree / "copy")[5 * BLOCK] == 1
        with opened(tree / "file", os.O_RDONLY) as reader:
            wait_for(lambda: data_ranges(reader) == [(5 * BLOCK, 6 * BLOCK)], "the release of the other handle")


class TestCopy:
    def test_in_every_view(self, tree: Path) -> None:
        data, old = pattern(3 * MIB), bytes(reversed(pattern(2 * MIB)))
        write_file(tree / "source", data)
        write_file(tree / "target", old)
        with opened(tree / "source") as source, opened(tree / "target", os.O_RDWR) as target:
            assert os.pread(target, 2 * MIB, 0) == old
            assert os.copy_file_range(source, target, MIB + 5, 100, 1000) == MIB + 5
            expected = old[:1000] + data[100 : MIB + 105] + old[MIB + 1005 :]
            assert os.pread(target, 3 * MIB, 0) == expected
            with opened(tree / "target", os.O_RDONLY | os.O_DIRECT) as direct:
                assert direct_read(direct, 2 * MIB, 0) == expected
        assert read_file(tree / "target") == expected

    def test_what_a_mapping_wrote(self, tree: Path) -> None:
        with opened(tree / "source", CREATE) as source, opened(tree / "target", CREATE) as target:
            os.ftruncate(source, MIB)
            with mmap.mmap(source, 0) as view:
                view[:] = pattern(MIB)
                assert os.copy_file_range(source, target, MIB) == MIB
        assert read_file(tree / "target") == pattern(MIB)

    def test_holes_stay_holes(self, tree: Path) -> None:
        with opened(tree / "source", CREATE) as source, opened(tree / "target", CREATE) as target:
            os.ftruncate(source, 1 << 32)
            write_all(source, pattern(BLOCK), 1 << 31)
            done = 0
            while step := os.copy_file_range(source, target, (1 << 32) - done, done, done):
                done += step
            assert done == 1 << 32
            assert os.fstat(target).st_blocks * 512 == BLOCK
            assert os.pread(target, BLOCK + 1, (1 << 31) - 1) == b"\0" + pattern(BLOCK)

    def test_asking_a_control_file_spoils_nothing(self, tree: Path, kvfs_mount: TestMount) -> None:
        """What the kernel is told that one file cannot do, it would ask of no file of the mount again."""
        with opened(kvfs_mount / ".kvfs" / "stats", os.O_RDONLY) as stats:
            with raises(errno.EINVAL):
                os.lseek(stats, 0, os.SEEK_DATA)
            subprocess.run(["cp", kvfs_mount / ".kvfs" / "stats", tree / "copy"], timeout=60, check=True)
            with opened(tree / "copy", os.O_WRONLY) as target, contextlib.suppress(OSError):
                os.copy_file_range(stats, target, 100)
        with opened(tree / "file", os.O_WRONLY | os.O_CREAT) as fd:
            fallocate(fd, 0, 0, MIB)
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 0, "what is set aside is no data"

    def test_overlapping_ranges_of_a_file(self, tree: Path) -> None:
        write_file(tree / "file", pattern(MIB))
        with opened(tree / "file", os.O_RDWR) as fd:
            with raises(errno.EINVAL):
                os.copy_file_range(fd, fd, MIB // 2 + 1, 0, MIB // 2)
            assert os.copy_file_range(fd, fd, MIB // 2, 0, MIB // 2) == MIB // 2
        assert read_file(tree / "file") == pattern(MIB)[: MIB // 2] * 2

    def test_by_the_command(self, tree: Path) -> None:
        write_file(tree / "source", pattern(5 * MIB))
        subprocess.run(["cp", "--sparse=auto", tree / "source", tree / "target"], timeout=60, check=True)
        assert read_file(tree / "target") == pattern(5 * MIB)
