"""atime, mtime and ctime: what sets them, what moves them, what leaves them alone."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.expect import clock_past, opened, raises, read_file, write_all, write_file
from support.libc import UTIME_NOW, UTIME_OMIT, utimensat
from support.mount import TestMount

SECOND = 1_000_000_000
OLD = 1_000_000_000 * SECOND  # 2001
DAY = 86_400 * SECOND


@contextmanager
def moves(path: Path, *expected: str) -> Iterator[None]:
    """The block has to move exactly these of ``mtime`` and ``ctime``, forwards, to about now.

    atime has tests of its own. ctime cannot be set back, so the clock is made to pass it first.
    """
    os.utime(path, ns=(OLD, OLD), follow_symlinks=False)
    before = os.lstat(path)
    clock_past(before.st_ctime_ns)
    begin = time.time_ns()
    yield
    after = os.lstat(path)
    for name in ("mtime", "ctime"):
        old, new = getattr(before, f"st_{name}_ns"), getattr(after, f"st_{name}_ns")
        if name in expected:
            assert new > old, f"{name} of {path.name} did not move"
            assert begin - SECOND <= new <= time.time_ns() + SECOND, f"{name} of {path.name} is not about now"
        else:
            assert new == old, f"{name} of {path.name} moved"


KEPT = [
    (0, 0),
    (1_234_567_890_123_456_789, 987_654_321_987_654_321),
    (1, 999_999_999),
    (-1, -SECOND),
    (-86_400 * 365 * 60 * SECOND + 123, -1_500_000_001),
    (2**31 * SECOND, (2**31 + 5) * SECOND + 7),
    (2**32 * SECOND + 1, 2**33 * SECOND + 999_999_999),
]


def test_times_are_kept_to_the_nanosecond(tree: Path, kvfs_mount: TestMount) -> None:
    for number, times in enumerate(KEPT):
        write_file(tree / f"file{number}", b"x")
        os.mkdir(tree / f"directory{number}")
        os.symlink("file", tree / f"link{number}")
        for kind in ("file", "directory", "link"):
            os.utime(tree / f"{kind}{number}", ns=times, follow_symlinks=False)
    kvfs_mount.remount()
    for number, times in enumerate(KEPT):
        for kind in ("file", "directory", "link"):
            status = os.lstat(tree / f"{kind}{number}")
            assert (status.st_atime_ns, status.st_mtime_ns) == times, kind


def test_omit_and_now(tree: Path) -> None:
    write_file(tree / "file")
    os.utime(tree / "file", ns=(OLD, OLD))
    utimensat(tree / "file", UTIME_OMIT, OLD + 5)
    assert (os.stat(tree / "file").st_atime_ns, os.stat(tree / "file").st_mtime_ns) == (OLD, OLD + 5)
    utimensat(tree / "file", OLD + 7, UTIME_OMIT)
    assert (os.stat(tree / "file").st_atime_ns, os.stat(tree / "file").st_mtime_ns) == (OLD + 7, OLD + 5)
    begin = time.time_ns()
    utimensat(tree / "file", UTIME_NOW, UTIME_OMIT)  # how llm-d marks a page as used (DESIGN 6)
    status = os.stat(tree / "file")
    assert status.st_atime_ns >= begin - SECOND
    assert status.st_mtime_ns == OLD + 5
    utimensat(tree / "file", UTIME_OMIT, UTIME_NOW)
    assert os.stat(tree / "file").st_mtime_ns >= begin - SECOND
    before = os.stat(tree / "file")
    utimensat(tree / "file", UTIME_OMIT, UTIME_OMIT)
    after = os.stat(tree / "file")
    assert (after.st_atime_ns, after.st_mtime_ns) == (before.st_atime_ns, before.st_mtime_ns)


def test_now_is_both(tree: Path) -> None:
    write_file(tree / "file")
    os.utime(tree / "file", ns=(OLD, OLD))
    begin = time.time_ns()
    os.utime(tree / "file")
    status = os.stat(tree / "file")
    assert min(status.st_atime_ns, status.st_mtime_ns) >= begin - SECOND


def test_utime_names_what_is_wrong(tree: Path) -> None:
    write_file(tree / "file")
    with raises(errno.ENOENT):
        os.utime(tree / "absent")
    with raises(errno.ENOTDIR):
        os.utime(tree / "file" / "below")


def test_new_file_has_three_times_of_now(tree: Path) -> None:
    begin = time.time_ns()
    write_file(tree / "file")
    os.mkdir(tree / "directory")
    os.symlink("x", tree / "link")
    for name in ("file", "directory", "link"):
        status = os.lstat(tree / name)
        for stamp in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns):
            assert begin - SECOND <= stamp <= time.time_ns() + SECOND, name


def _write(path: Path) -> None:
    with opened(path) as fd:
        write_all(fd, b"y", 0)


def _ftruncate(path: Path) -> None:
    with opened(path) as fd:
        os.ftruncate(fd, 3)


def _rename_there_and_back(path: Path) -> None:
    os.rename(path, f"{path}-2")
    os.rename(f"{path}-2", path)


def _fsync(path: Path) -> None:
    with opened(path) as fd:
        os.fsync(fd)


def _write_nothing(path: Path) -> None:
    with opened(path) as fd:
        os.write(fd, b"")


FILE_CHANGES: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
    ("write", _write, ("mtime", "ctime")),
    ("truncate down", lambda path: os.truncate(path, 5), ("mtime", "ctime")),
    ("truncate up", lambda path: os.truncate(path, 50_000), ("mtime", "ctime")),
    ("ftruncate", _ftruncate, ("mtime", "ctime")),
    ("O_TRUNC", lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)), ("mtime", "ctime")),
    ("chmod", lambda path: os.chmod(path, 0o600), ("ctime",)),
    ("chown", lambda path: os.chown(path, os.geteuid(), os.getegid()), ("ctime",)),
    ("link", lambda path: os.link(path, f"{path}-link"), ("ctime",)),
    ("rename", _rename_there_and_back, ("ctime",)),
    ("setxattr", lambda path: os.setxattr(path, "user.a", b"b"), ("ctime",)),
    ("utime of atime", lambda path: utimensat(path, OLD + 1, UTIME_OMIT), ("ctime",)),
    ("read", read_file, ()),
    ("stat", os.stat, ()),
    ("open", lambda path: os.close(os.open(path, os.O_RDWR)), ()),
    ("fsync", _fsync, ()),
    ("write of nothing", _write_nothing, ()),
]


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=n) for n, c, e in FILE_CHANGES])
def test_what_moves_the_times_of_a_file(
    tree: Path, change: Callable[[Path], object], expected: tuple[str, ...]
) -> None:
    write_file(tree / "file", b"x" * 10_000)
    with moves(tree / "file", *expected):
        change(tree / "file")


def test_unlink_of_one_link_moves_ctime_of_the_file(tree: Path) -> None:
    write_file(tree / "file")
    os.link(tree / "file", tree / "second")
    with moves(tree / "file", "ctime"):
        os.unlink(tree / "second")


def test_removexattr_moves_ctime(tree: Path) -> None:
    write_file(tree / "file")
    os.setxattr(tree / "file", "user.a", b"b")
    with moves(tree / "file", "ctime"):
        os.removexattr(tree / "file", "user.a")


def test_write_after_utime_in_the_same_handle_still_moves_mtime(tree: Path) -> None:
    with opened(tree / "file", os.O_RDWR | os.O_CREAT) as fd:
        write_all(fd, b"x", 0)
        os.utime(fd, ns=(OLD, OLD))
        assert os.fstat(fd).st_mtime_ns == OLD
        write_all(fd, b"y", 0)
        assert os.fstat(fd).st_mtime_ns > OLD + DAY


def test_utime_after_a_write_stays_when_the_file_is_closed(tree: Path) -> None:
    """What cp -p and rsync do: bytes written late must not overwrite the time that was set."""
    with opened(tree / "file", os.O_RDWR | os.O_CREAT) as fd:
        write_all(fd, b"x" * 300_000, 0)
        os.utime(fd, ns=(OLD, OLD + 3))
    assert os.stat(tree / "file").st_mtime_ns == OLD + 3
    with opened(tree / "file") as fd:
        os.fsync(fd)
    assert os.stat(tree / "file").st_mtime_ns == OLD + 3


DIRECTORY_CHANGES: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
    ("create", lambda d: write_file(d / "new"), ("mtime", "ctime")),
    ("mkdir", lambda d: os.mkdir(d / "new"), ("mtime", "ctime")),
    ("symlink", lambda d: os.symlink("x", d / "new"), ("mtime", "ctime")),
    ("mkfifo", lambda d: os.mkfifo(d / "new"), ("mtime", "ctime")),
    ("link", lambda d: os.link(d / "file", d / "new"), ("mtime", "ctime")),
    ("unlink", lambda d: os.unlink(d / "file"), ("mtime", "ctime")),
    ("rmdir", lambda d: os.rmdir(d / "sub"), ("mtime", "ctime")),
    ("rename inside", lambda d: os.rename(d / "file", d / "new"), ("mtime", "ctime")),
    ("rename over", lambda d: os.rename(d / "file", d / "file2"), ("mtime", "ctime")),
    ("rename out", lambda d: os.rename(d / "file", d.parent / "out"), ("mtime", "ctime")),
    ("rename in", lambda d: os.rename(d.parent / "in", d / "new"), ("mtime", "ctime")),
    ("chmod", lambda d: os.chmod(d, 0o700), ("ctime",)),
    ("write to a file in it", lambda d: write_file(d / "file", b"more"), ()),
    ("chmod of a file in it", lambda d: os.chmod(d / "file", 0o600), ()),
    ("create deeper", lambda d: write_file(d / "sub" / "new"), ()),
    ("listing", lambda d: os.listdir(d), ()),
    ("failed create", lambda d: _fails(lambda: os.mkdir(d / "file")), ()),
    ("failed unlink", lambda d: _fails(lambda: os.unlink(d / "absent")), ()),
]


def _fails(call: Callable[[], object]) -> None:
    with raises(errno.EEXIST, errno.ENOENT):
        call()


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=n) for n, c, e in DIRECTORY_CHANGES])
def test_what_moves_the_times_of_a_directory(
    tree: Path, change: Callable[[Path], object], expected: tuple[str, ...]
) -> None:
    os.makedirs(tree / "d" / "sub")
    for name in ("d/file", "d/file2", "in"):
        write_file(tree / name)
    with moves(tree / "d", *expected):
        change(tree / "d")


def test_read_moves_an_atime_that_is_older_than_mtime(tree: Path) -> None:
    write_file(tree / "file", b"x")
    os.utime(tree / "file", ns=(OLD, OLD + DAY))
    assert read_file(tree / "file") == b"x"
    assert os.stat(tree / "file").st_atime_ns > OLD + DAY
    assert os.stat(tree / "file").st_mtime_ns == OLD + DAY


@pytest.mark.kvfs_only
def test_every_read_moves_atime_so_that_an_evictor_can_trust_it(tree: Path) -> None:
    """Also the read of a page that the kernel has cached, also when atime is young already (no relatime)."""
    write_file(tree / "page", b"x" * 100_000)
    for age in (2 * DAY, 60 * SECOND, 5 * SECOND):
        stamp = time.time_ns() - age
        os.utime(tree / "page", ns=(stamp, OLD))
        read_file(tree / "page")
        assert os.stat(tree / "page").st_atime_ns > stamp + age // 2
        assert os.stat(tree / "page").st_mtime_ns == OLD


@pytest.mark.kvfs_only
def test_atime_outlives_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    write_file(tree / "page", b"x")
    os.utime(tree / "page", ns=(OLD, OLD))
    read_file(tree / "page")
    stamp = os.stat(tree / "page").st_atime_ns
    assert stamp > OLD
    kvfs_mount.remount()
    assert os.stat(tree / "page").st_atime_ns == stamp


def test_o_noatime(tree: Path) -> None:
    """LMCache's GDS backend reads with it (DESIGN 6)."""
    write_file(tree / "page", b"x")
    os.utime(tree / "page", ns=(OLD, OLD + DAY))
    with opened(tree / "page", os.O_RDONLY | os.O_NOATIME) as fd:
        assert os.pread(fd, 10, 0) == b"x"
    assert os.stat(tree / "page").st_atime_ns == OLD


def test_ctime_and_mtime_outlive_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    write_file(tree / "file", b"x")
    os.chmod(tree / "file", 0o600)
    os.mkdir(tree / "directory")
    write_file(tree / "directory" / "file")
    before = {name: os.stat(tree / name) for name in ("file", "directory")}
    kvfs_mount.remount()
    for name, status in before.items():
        after = os.stat(tree / name)
        assert (after.st_mtime_ns, after.st_ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns), name
