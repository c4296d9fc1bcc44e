"""Random operations on trees by several processes at once, in the manner of fsstress (SGI, then xfstests).

First test: each process draws operations for a sub-tree of its own and does each in the mount and in a plain
directory; outcome, errno included, and in the end the trees have to be the same. Second test: all processes
work on the same few names; the outcome is open, but the tree has to be consistent.
"""

import errno
import os
import random
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.expect import opened
from support.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from support.mount import TestMount
from support.process import all_at_once
from support.tree import comparable, listing

SCALE = int(os.environ.get("KVFS_TEST_SCALE", "1"))
WORKERS = 4
OPERATIONS = 600 * SCALE
NAMES = [f"n{index}" for index in range(12)]

Operation = tuple[str, tuple[object, ...]]


class Generator:
    """Draws operations as data (name and arguments, paths relative), so that they can be done twice."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.kinds = [
            (name.removeprefix("draw_"), weight)
            for name, weight in (
                ("create", 8),
                ("write", 14),
                ("truncate", 5),
                ("mkdir", 6),
                ("rmdir", 3),
                ("unlink", 6),
                ("rename", 9),
                ("exchange", 3),
                ("noreplace", 2),
                ("link", 4),
                ("symlink", 3),
                ("mkfifo", 2),
                ("chmod", 3),
                ("utime", 2),
                ("setxattr", 4),
                ("removexattr", 2),
                ("read", 8),
                ("stat", 6),
                ("list", 4),
                ("fsync", 2),
            )
        ]

    def path(self) -> str:
        return "/".join(self.draw.choices(NAMES, k=self.draw.choice((1, 1, 1, 2, 2, 3))))

    def next(self) -> Operation:
        kind = self.draw.choices([name for name, _ in self.kinds], [weight for _, weight in self.kinds])[0]
        draw = self.draw
        first: tuple[object, ...] = (self.path(),)
        if kind in ("rename", "exchange", "noreplace", "link"):
            return kind, (*first, self.path())
        if kind == "write":
            offset = draw.choice((0, draw.randrange(20_000), draw.randrange(600_000)))
            return kind, (*first, offset, draw.randbytes(draw.choice((1, 100, 4096, 70_000))), draw.random() < 0.3)
        if kind == "truncate":
            return kind, (*first, draw.choice((0, 1, 4096, draw.randrange(700_000))))
        if kind == "symlink":
            return kind, (draw.choice((self.path(), "x" * draw.randrange(1, 200))), *first)
        if kind == "chmod":
            return kind, (*first, draw.choice((0o600, 0o644, 0o700, 0o755, 0o777)))
        if kind == "utime":
            return kind, (*first, draw.randrange(1 << 60), draw.randrange(1 << 60))
        if kind == "setxattr":
            return kind, (
                *first,
                f"user.{draw.choice('abc')}",
                draw.randbytes(draw.randrange(100)),
                draw.choice((0, 1, 2)),
            )
        if kind == "removexattr":
            return kind, (*first, f"user.{draw.choice('abc')}")
        return kind, first


class Tree:
    """Does operations below one directory. Symbolic links are not followed at the last step."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def outcome(self, operation: Operation) -> object:
        """What the operation returned, or the name of its errno."""
        kind, arguments = operation
        call: Callable[..., object] = getattr(self, kind)
        try:
            return call(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    def create(self, path: str) -> None:
        os.close(os.open(self._at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644))

    def write(self, path: str, offset: int, data: bytes, replace: bool) -> None:
        """In place, or as engines do: tmp, write, rename."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        target = self._at(path)
        with opened(target + ".tmp" if replace else target, flags) as fd:
            if os.pwrite(fd, data, offset) != len(data):
                raise AssertionError(f"short write to {path}")
        if replace:
            try:
                os.rename(target + ".tmp", target)
            except OSError:
                os.unlink(target + ".tmp")
                raise

    def truncate(self, path: str, size: int) -> None:
        with opened(self._at(path), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            os.ftruncate(fd, size)

    def mkdir(self, path: str) -> None:
        os.mkdir(self._at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def exchange(self, old: str, new: str) -> None:
        renameat2(self._at(old), self._at(new), RENAME_EXCHANGE)

    def noreplace(self, old: str, new: str) -> None:
        renameat2(self._at(old), self._at(new), RENAME_NOREPLACE)

    def link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def mkfifo(self, path: str) -> None:
        os.mkfifo(self._at(path), 0o600)

    def chmod(self, path: str, mode: int) -> None:
        if not os.path.islink(self._at(path)):
            os.chmod(self._at(path), mode)

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> int:
        os.utime(self._at(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)
        return os.lstat(self._at(path)).st_mtime_ns // 1_000_000_000

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(self._at(path), name, value, flags, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)

    def read(self, path: str) -> bytes:
        with opened(self._at(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            return os.pread(fd, 1 << 20, 0)

    def stat(self, path: str) -> tuple[int, int, int]:
        status = os.lstat(self._at(path))
        directory = stat.S_ISDIR(status.st_mode)
        return status.st_mode, 0 if directory else status.st_nlink, 0 if directory else status.st_size

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))

    def fsync(self, path: str) -> None:
        with opened(self._at(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            os.fsync(fd)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_same_as_a_plain_directory(tree: Path, kvfs_mount: TestMount, seed: int) -> None:
    plain = kvfs_mount.root / f"plain{seed}"

    def work(number: int) -> None:
        tested, reference = Tree(tree / str(number)), Tree(plain / str(number))
        generator = Generator(random.Random(f"{seed}-{number}"))
        for index in range(OPERATIONS):
            operation = generator.next()
            expected, found = reference.outcome(operation), tested.outcome(operation)
            assert found == expected, f"worker {number}, operation {index}: {shown(operation)}"

    for number in range(WORKERS):
        os.makedirs(plain / str(number))
        os.mkdir(tree / str(number))
    all_at_once([partial(work, number) for number in range(WORKERS)], timeout=120 * SCALE)
    before = listing(tree)
    assert comparable(before) == comparable(listing(plain))
    assert len(before) > 4 * WORKERS
    kvfs_mount.remount()
    assert listing(tree) == before


def shown(operation: Operation) -> str:
    kind, arguments = operation
    parts = [f"{len(argument)} bytes" if isinstance(argument, bytes) else repr(argument) for argument in arguments]
    return f"{kind}({', '.join(parts)})"


RACES = {
    "ENOENT",
    "EEXIST",
    "ENOTEMPTY",
    "EISDIR",
    "ENOTDIR",
    "EINVAL",
    "ELOOP",
    "ENODATA",
    "EPERM",
    "ENXIO",
    "EBUSY",
    "ESPIPE",
}


@pytest.mark.slow
def test_races_leave_a_consistent_tree(tree: Path, kvfs_mount: TestMount) -> None:
    def work(number: int) -> None:
        shared = Tree(tree)
        generator = Generator(random.Random(f"race-{number}"))
        for index in range(OPERATIONS):
            operation = generator.next()
            outcome = shared.outcome(operation)
            if isinstance(outcome, str):
                assert outcome in RACES, f"worker {number}, operation {index}: {outcome} from {shown(operation)}"

    all_at_once([partial(work, number) for number in range(WORKERS)], timeout=120 * SCALE)
    check_links(tree)
    before = listing(tree)
    kvfs_mount.remount()
    assert listing(tree) == before
    check_links(tree)


def check_links(root: Path) -> None:
    """nlink of a file is the number of its names; of a directory, 2 and one for each sub-directory."""
    names: dict[int, list[str]] = {}
    for directory, subdirectories, files in os.walk(root):
        real = [name for name in subdirectories if not os.path.islink(os.path.join(directory, name))]
        assert os.stat(directory).st_nlink == 2 + len(real), directory
        for name in [*files, *(set(subdirectories) - set(real))]:
            path = os.path.join(directory, name)
            names.setdefault(os.lstat(path).st_ino, []).append(path)
    for paths in names.values():
        assert {os.lstat(path).st_nlink for path in paths} == {len(paths)}, paths
