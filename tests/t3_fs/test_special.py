"""Symbolic links, FIFOs, sockets; device nodes are refused."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from support.expect import opened, raises, read_file, write_file
from support.mount import TestMount
from support.process import Child


@pytest.mark.parametrize("length", [1, 59, 60, 255, 1000, 4094, 4095])
def test_symlink_targets_of_every_length(tree: Path, kvfs_mount: TestMount, length: int) -> None:
    if length == 4095 and not kvfs_mount.is_kvfs:
        pytest.skip("ext4 keeps a target and its NUL in one block")
    target = ("t" * 100 + "/") * 41
    os.symlink(target[:length], tree / "link")
    assert os.readlink(tree / "link") == target[:length]
    status = os.lstat(tree / "link")
    assert stat.S_ISLNK(status.st_mode)
    assert (status.st_size, status.st_nlink, status.st_mode & 0o777) == (length, 1, 0o777)


def test_symlink_target_too_long_or_empty(tree: Path) -> None:
    with raises(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, tree / "link")
    with raises(errno.ENOENT):
        os.symlink("", tree / "link")
    assert os.listdir(tree) == []


def test_symlink_target_is_kept_byte_for_byte(tree: Path, kvfs_mount: TestMount) -> None:
    targets = [b"../up", b"/abs/olute", b"\xff\xfe not utf-8 \x01", b"a//b/./c/", "ключ".encode()]
    for index, target in enumerate(targets):
        os.symlink(target, os.fsencode(tree / f"link{index}"))
    kvfs_mount.remount()
    for index, target in enumerate(targets):
        assert os.readlink(os.fsencode(tree / f"link{index}")) == target


def test_symlinks_are_followed_inside_the_mount(tree: Path) -> None:
    os.makedirs(tree / "real" / "sub")
    write_file(tree / "real" / "file", b"content")
    os.symlink("real", tree / "directory")
    os.symlink("../file", tree / "real" / "sub" / "up")
    assert read_file(tree / "directory" / "sub" / "up") == b"content"
    write_file(tree / "directory" / "new", b"new")
    assert sorted(os.listdir(tree / "real")) == ["file", "new", "sub"]


def test_symlink_loops(tree: Path) -> None:
    os.symlink("b", tree / "a")
    os.symlink("a", tree / "b")
    os.symlink("self", tree / "self")
    for name in ("a", "self"):
        with raises(errno.ELOOP):
            os.stat(tree / name)
        with raises(errno.ELOOP):
            os.open(tree / name, os.O_RDWR | os.O_CREAT)
    os.unlink(tree / "a")
    assert sorted(os.listdir(tree)) == ["b", "self"]


def test_symlink_names_what_is_wrong(tree: Path) -> None:
    write_file(tree / "file")
    with raises(errno.EEXIST):
        os.symlink("target", tree / "file")
    with raises(errno.ENOTDIR):
        os.symlink("target", tree / "file" / "below")
    with raises(errno.ENOENT):
        os.symlink("target", tree / "absent" / "below")
    with raises(errno.EINVAL):
        os.readlink(tree / "file")
    with raises(errno.ENOENT):
        os.readlink(tree / "absent")


def test_fifo_carries_bytes_between_processes(tree: Path) -> None:
    os.mkfifo(tree / "fifo", 0o600)
    status = os.stat(tree / "fifo")
    assert stat.S_ISFIFO(status.st_mode)
    assert status.st_mode & 0o777 == 0o600

    def write() -> None:
        with opened(tree / "fifo", os.O_WRONLY) as fd:
            os.write(fd, b"through the pipe")

    writer = Child(write)
    with opened(tree / "fifo", os.O_RDONLY) as fd:
        assert os.read(fd, 100) == b"through the pipe"
        assert os.read(fd, 100) == b""
    writer.result()
    with raises(errno.ENXIO):
        os.open(tree / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    assert os.stat(tree / "fifo").st_size == 0


def test_unix_socket_listens_in_the_mount(tree: Path) -> None:
    before = os.getcwd()
    os.chdir(tree)  # a socket's address holds 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("sock")
            server.listen()
            assert stat.S_ISSOCK(os.stat("sock").st_mode)
            client.connect("sock")
            connection, _ = server.accept()
            with connection:
                client.sendall(b"hello")
                assert connection.recv(10) == b"hello"
        with socket.socket(socket.AF_UNIX) as late, raises(errno.ECONNREFUSED):
            late.connect("sock")
        with socket.socket(socket.AF_UNIX) as second, raises(errno.EADDRINUSE):
            second.bind("sock")
        os.unlink("sock")
        assert os.listdir() == []
    finally:
        os.chdir(before)


def test_special_files_outlive_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    os.mkfifo(tree / "fifo", 0o640)
    os.mknod(tree / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(tree / "regular", stat.S_IFREG | 0o644)
    before = {name: os.lstat(tree / name) for name in os.listdir(tree)}
    kvfs_mount.remount()
    for name, status in before.items():
        after = os.lstat(tree / name)
        assert (after.st_mode, after.st_nlink, after.st_size) == (status.st_mode, 1, 0)
        assert (after.st_mtime_ns, after.st_ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
    assert len(before) == 3


@pytest.mark.root
@pytest.mark.kvfs_only
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
def test_device_nodes_are_refused(tree: Path, kind: int) -> None:
    with raises(errno.EPERM):
        os.mknod(tree / "device", kind | 0o600, os.makedev(1, 3))
    assert os.listdir(tree) == []


def test_mknod_over_existing(tree: Path) -> None:
    write_file(tree / "file")
    os.mkdir(tree / "directory")
    for name in ("file", "directory"):
        with raises(errno.EEXIST):
            os.mkfifo(tree / name)
