"""open(2): what its flags create, truncate and refuse."""

import errno
import os
import stat
from pathlib import Path

import pytest
from support.expect import opened, raises, read_file, write_file

CREATE = os.O_RDWR | os.O_CREAT


def test_create_makes_an_empty_regular_file(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        status = os.fstat(fd)
    assert stat.S_ISREG(status.st_mode)
    assert (status.st_size, status.st_nlink, status.st_uid, status.st_gid) == (0, 1, os.geteuid(), os.getegid())
    assert os.listdir(tree) == ["file"]


def test_create_opens_what_exists_and_leaves_it(tree: Path) -> None:
    write_file(tree / "file", b"content", 0o640)
    with opened(tree / "file", CREATE, 0o777) as fd:
        assert os.pread(fd, 100, 0) == b"content"
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
def test_mode_is_masked_by_umask(tree: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        os.close(os.open(tree / "file", CREATE, 0o777))
        os.mkdir(tree / "directory", 0o777)
        os.mkfifo(tree / "fifo", 0o666)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tree / "file").st_mode) == 0o777 & ~mask
    assert stat.S_IMODE(os.stat(tree / "directory").st_mode) == 0o777 & ~mask
    assert stat.S_IMODE(os.stat(tree / "fifo").st_mode) == 0o666 & ~mask


def test_exclusive_create_refuses_every_kind_of_existing_name(tree: Path) -> None:
    write_file(tree / "file", b"kept")
    os.mkdir(tree / "directory")
    os.mkfifo(tree / "fifo")
    os.symlink("file", tree / "link")
    os.symlink("nowhere", tree / "dangling")
    for name in ("file", "directory", "fifo", "link", "dangling"):
        with raises(errno.EEXIST):
            os.open(tree / name, CREATE | os.O_EXCL | os.O_TRUNC)
    assert read_file(tree / "file") == b"kept"
    assert not os.path.lexists(tree / "nowhere")


def test_create_through_a_dangling_link_makes_its_target(tree: Path) -> None:
    os.symlink("target", tree / "link")
    os.close(os.open(tree / "link", CREATE))
    assert stat.S_ISREG(os.lstat(tree / "target").st_mode)


def test_trunc_empties_the_file_for_every_handle(tree: Path) -> None:
    write_file(tree / "file", b"x" * 10_000)
    with opened(tree / "file", os.O_RDONLY) as reader:
        os.close(os.open(tree / "file", os.O_WRONLY | os.O_TRUNC))
        assert os.fstat(reader).st_size == 0
        assert os.pread(reader, 10, 0) == b""
    assert os.stat(tree / "file").st_size == 0


def test_append_goes_to_the_end_whoever_moved_it(tree: Path) -> None:
    with opened(tree / "file", CREATE | os.O_APPEND) as first, opened(tree / "file", os.O_WRONLY) as second:
        os.write(first, b"one")
        os.pwrite(second, b"two", 3)
        os.lseek(first, 0, os.SEEK_SET)
        os.write(first, b"three")
        assert os.lseek(first, 0, os.SEEK_CUR) == 11
        assert os.pread(first, 100, 0) == b"onetwothree"


def test_first_bytes_written_by_a_reader_or_read_by_a_writer_are_refused(tree: Path) -> None:
    write_file(tree / "file", b"content")
    with opened(tree / "file", os.O_RDONLY) as fd, raises(errno.EBADF):
        os.write(fd, b"x")
    with opened(tree / "file", os.O_WRONLY) as fd, raises(errno.EBADF):
        os.read(fd, 1)


def test_read_only_descriptor_of_a_file_created_without_permissions(tree: Path) -> None:
    with opened(tree / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0) as fd:
        assert os.write(fd, b"data") == 4
        assert os.pread(fd, 4, 0) == b"data"
    assert stat.S_IMODE(os.stat(tree / "file").st_mode) == 0


def test_open_names_what_is_wrong(tree: Path) -> None:
    write_file(tree / "file")
    os.mkdir(tree / "directory")
    os.symlink("file", tree / "link")
    with raises(errno.ENOENT):
        os.open(tree / "absent", os.O_RDWR)
    with raises(errno.ENOENT):
        os.open(tree / "absent" / "file", CREATE)
    with raises(errno.ENOTDIR):
        os.open(tree / "file" / "below", CREATE)
    with raises(errno.EISDIR):
        os.open(tree / "directory", os.O_RDWR)
    with raises(errno.EISDIR):
        os.open(tree / "directory", CREATE)
    with raises(errno.EISDIR):
        os.open(tree / "directory", os.O_WRONLY | os.O_TRUNC)
    with raises(errno.ENOTDIR):
        os.open(tree / "file", os.O_RDONLY | os.O_DIRECTORY)
    with raises(errno.ELOOP):
        os.open(tree / "link", os.O_RDONLY | os.O_NOFOLLOW)
    with raises(errno.EISDIR):
        os.open(f"{tree}/new/", CREATE)
    with raises(errno.ENOTDIR):
        os.open(f"{tree}/file/", os.O_RDONLY)


def test_read_of_a_directory(tree: Path) -> None:
    with opened(tree, os.O_RDONLY | os.O_DIRECTORY) as fd, raises(errno.EISDIR):
        os.read(fd, 1)


@pytest.mark.kvfs_only
def test_unnamed_temporary_file_is_refused_with_the_errno_that_makes_callers_fall_back(tree: Path) -> None:
    with raises(errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
        os.open(tree, os.O_TMPFILE | os.O_RDWR)
    assert os.listdir(tree) == []


def test_o_path_descriptor_reaches_the_file(tree: Path) -> None:
    write_file(tree / "file", b"content")
    with opened(tree / "file", os.O_PATH) as fd:
        assert os.fstat(fd).st_size == 7
        with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as again:
            assert os.pread(again, 10, 0) == b"content"
        with raises(errno.EBADF):
            os.pread(fd, 1, 0)


def test_calls_relative_to_a_directory_descriptor(tree: Path) -> None:
    os.mkdir(tree / "a")
    with opened(tree / "a", os.O_RDONLY | os.O_DIRECTORY) as at:
        os.close(os.open("file", CREATE, 0o600, dir_fd=at))
        os.mkdir("sub", dir_fd=at)
        os.rename("file", "sub/file", src_dir_fd=at, dst_dir_fd=at)
        os.rename(tree / "a", tree / "b")
        assert os.stat("sub/file", dir_fd=at).st_size == 0
        os.unlink("sub/file", dir_fd=at)
        os.rmdir("sub", dir_fd=at)
    assert os.listdir(tree / "b") == []


def test_inode_numbers_name_files(tree: Path) -> None:
    write_file(tree / "a")
    write_file(tree / "b")
    assert os.stat(tree / "a").st_ino != os.stat(tree / "b").st_ino
    with os.scandir(tree) as entries:
        for entry in entries:
            assert entry.inode() == os.stat(entry.path).st_ino == entry.stat().st_ino
    assert len({os.stat(path).st_dev for path in (tree, tree / "a", tree / "b")}) == 1


def test_space_in_a_name_that_was_removed_can_be_taken_again_by_another_kind(tree: Path) -> None:
    path = tree / "name"
    for _ in range(3):
        write_file(path, b"file")
        os.unlink(path)
        os.mkdir(path)
        os.rmdir(path)
        os.symlink("target", path)
        os.unlink(path)
        os.mkfifo(path)
        assert stat.S_ISFIFO(os.lstat(path).st_mode)
        os.unlink(path)
        with raises(errno.ENOENT):
            os.lstat(path)
