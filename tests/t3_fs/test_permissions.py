"""Who may do what: mode bits as another user meets them, and what chmod, chown and write do to the bits."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.expect import opened, raises, read_file, write_all, write_file
from support.mount import TestMount
from support.process import NOBODY, in_child

OTHER = 12_345


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("mode", [0, 0o400, 0o644, 0o755, 0o777, 0o1777, 0o2755, 0o4711, 0o7777])
@pytest.mark.parametrize("make", [write_file, os.mkdir, os.mkfifo])
def test_chmod_keeps_every_bit(tree: Path, mode: int, make: Callable[[Path], None]) -> None:
    if mode & stat.S_ISUID and os.geteuid() != 0:
        pytest.skip("root's only: see t8_rights/test_set_id.py")
    make(tree / "name")
    os.chmod(tree / "name", mode)
    assert mode_of(tree / "name") == mode


def test_chmod_names_what_is_wrong(tree: Path) -> None:
    with raises(errno.ENOENT):
        os.chmod(tree / "absent", 0o644)
    write_file(tree / "file")
    with raises(errno.ENOTDIR):
        os.chmod(tree / "file" / "below", 0o644)


def test_modes_and_owners_outlive_a_remount(tree: Path, kvfs_mount: TestMount) -> None:
    bits = 0o4000 if os.geteuid() == 0 else 0
    write_file(tree / "file")
    os.chmod(tree / "file", bits | 0o751)
    os.mkdir(tree / "directory")
    os.chmod(tree / "directory", 0o3770)
    kvfs_mount.remount()
    assert (mode_of(tree / "file"), mode_of(tree / "directory")) == (bits | 0o751, 0o3770)


@pytest.mark.root
class TestOwners:
    def test_chown(self, tree: Path, kvfs_mount: TestMount) -> None:
        write_file(tree / "file")
        os.symlink("file", tree / "link")
        os.chown(tree / "file", OTHER, NOBODY)
        os.lchown(tree / "link", 1, 2)
        os.chown(tree / "file", -1, 77)
        os.chown(tree / "file", 0xFFFF_FFFE, -1)
        kvfs_mount.remount()
        status, link = os.stat(tree / "file"), os.lstat(tree / "link")
        assert (status.st_uid, status.st_gid) == (0xFFFF_FFFE, 77)
        assert (link.st_uid, link.st_gid) == (1, 2)

    def test_new_files_belong_to_their_maker(self, tree: Path) -> None:
        os.chmod(tree, 0o777)

        def make() -> None:
            write_file(tree / "file")
            os.mkdir(tree / "directory")
            os.symlink("x", tree / "link")
            os.mkfifo(tree / "fifo")

        in_child(make, uid=OTHER, gid=OTHER + 1)
        for name in ("file", "directory", "link", "fifo"):
            status = os.lstat(tree / name)
            assert (status.st_uid, status.st_gid) == (OTHER, OTHER + 1), name

    def test_setgid_directory_hands_its_group_on(self, tree: Path) -> None:
        os.mkdir(tree / "shared")
        os.chown(tree / "shared", 0, 4242)
        os.chmod(tree / "shared", 0o2777)

        def make() -> None:
            write_file(tree / "shared" / "file")
            os.mkdir(tree / "shared" / "directory", 0o755)
            os.mkfifo(tree / "shared" / "fifo")
            os.symlink("x", tree / "shared" / "link")

        in_child(make, uid=OTHER)
        for name in ("file", "directory", "fifo", "link"):
            status = os.lstat(tree / "shared" / name)
            assert (status.st_uid, status.st_gid) == (OTHER, 4242), name
        assert mode_of(tree / "shared" / "directory") & stat.S_ISGID
        assert not mode_of(tree / "shared" / "file") & stat.S_ISGID

    def test_only_root_gives_files_away(self, tree: Path) -> None:
        write_file(tree / "file")
        os.chown(tree / "file", OTHER, OTHER)

        def as_owner() -> None:
            with raises(errno.EPERM):
                os.chown(tree / "file", NOBODY, -1)
            with raises(errno.EPERM):
                os.chown(tree / "file", -1, 4242)
            os.chown(tree / "file", -1, 99)
            os.chmod(tree / "file", 0o600)

        in_child(as_owner, uid=OTHER, groups=[99])
        assert os.stat(tree / "file").st_gid == 99

    def test_only_the_owner_changes_mode_and_times(self, tree: Path) -> None:
        write_file(tree / "file")
        os.chmod(tree / "file", 0o666)

        def as_other() -> None:
            with raises(errno.EPERM):
                os.chmod(tree / "file", 0o777)
            with raises(errno.EPERM):
                os.utime(tree / "file", (1, 1))
            os.utime(tree / "file")
            with raises(errno.EPERM):
                os.open(tree / "file", os.O_RDONLY | os.O_NOATIME)

        in_child(as_other, uid=OTHER)
        assert mode_of(tree / "file") == 0o666

    @pytest.mark.parametrize("change", ["write", "truncate", "chown"])
    def test_changes_clear_suid_and_sgid(self, tree: Path, change: str) -> None:
        """A program that another user changed must not run with its owner's rights any more."""
        path = tree / "program"
        write_file(path, b"x" * 100)
        os.chown(path, OTHER, OTHER)
        os.chmod(path, 0o6777)

        def as_other() -> None:
            with opened(path) as fd:
                if change == "write":
                    write_all(fd, b"y", 0)
                else:
                    os.ftruncate(fd, 10)

        if change == "chown":
            os.chown(path, NOBODY, NOBODY)
        else:
            in_child(as_other, uid=NOBODY)
        assert mode_of(path) == 0o777

    def test_write_by_root_keeps_suid(self, tree: Path) -> None:
        write_file(tree / "program", b"x")
        os.chmod(tree / "program", 0o4755)
        with opened(tree / "program") as fd:
            write_all(fd, b"y", 0)
        assert mode_of(tree / "program") == 0o4755

    def test_chmod_by_an_owner_outside_the_group_drops_sgid(self, tree: Path) -> None:
        write_file(tree / "file")
        os.chown(tree / "file", OTHER, 4242)
        in_child(lambda: os.chmod(tree / "file", 0o2755), uid=OTHER)
        assert mode_of(tree / "file") == 0o755

    def test_sticky_directory(self, tree: Path) -> None:
        os.mkdir(tree / "tmp")
        os.chmod(tree / "tmp", 0o1777)
        in_child(lambda: write_file(tree / "tmp" / "mine", b"mine", 0o666), uid=OTHER)
        os.chmod(tree / "tmp" / "mine", 0o666)

        def as_other() -> None:
            write_file(tree / "tmp" / "his")
            calls: list[Callable[[], None]] = [
                lambda: os.unlink(tree / "tmp" / "mine"),
                lambda: os.rename(tree / "tmp" / "mine", tree / "tmp" / "new"),
                lambda: os.rename(tree / "tmp" / "his", tree / "tmp" / "mine"),
            ]
            for call in calls:
                with raises(errno.EPERM, errno.EACCES):
                    call()

        in_child(as_other, uid=NOBODY)
        assert read_file(tree / "tmp" / "mine") == b"mine"
        in_child(lambda: os.unlink(tree / "tmp" / "mine"), uid=OTHER)


