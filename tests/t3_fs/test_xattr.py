"""Extended attributes: ``user.*`` are kept, other namespaces answer with the errno that tools expect."""

import errno
import os
from pathlib import Path

import pytest
from support.expect import opened, raises, write_file
from support.mount import TestMount
from support.process import NOBODY, in_child


@pytest.fixture
def file(tree: Path) -> Path:
    write_file(tree / "file", b"x")
    return tree / "file"


def test_values_are_kept(tree: Path, kvfs_mount: TestMount) -> None:
    values = [b"", b"v", b"\0\xff binary", b"x" * 2000]
    for number, value in enumerate(values):
        write_file(tree / str(number))
        os.setxattr(tree / str(number), "user.name", value)
        assert os.getxattr(tree / str(number), "user.name") == value
    kvfs_mount.remount()
    for number, value in enumerate(values):
        assert os.getxattr(tree / str(number), "user.name") == value
        os.removexattr(tree / str(number), "user.name")
        assert os.listxattr(tree / str(number)) == []


def test_on_directories_and_by_descriptor(tree: Path) -> None:
    os.setxattr(tree, "user.d", b"directory")
    with opened(tree / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.setxattr(fd, "user.f", b"file")
        assert os.getxattr(tree / "file", "user.f") == b"file"
        os.unlink(tree / "file")
        assert os.getxattr(fd, "user.f") == b"file"
    assert os.getxattr(tree, "user.d") == b"directory"


def test_create_and_replace(file: Path) -> None:
    with raises(errno.ENODATA):
        os.setxattr(file, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    with raises(errno.EEXIST):
        os.setxattr(file, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(file, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.a") == b"3"
    os.setxattr(file, "user.a", b"a longer one")
    assert os.getxattr(file, "user.a") == b"a longer one"


def test_list(file: Path) -> None:
    names = {f"user.name{index}" for index in range(40)}
    for name in names:
        os.setxattr(file, name, name.encode())
    assert set(os.listxattr(file)) == names
    for name in sorted(names)[::2]:
        os.removexattr(file, name)
    assert set(os.listxattr(file)) == set(sorted(names)[1::2])


def test_what_is_missing(file: Path) -> None:
    with raises(errno.ENODATA):
        os.getxattr(file, "user.absent")
    with raises(errno.ENODATA):
        os.removexattr(file, "user.absent")
    with raises(errno.ENOENT):
        os.getxattr(file.parent / "absent", "user.absent")
    assert os.listxattr(file) == []


def test_limits(file: Path) -> None:
    with raises(errno.ERANGE):
        os.setxattr(file, "user." + "n" * 251, b"v")
    with raises(errno.E2BIG, errno.ENOSPC):
        os.setxattr(file, "user.big", b"v" * 65_537)
    os.setxattr(file, "user." + "n" * 250, b"v")
    assert os.listxattr(file) == ["user." + "n" * 250]


@pytest.mark.kvfs_only
def test_largest_value_that_the_kernel_lets_through(file: Path, kvfs_mount: TestMount) -> None:
    value = os.urandom(65_536)
    os.setxattr(file, "user.big", value)
    kvfs_mount.remount()
    assert os.getxattr(file, "user.big") == value


def test_buffer_too_small(file: Path) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    os.setxattr(file, "user.name", b"0123456789")
    buffer = ctypes.create_string_buffer(5)
    assert libc.getxattr(os.fsencode(file), b"user.name", buffer, 5) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.getxattr(os.fsencode(file), b"user.name", None, 0) == 10
    assert libc.listxattr(os.fsencode(file), buffer, 5) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(os.fsencode(file), None, 0) == len("user.name") + 1


@pytest.mark.parametrize("name", ["nonsense", "nonsense.name", "os2.name"])
def test_unknown_namespace(file: Path, name: str) -> None:
    with raises(errno.EOPNOTSUPP):
        os.setxattr(file, name, b"v")
    with raises(errno.EOPNOTSUPP):
        os.getxattr(file, name)


def test_empty_name_in_a_namespace(file: Path) -> None:
    with raises(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr(file, "user.", b"v")
    assert os.listxattr(file) == []


@pytest.mark.root
@pytest.mark.kvfs_only
@pytest.mark.parametrize("name", ["trusted.name", "security.name", "system.name"])
def test_namespaces_of_the_system(file: Path, name: str) -> None:
    with raises(errno.EOPNOTSUPP):
        os.setxattr(file, name, b"v")
    with raises(errno.EOPNOTSUPP, errno.ENODATA):
        os.getxattr(file, name)
    assert os.listxattr(file) == []


@pytest.mark.kvfs_only
def test_acls_are_refused_with_the_errno_that_makes_cp_and_ls_go_on(file: Path) -> None:
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with raises(errno.EOPNOTSUPP, errno.ENODATA):
            os.getxattr(file, name)
    with raises(errno.EOPNOTSUPP):
        os.setxattr(file, "system.posix_acl_access", b"\x02\0\0\0")


def test_special_files_take_no_user_attributes(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    os.symlink("absent", tree / "link")
    with raises(errno.EPERM):
        os.setxattr(tree / "fifo", "user.a", b"v")
    with raises(errno.EPERM):
        os.setxattr(tree / "link", "user.a", b"v", follow_symlinks=False)


@pytest.mark.root
def test_permissions(file: Path) -> None:
    os.setxattr(file, "user.a", b"v")
    os.chmod(file, 0o644)

    def may_read_only() -> None:
        assert os.getxattr(file, "user.a") == b"v"
        with raises(errno.EACCES, errno.EPERM):
            os.setxattr(file, "user.a", b"w")

    def may_nothing() -> None:
        with raises(errno.EACCES, errno.EPERM):
            os.getxattr(file, "user.a")

    in_child(may_read_only, uid=NOBODY)
    os.chmod(file, 0o600)
    in_child(may_nothing, uid=NOBODY)


def test_go_with_the_file(tree: Path) -> None:
    write_file(tree / "old")
    os.setxattr(tree / "old", "user.a", b"v")
    os.rename(tree / "old", tree / "new")
    os.link(tree / "new", tree / "link")
    assert os.getxattr(tree / "link", "user.a") == b"v"
    write_file(tree / "old")
    assert os.listxattr(tree / "old") == []
