"""mkdir(2), rmdir(2), and the links that directories count."""

import errno
import os
import stat
from pathlib import Path

import pytest
from support.expect import opened, raises, write_file
from support.mount import TestMount


def test_mkdir(tree: Path) -> None:
    os.mkdir(tree / "new", 0o750)
    status = os.stat(tree / "new")
    assert stat.S_ISDIR(status.st_mode)
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o750, 2)
    assert os.listdir(tree / "new") == []
    assert os.stat(tree / "new" / "..").st_ino == os.stat(tree).st_ino


def test_directory_counts_its_sub_directories_as_links(tree: Path, kvfs_mount: TestMount) -> None:
    for count in range(1, 6):
        os.mkdir(tree / str(count))
        assert os.stat(tree).st_nlink == 2 + count
    write_file(tree / "file")
    os.symlink("1", tree / "link")
    assert os.stat(tree).st_nlink == 7
    kvfs_mount.remount()
    assert os.stat(tree).st_nlink == 7
    for count in range(5, 0, -1):
        os.rmdir(tree / str(count))
        assert os.stat(tree).st_nlink == 1 + count


def test_mkdir_names_what_is_wrong(tree: Path) -> None:
    write_file(tree / "file")
    os.mkdir(tree / "directory")
    os.symlink("absent", tree / "dangling")
    for name in ("file", "directory", "dangling", "."):
        with raises(errno.EEXIST):
            os.mkdir(f"{tree}/{name}")
    with raises(errno.ENOENT):
        os.mkdir(tree / "absent" / "new")
    with raises(errno.ENOTDIR):
        os.mkdir(tree / "file" / "new")
    with raises(errno.ENAMETOOLONG):
        os.mkdir(tree / ("n" * 256))


def test_rmdir_names_what_is_wrong(tree: Path) -> None:
    write_file(tree / "file")
    os.makedirs(tree / "full" / "sub")
    with raises(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(tree / "full")
    with raises(errno.ENOTDIR):
        os.rmdir(tree / "file")
    with raises(errno.ENOENT):
        os.rmdir(tree / "absent")
    with raises(errno.EINVAL):
        os.rmdir(f"{tree}/full/.")
    with raises(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(f"{tree}/full/..")
    os.symlink("full", tree / "link")
    with raises(errno.ENOTDIR):
        os.rmdir(tree / "link")
    os.rmdir(tree / "full" / "sub")
    os.rmdir(tree / "full")
    assert sorted(os.listdir(tree)) == ["file", "link"]


@pytest.mark.parametrize("content", ["file", "hidden", "link", "fifo", "directory"])
def test_directory_is_empty_only_without_any_kind_of_entry(tree: Path, content: str) -> None:
    os.mkdir(tree / "d")
    entry = tree / "d" / (".hidden" if content == "hidden" else content)
    if content == "link":
        os.symlink("absent", entry)
    elif content == "fifo":
        os.mkfifo(entry)
    elif content == "directory":
        os.mkdir(entry)
    else:
        write_file(entry)
    with raises(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(tree / "d")
    (os.rmdir if content == "directory" else os.unlink)(entry)
    os.rmdir(tree / "d")


def test_removed_directory_that_is_still_open_is_empty_and_takes_nothing(tree: Path) -> None:
    os.mkdir(tree / "d")
    with opened(tree / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir(tree / "d")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(fd) == []
        with raises(errno.ENOENT):
            os.mkdir("new", dir_fd=fd)
        with raises(errno.ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)


def test_removed_directory_as_working_directory(tree: Path) -> None:
    os.mkdir(tree / "d")
    before = os.getcwd()
    os.chdir(tree / "d")
    try:
        os.rmdir(tree / "d")
        with raises(errno.ENOENT):
            os.getcwd()
        with raises(errno.ENOENT):
            os.mkdir("new")
        assert os.listdir(".") == []
    finally:
        os.chdir(before)


def test_two_hundred_levels(tree: Path, kvfs_mount: TestMount) -> None:
    path = tree
    for level in range(200):
        path = path / f"l{level}"
        os.mkdir(path)
    write_file(path / "file", b"deep")
    kvfs_mount.remount()
    assert os.stat(path / "file").st_size == 4
    assert sum(1 for _ in os.walk(tree)) == 201
    os.unlink(path / "file")
    while path != tree:
        os.rmdir(path)
        path = path.parent
    assert os.listdir(tree) == []


def test_paths_of_4095_bytes(tree: Path) -> None:
    path = os.fspath(tree)
    while len(path) + 102 < 4095:
        path += "/" + "d" * 100
        os.mkdir(path)
    last = path + "/" + "f" * (4095 - len(path) - 1)
    write_file(last, b"x")
    assert os.stat(last).st_size == 1
    with raises(errno.ENAMETOOLONG):
        os.stat(last + "f")


def test_mkdir_and_rmdir_of_one_name_many_times(tree: Path) -> None:
    inodes = set()
    for _ in range(200):
        os.mkdir(tree / "d")
        inodes.add((os.stat(tree / "d").st_ino, os.stat(tree / "d").st_ctime_ns))
        os.rmdir(tree / "d")
    assert os.stat(tree).st_nlink == 2


def test_the_root_of_the_mount(kvfs_mount: TestMount) -> None:
    status = os.stat(kvfs_mount.path)
    assert stat.S_ISDIR(status.st_mode)
    if kvfs_mount.is_kvfs:
        assert status.st_ino == 1
        with raises(errno.EBUSY):
            os.rmdir(kvfs_mount.path)
        assert os.stat(kvfs_mount / "..").st_dev != status.st_dev