@pytest.mark.root
class TestAccess:
    @pytest.mark.parametrize(
        ("mode", "may_read", "may_write"),
        [(0o000, False, False), (0o400, True, False), (0o200, False, True), (0o600, True, True), (0o077, False, False)],
    )
    def test_owner_bits(self, tree: Path, mode: int, may_read: bool, may_write: bool) -> None:
        self._check(tree, mode, may_read, may_write, owner=OTHER, group=0)

    @pytest.mark.parametrize(
        ("mode", "may_read", "may_write"), [(0o707, False, False), (0o040, True, False), (0o020, False, True)]
    )
    def test_group_bits(self, tree: Path, mode: int, may_read: bool, may_write: bool) -> None:
        self._check(tree, mode, may_read, may_write, owner=0, group=99)

    @pytest.mark.parametrize(
        ("mode", "may_read", "may_write"), [(0o770, False, False), (0o004, True, False), (0o002, False, True)]
    )
    def test_other_bits(self, tree: Path, mode: int, may_read: bool, may_write: bool) -> None:
        self._check(tree, mode, may_read, may_write, owner=0, group=0)

    def _check(self, tree: Path, mode: int, may_read: bool, may_write: bool, owner: int, group: int) -> None:
        write_file(tree / "file", b"x")
        os.chown(tree / "file", owner, group)
        os.chmod(tree / "file", mode)

        def as_user() -> list[bool]:
            answers: list[bool] = []
            for flags in (os.O_RDONLY, os.O_WRONLY):
                try:
                    os.close(os.open(tree / "file", flags))
                    answers.append(True)
                except PermissionError as error:
                    if error.errno != errno.EACCES:
                        raise
                    answers.append(False)
            return [*answers, os.access(tree / "file", os.R_OK), os.access(tree / "file", os.W_OK)]

        assert in_child(as_user, uid=OTHER, groups=[99]) == [may_read, may_write] * 2

    def test_directory_needs_search_to_reach_and_write_to_change(self, tree: Path) -> None:
        os.mkdir(tree / "d")
        write_file(tree / "d" / "file", b"x", 0o666)
        os.chmod(tree / "d" / "file", 0o666)

        def no_search() -> None:
            assert os.listdir(tree / "d") == ["file"]
            for call in (lambda: os.stat(tree / "d" / "file"), lambda: os.open(tree / "d" / "file", os.O_RDONLY)):
                with raises(errno.EACCES):
                    call()

        def no_read() -> None:
            assert read_file(tree / "d" / "file") == b"x"
            with raises(errno.EACCES):
                os.listdir(tree / "d")

        def no_write() -> None:
            path = tree / "d" / "file"
            for call in (
                lambda: os.unlink(path),
                lambda: os.open(tree / "d" / "new", os.O_CREAT | os.O_WRONLY),
                lambda: os.mkdir(tree / "d" / "new"),
                lambda: os.rename(path, tree / "d" / "new"),
                lambda: os.rename(path, tree / "out"),
                lambda: os.link(path, tree / "d" / "new"),
                lambda: os.symlink("x", tree / "d" / "new"),
                lambda: os.mkfifo(tree / "d" / "new"),
            ):
                with raises(errno.EACCES):
                    call()

        for mode, check in ((0o744, no_search), (0o711, no_read), (0o755, no_write)):
            os.chmod(tree / "d", mode)
            in_child(check, uid=OTHER)

    def test_read_only_bits_do_not_stop_a_descriptor_that_is_open(self, tree: Path) -> None:
        os.chmod(tree, 0o777)

        def as_user() -> None:
            with opened(tree / "file", os.O_RDWR | os.O_CREAT) as fd:
                os.fchmod(fd, 0)
                write_all(fd, b"x" * 5000, 0)
                os.ftruncate(fd, 4000)
                os.fsync(fd)
                assert os.pread(fd, 5000, 0) == b"x" * 4000
            with raises(errno.EACCES):
                os.open(tree / "file", os.O_RDONLY)
            with raises(errno.EACCES):
                os.truncate(tree / "file", 0)

        in_child(as_user, uid=OTHER)

    def test_execute(self, tree: Path) -> None:
        write_file(tree / "script", b"#!/bin/sh\nexit 7\n")
        os.chmod(tree / "script", 0o644)

        def run() -> int:
            try:
                return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(tree / "script", ["script"], {}), 0)[1])
            except PermissionError:
                return -1

        assert in_child(run, uid=OTHER) == -1
        os.chmod(tree / "script", 0o755)
        assert in_child(run, uid=OTHER) == 7
