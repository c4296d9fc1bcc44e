"""Who may look at all: ``allow_other`` or not, and ``.kvfs/`` with modes of its own."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.expect import raises, read_file, write_file
from support.mount import TestMount, checked_mount
from support.process import NOBODY, in_child

pytestmark = [pytest.mark.kvfs_only, pytest.mark.root]

# what may be read by anybody; whatever else there is, is its owner's alone
PUBLIC = {b"stats": 0o444, b"metrics": 0o444}


@pytest.mark.parametrize("data_path", ["native", "pyfuse3"])
def test_without_allow_other_others_get_eacces(data_path: str) -> None:
    with checked_mount(size="64M", options=("--data-path", data_path, "--no-allow-other")) as mount:
        write_file(mount / "file", b"x" * 5000, 0o666)
        os.chmod(mount / "file", 0o666)
        os.chmod(mount.path, 0o777)
        calls: list[Callable[[], object]] = [
            lambda: os.stat(mount.path),
            lambda: os.stat(mount / "file"),
            lambda: os.listdir(mount.path),
            lambda: os.open(mount / "file", os.O_RDONLY),
            lambda: os.open(mount / "new", os.O_CREAT | os.O_WRONLY),
            lambda: os.mkdir(mount / "new"),
            lambda: os.unlink(mount / "file"),
            lambda: os.rename(mount / "file", mount / "new"),
            lambda: os.stat(mount / ".kvfs" / "stats"),
            lambda: os.open(mount / ".kvfs" / "metrics", os.O_RDONLY),
        ]

        def as_other() -> None:
            for call in calls:
                with raises(errno.EACCES):
                    call()
            assert os.statvfs(mount.path).f_blocks == 0  # the kernel's own answer: all zeros

        in_child(as_other, uid=NOBODY)
        # the user who mounted it, root, is not "other"; nor does having been refused leave anything behind
        assert sorted(os.listdir(mount.path)) == ["file"]
        assert read_file(mount / "file") == b"x" * 5000


def test_with_allow_other_modes_decide(tree: Path) -> None:
    write_file(tree / "public", b"x" * 5000, 0o644)
    write_file(tree / "private", b"x", 0o600)

    def as_other() -> None:
        assert read_file(tree / "public") == b"x" * 5000
        with raises(errno.EACCES):
            os.open(tree / "private", os.O_RDONLY)

    in_child(as_other, uid=NOBODY)


class TestControlFiles:
    def modes(self, kvfs_mount: TestMount) -> dict[bytes, int]:
        control = os.fsencode(kvfs_mount / ".kvfs")
        return {name: stat.S_IMODE(os.stat(os.path.join(control, name)).st_mode) for name in os.listdir(control)}

    def test_modes(self, kvfs_mount: TestMount) -> None:
        modes = self.modes(kvfs_mount)
        assert {name: modes[name] for name in PUBLIC} == PUBLIC
        private = {name: mode for name, mode in modes.items() if name not in PUBLIC}
        assert set(private.values()) <= {0o600}, private
        for name in modes:
            status = os.stat(os.path.join(os.fsencode(kvfs_mount / ".kvfs"), name))
            assert (status.st_uid, status.st_gid) == (0, 0)

    def test_others_read_what_is_public_and_open_nothing_else(self, kvfs_mount: TestMount) -> None:
        control = os.fsencode(kvfs_mount / ".kvfs")
        modes = self.modes(kvfs_mount)

        def as_other() -> None:
            for name, mode in modes.items():
                path = os.path.join(control, name)
                for flags, bit in ((os.O_RDONLY, 0o4), (os.O_WRONLY, 0o2), (os.O_RDWR, 0o6)):
                    if mode & bit == bit:
                        os.close(os.open(path, flags))
                    else:
                        with raises(errno.EACCES):
                            os.open(path, flags)

        in_child(as_other, uid=NOBODY)

    def test_nobody_changes_them(self, kvfs_mount: TestMount) -> None:
        control = Path(kvfs_mount / ".kvfs")

        def attempts(code: int) -> None:
            for name in map(os.fsdecode, self.modes(kvfs_mount)):
                calls: list[Callable[[], object]] = [
                    lambda name=name: os.chmod(control / name, 0o777),  # type: ignore[misc]
                    lambda name=name: os.chown(control / name, 20_001, 20_001),  # type: ignore[misc]
                    lambda name=name: os.unlink(control / name),  # type: ignore[misc]
                    lambda name=name: os.link(control / name, control / "new"),  # type: ignore[misc]
                    lambda name=name: os.rename(control / name, control / "new"),  # type: ignore[misc]
                ]
                for call in calls:
                    with raises(errno.EPERM, code):
                        call()

        attempts(errno.EPERM)
        in_child(lambda: attempts(errno.EACCES), uid=NOBODY)
