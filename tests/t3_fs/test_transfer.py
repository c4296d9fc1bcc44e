"""Calls that move bytes in the kernel, or that kvfs does not have yet and callers fall back from."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from support.mount import data_path

SIZE = 3 * (1 << 20) + 17
CREATE = os.O_RDWR | os.O_CREAT


def test_sendfile_out_of_the_mount(tree: Path, tmp_path: Path) -> None:
    data = pattern(SIZE)
    write_file(tree / "file", data)
    with opened(tree / "file") as source, opened(tmp_path / "copy", CREATE) as target:
        done = 0
        while done < SIZE:
            done += (step := os.sendfile(target, source, done, SIZE - done))
            assert step > 0
    assert read_file(tmp_path / "copy") == data


def test_sendfile_into_the_mount(tree: Path) -> None:
    data = pattern(SIZE)
    write_file(tree / "file", data)
    with opened(tree / "file") as source, opened(tree / "copy", CREATE) as target:
        done = 0
        while done < SIZE:
            done += (step := os.sendfile(target, source, done, SIZE - done))
            assert step > 0
    assert read_file(tree / "copy") == data


def test_splice_through_a_pipe(tree: Path) -> None:
    data = pattern(200_000)
    write_file(tree / "file", data)
    reading, writing = os.pipe()
    try:
        with opened(tree / "file") as source, opened(tree / "copy", CREATE) as target:
            while (moved := os.splice(source, writing, 65_536)) > 0:
                while moved:
                    moved -= os.splice(reading, target, moved)
    finally:
        os.close(reading)
        os.close(writing)
    assert read_file(tree / "copy") == data


def test_copy_file_range_copies_or_makes_callers_fall_back(tree: Path) -> None:
    data = pattern(SIZE)
    write_file(tree / "file", data)
    with opened(tree / "file") as source, opened(tree / "copy", CREATE) as target:
        done = 0
        try:
            while done < SIZE:
                done += (step := os.copy_file_range(source, target, SIZE - done, done, done))
                assert step > 0
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EINVAL):
                raise
            assert done == 0
            return
    assert read_file(tree / "copy") == data


def test_shutil_copy_and_move(tree: Path, tmp_path: Path) -> None:
    data = pattern(SIZE)
    write_file(tree / "file", data)
    os.utime(tree / "file", ns=(1_000_000_007, 2_000_000_009))
    os.chmod(tree / "file", 0o640)
    os.setxattr(tree / "file", "user.a", b"v")
    shutil.copy2(tree / "file", tree / "copy")
    assert read_file(tree / "copy") == data
    copied = os.stat(tree / "copy")
    assert (copied.st_mtime_ns, copied.st_mode & 0o777) == (2_000_000_009, 0o640)
    assert os.getxattr(tree / "copy", "user.a") == b"v"
    shutil.move(tree / "copy", tmp_path / "moved")
    shutil.move(tmp_path / "moved", tree / "back")
    assert read_file(tree / "back") == data
    assert os.stat(tree / "back").st_mtime_ns == 2_000_000_009


@pytest.mark.kvfs_only
@pytest.mark.skipif(data_path() == "native", reason="pyfuse3 has no handler; native is in test_ranges.py")
@pytest.mark.parametrize("mode", [0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE])
def test_fallocate_is_refused_with_the_errno_that_makes_callers_fall_back(tree: Path, mode: int) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, b"x" * 10_000, 0)
        with raises(errno.EOPNOTSUPP):
            fallocate(fd, mode, 4096, 1 << 20)
        assert os.fstat(fd).st_size == 10_000


def test_posix_fallocate_works_by_itself_or_by_glibcs_fallback(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, b"x" * 10_000, 0)
        os.posix_fallocate(fd, 0, 100_000)
        assert os.fstat(fd).st_size == 100_000
        assert os.pread(fd, 100_001, 0) == b"x" * 10_000 + bytes(90_000)


def test_fadvise_is_harmless(tree: Path) -> None:
    write_file(tree / "file", b"x" * 100_000)
    with opened(tree / "file") as fd:
        for advice in (os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_WILLNEED, os.POSIX_FADV_DONTNEED, os.POSIX_FADV_RANDOM):
            os.posix_fadvise(fd, 0, 0, advice)
        assert os.pread(fd, 100_001, 0) == b"x" * 100_000


def test_preadv2_without_waiting_reads_or_says_try_again(tree: Path) -> None:
    write_file(tree / "file", b"x" * 10_000)
    with opened(tree / "file") as fd:
        buffer = bytearray(10_000)
        try:
            assert os.preadv(fd, [buffer], 0, os.RWF_NOWAIT) > 0
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
