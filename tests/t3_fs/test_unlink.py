"""unlink(2) and link(2): files without a name live while they are open, files with several names are one."""

import errno
import os
from pathlib import Path

import pytest
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.mount import TestMount, wait_for
from support.process import all_at_once

CREATE = os.O_RDWR | os.O_CREAT


def test_unlinked_file_is_gone(tree: Path) -> None:
    write_file(tree / "file", b"x")
    os.unlink(tree / "file")
    with raises(errno.ENOENT):
        os.open(tree / "file", os.O_RDONLY)
    with raises(errno.ENOENT):
        os.unlink(tree / "file")
    assert os.listdir(tree) == []


def test_unlinked_while_open(tree: Path) -> None:
    data = pattern(600_000)
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, data, 0)
        os.unlink(tree / "file")
        status = os.fstat(fd)
        assert (status.st_nlink, status.st_size) == (0, len(data))
        assert os.pread(fd, len(data) + 1, 0) == data
        write_all(fd, b"more", len(data))
        os.ftruncate(fd, len(data) + 2)
        os.fsync(fd)
        assert os.pread(fd, 10, len(data) - 1) == data[-1:] + b"mo"
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(1, 2))
        assert os.fstat(fd).st_mtime_ns == 2
    assert os.listdir(tree) == []


def test_unlinked_before_the_first_write(tree: Path) -> None:
    """vLLM's disk backend and Dynamo's KVBM (DESIGN 6): create, unlink, ftruncate, pwrite, pread."""
    with opened(tree / "file", CREATE | os.O_EXCL) as fd:
        os.unlink(tree / "file")
        os.ftruncate(fd, 10 << 20)
        data = pattern(1 << 20)
        write_all(fd, data, 7 << 20)
        assert os.pread(fd, 1 << 20, 7 << 20) == data
        assert os.pread(fd, 1 << 20, 1 << 20) == bytes(1 << 20)


def test_name_of_an_open_unlinked_file_is_free_for_another(tree: Path) -> None:
    with opened(tree / "file", CREATE) as old:
        write_all(old, b"old", 0)
        os.unlink(tree / "file")
        with opened(tree / "file", CREATE | os.O_EXCL) as new:
            write_all(new, b"new one", 0)
            assert os.pread(old, 10, 0) == b"old"
            assert os.fstat(old).st_ino != os.fstat(new).st_ino
    assert read_file(tree / "file") == b"new one"


def test_unlinked_file_is_reopened_through_proc(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, b"content", 0)
        os.unlink(tree / "file")
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.pread(again, 10, 0) == b"content"
            write_all(again, b"C", 0)
        assert os.pread(fd, 10, 0) == b"Content"


@pytest.mark.kvfs_only
def test_files_unlinked_while_open_give_their_space_back(tree: Path, kvfs_mount: TestMount) -> None:
    os.sync()
    before = os.statvfs(tree)
    with opened(tree / "file", CREATE) as fd:
        for index in range(32):
            write_all(fd, os.urandom(1 << 20), index << 20)
        os.fsync(fd)
        os.unlink(tree / "file")
        assert before.f_bfree - os.statvfs(tree).f_bfree >= (32 << 20) // before.f_frsize * 0.9
    wait_for(
        lambda: before.f_bfree - os.statvfs(tree).f_bfree < (4 << 20) // before.f_frsize,
        "space of the unlinked file is free again",
    )


def test_unlink_of_a_directory(tree: Path) -> None:
    os.mkdir(tree / "directory")
    with raises(errno.EISDIR, errno.EPERM):
        os.unlink(tree / "directory")
    assert os.path.isdir(tree / "directory")


def test_hard_links_are_one_file(tree: Path) -> None:
    write_file(tree / "first", b"content", 0o640)
    os.mkdir(tree / "sub")
    os.link(tree / "first", tree / "sub" / "second")
    first, second = os.stat(tree / "first"), os.stat(tree / "sub" / "second")
    assert (first.st_ino, first.st_nlink) == (second.st_ino, second.st_nlink)
    assert first.st_nlink == 2
    with opened(tree / "first") as fd:
        write_all(fd, b"C", 0)
    assert read_file(tree / "sub" / "second") == b"Content"
    os.chmod(tree / "sub" / "second", 0o600)
    assert os.stat(tree / "first").st_mode & 0o777 == 0o600
    os.unlink(tree / "first")
    assert os.stat(tree / "sub" / "second").st_nlink == 1
    assert read_file(tree / "sub" / "second") == b"Content"


def test_many_links_come_and_go(tree: Path) -> None:
    write_file(tree / "file", b"x")
    for index in range(200):
        os.link(tree / "file", tree / f"link{index}")
    assert os.stat(tree / "file").st_nlink == 201
    for index in range(200):
        os.unlink(tree / f"link{index}")
        assert os.stat(tree / "file").st_nlink == 200 - index


def test_link_refuses(tree: Path) -> None:
    write_file(tree / "file")
    write_file(tree / "other")
    os.mkdir(tree / "directory")
    with raises(errno.EEXIST):
        os.link(tree / "file", tree / "other")
    with raises(errno.EEXIST):
        os.link(tree / "file", tree / "file")
    with raises(errno.EPERM):
        os.link(tree / "directory", tree / "new")
    with raises(errno.ENOENT):
        os.link(tree / "absent", tree / "new")
    with raises(errno.ENOENT):
        os.link(tree / "file", tree / "absent" / "new")
    with raises(errno.ENOTDIR):
        os.link(tree / "file", tree / "other" / "new")
    with raises(errno.ENAMETOOLONG):
        os.link(tree / "file", tree / ("n" * 256))
    assert os.stat(tree / "file").st_nlink == 1


def test_link_to_a_symbolic_link_is_to_the_link(tree: Path) -> None:
    os.symlink("target", tree / "link")
    os.link(tree / "link", tree / "second", follow_symlinks=False)
    assert os.readlink(tree / "second") == "target"
    assert os.lstat(tree / "link").st_nlink == 2


def test_links_outlive_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    write_file(tree / "first", b"content")
    for index in range(5):
        os.link(tree / "first", tree / f"link{index}")
    os.unlink(tree / "first")
    kvfs_mount.remount()
    assert {os.stat(tree / f"link{index}").st_ino for index in range(5)} == {os.stat(tree / "link0").st_ino}
    assert os.stat(tree / "link0").st_nlink == 5
    assert read_file(tree / "link4") == b"content"


def test_processes_race_to_unlink_and_create(tree: Path) -> None:
    """Of N processes that unlink one name exactly one succeeds, and of N that create it exclusively too."""
    names = [f"n{index}" for index in range(150)]

    def create() -> int:
        made = 0
        for name in names:
            try:
                os.close(os.open(tree / name, CREATE | os.O_EXCL))
                made += 1
            except FileExistsError:
                continue
        return made

    def unlink() -> int:
        removed = 0
        for name in names:
            try:
                os.unlink(tree / name)
                removed += 1
            except FileNotFoundError:
                continue
        return removed

    for _ in range(3):
        assert sum(all_at_once([create] * 4)) == len(names)
        assert sum(all_at_once([unlink] * 4)) == len(names)
        assert os.listdir(tree) == []
