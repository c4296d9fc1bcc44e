"""Programs that would run with their owner's rights, and device nodes: what a store must never hand to anybody.

Two walls. The mount is nosuid and nodev, whatever ``-o`` says, so neither has any effect here. And nobody but root can
put either into the store at all, which may be mounted in other ways elsewhere. Root keeps set-user-ID bits because a
backup that is put back has to be what it was.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.expect import opened, raises, read_file, write_file
from support.mount import TestMount
from support.process import NOBODY, in_child

pytestmark = pytest.mark.kvfs_only

USER = 20_001


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def as_user(call: Callable[[], object]) -> object:
    """Without ``root`` in the test's marks: whoever runs it is a user already."""
    return in_child(call, uid=USER) if os.geteuid() == 0 else call()


def test_mount_is_nosuid_and_nodev(kvfs_mount: TestMount) -> None:
    with open("/proc/self/mountinfo") as table:
        (options,) = (line.split()[5].split(",") for line in table if line.split()[4] == os.fspath(kvfs_mount.path))
    assert {"nosuid", "nodev"} <= set(options)


class TestUsers:
    def test_no_chmod(self, tree: Path) -> None:
        os.chmod(tree, 0o777)

        def call() -> None:
            write_file(tree / "file")
            for mode in (0o4755, 0o4000, 0o6711, 0o7777):
                with raises(errno.EPERM):
                    os.chmod(tree / "file", mode)
            with opened(tree / "file") as fd, raises(errno.EPERM):
                os.fchmod(fd, 0o4755)

        as_user(call)
        assert mode_of(tree / "file") == 0o644

    def test_no_open(self, tree: Path) -> None:
        os.chmod(tree, 0o777)

        def call() -> None:
            for flags in (os.O_CREAT | os.O_WRONLY, os.O_CREAT | os.O_EXCL | os.O_RDWR):
                with raises(errno.EPERM):
                    os.open(tree / "file", flags, 0o4755)
            with raises(errno.EPERM):
                os.mknod(tree / "file", stat.S_IFREG | 0o4755)
            assert os.listdir(tree) == []

        as_user(call)

    def test_open_of_what_is_there_makes_nothing_and_so_needs_nothing(self, tree: Path) -> None:
        os.chmod(tree, 0o777)

        def call() -> None:
            write_file(tree / "file", b"content")
            os.close(os.open(tree / "file", os.O_CREAT | os.O_RDWR, 0o4755))
            with raises(errno.EEXIST):
                os.open(tree / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o4755)

        as_user(call)
        assert (read_file(tree / "file"), mode_of(tree / "file")) == (b"content", 0o644)

    def test_set_group_id_and_sticky_are_theirs(self, tree: Path) -> None:
        """They run nothing as another user; directories need both."""
        os.chmod(tree, 0o777)

        def call() -> None:
            write_file(tree / "file")
            os.chmod(tree / "file", 0o3755)
            os.mkdir(tree / "directory")
            os.chmod(tree / "directory", 0o7755)

        as_user(call)
        assert (mode_of(tree / "file"), mode_of(tree / "directory")) == (0o3755, 0o7755)

    @pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
    def test_no_device(self, tree: Path, kind: int) -> None:
        os.chmod(tree, 0o777)

        def call() -> None:
            with raises(errno.EPERM):
                os.mknod(tree / "device", kind | 0o666, os.makedev(1, 3))

        as_user(call)
        assert os.listdir(tree) == []


@pytest.mark.root
class TestRoot:
    def test_keeps_the_bit_and_its_owner_may_chmod_beside_it(self, tree: Path, kvfs_mount: TestMount) -> None:
        write_file(tree / "program")
        os.chown(tree / "program", USER, USER)
        os.chmod(tree / "program", 0o4755)
        in_child(lambda: os.chmod(tree / "program", 0o4711), uid=USER)
        kvfs_mount.remount()
        assert mode_of(tree / "program") == 0o4711
        in_child(lambda: os.chmod(tree / "program", 0o711), uid=USER)

        def again() -> None:
            with raises(errno.EPERM):
                os.chmod(tree / "program", 0o4711)

        in_child(again, uid=USER)

    def test_the_bit_has_no_effect(self, tree: Path) -> None:
        program = shutil.which("id")
        assert program is not None
        shutil.copyfile(program, tree / "id")
        os.chmod(tree / "id", 0o6755)

        def run() -> tuple[int, str]:
            reader, writer = os.pipe()
            actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
            pid = os.posix_spawn(tree / "id", ["id", "-u"], {}, file_actions=actions)
            os.close(writer)
            with os.fdopen(reader) as output:
                said = output.read()
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.strip()

        assert in_child(run, uid=NOBODY) == (0, str(NOBODY))

    @pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
    def test_makes_no_device_either(self, tree: Path, kind: int) -> None:
        with raises(errno.EPERM):
            os.mknod(tree / "device", kind | 0o666, os.makedev(1, 3))
        assert os.listdir(tree) == []
