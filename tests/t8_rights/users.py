"""What users do to a tree: operations as data, done by whoever has the rights of the process that runs them.

Paths are relative to a root, so that one operation can be done in two trees and the outcomes compared.
"""

import errno
import os
import random
import stat
from dataclasses import dataclass

from support.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, UTIME_NOW, UTIME_OMIT, renameat2, utimensat

NAMES = ("a", "b", "c", "d")
XATTR = "user.kvfs-test"

Operation = tuple[str, tuple[object, ...]]
Request = tuple[str, Operation]  # root, operation


@dataclass(frozen=True)
class User:
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


# Alice and Bob share a group; Bob has another of his own, Carol has none of theirs.
SHARED, BOBS = 30_000, 30_001
ROOT = User("root", 0, 0)
ALICE = User("alice", 20_001, 20_001, (SHARED,))
BOB = User("bob", 20_002, 20_002, (SHARED, BOBS))
CAROL = User("carol", 20_003, 20_003)
USERS = (ROOT, ALICE, BOB, CAROL)


def outcome(request: Request) -> object:
    """What the operation returned, or the name of its errno. Runs in an actor."""
    root, (kind, arguments) = request
    os.umask(0)
    try:
        return _CALLS[kind](root, *arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def attributes(root: str, path: str) -> tuple[int, ...]:
    """Type, mode, owner, group, and where they mean the same everywhere links and size."""
    found = os.lstat(os.path.join(root, path))
    counted = () if stat.S_ISDIR(found.st_mode) else (found.st_nlink, found.st_size)
    return found.st_mode, found.st_uid, found.st_gid, *counted


def everything(root: str) -> dict[str, tuple[int, ...]]:
    """``attributes`` of all that there is; for root, who may look everywhere."""
    return {
        os.path.relpath(os.path.join(directory, name), root): attributes(directory, name)
        for directory, directories, files in os.walk(root)
        for name in directories + files
    }


def _open(root: str, path: str, flags: int, mode: int) -> None:
    os.close(os.open(os.path.join(root, path), flags | os.O_NONBLOCK, mode))


def _write(root: str, path: str, data: bytes) -> int:
    fd = os.open(os.path.join(root, path), os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.write(fd, data) if stat.S_ISREG(os.fstat(fd).st_mode) else 0
    finally:
        os.close(fd)


def _umask(root: str, path: str, mask: int) -> None:
    os.umask(mask)
    os.close(os.open(os.path.join(root, path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _access(root: str, path: str) -> tuple[bool, ...]:
    return tuple(os.access(os.path.join(root, path), way) for way in (os.F_OK, os.R_OK, os.W_OK, os.X_OK))


def _times(root: str, path: str, atime: int, mtime: int) -> None:
    utimensat(os.path.join(root, path), atime, mtime)


def _two(call: object) -> object:
    def both(root: str, old: str, new: str, *more: object) -> None:
        call(os.path.join(root, old), os.path.join(root, new), *more)  # type: ignore[operator]

    return both


_CALLS = {
    "stat": attributes,
    "open": _open,
    "write": _write,
    "umask": _umask,
    "access": _access,
    "times": _times,
    "truncate": lambda root, path, size: os.truncate(os.path.join(root, path), size),
    "mkdir": lambda root, path, mode: os.mkdir(os.path.join(root, path), mode),
    "rmdir": lambda root, path: os.rmdir(os.path.join(root, path)),
    "unlink": lambda root, path: os.unlink(os.path.join(root, path)),
    "rename": _two(lambda old, new, flags: renameat2(old, new, flags)),
    "link": _two(lambda old, new: os.link(old, new, follow_symlinks=False)),
    "symlink": lambda root, target, path: os.symlink(target, os.path.join(root, path)),
    "readlink": lambda root, path: os.readlink(os.path.join(root, path)),
    "mkfifo": lambda root, path, mode: os.mkfifo(os.path.join(root, path), mode),
    "chmod": lambda root, path, mode: os.chmod(os.path.join(root, path), mode),
    "chown": lambda root, path, uid, gid: os.chown(os.path.join(root, path), uid, gid),
    "lchown": lambda root, path, uid, gid: os.lchown(os.path.join(root, path), uid, gid),
    "list": lambda root, path: sorted(os.listdir(os.path.join(root, path))),
    "setxattr": lambda root, path, value: os.setxattr(os.path.join(root, path), XATTR, value),
    "getxattr": lambda root, path: os.getxattr(os.path.join(root, path), XATTR),
    "removexattr": lambda root, path: os.removexattr(os.path.join(root, path), XATTR),
}


class Draw:
    """Draws who does what, as data; the same from the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next(self) -> tuple[User, Operation]:
        draw = self._random
        user = draw.choice(USERS)
        kind = draw.choice(_KINDS)
        path = self._path()
        match kind:
            case "open":
                flags = draw.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
                for flag in (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_NOATIME):
                    flags |= flag if draw.random() < 0.3 else 0
                return user, (kind, (path, flags, self._mode(user)))
            case "write" | "setxattr":
                return user, (kind, (path, draw.randbytes(draw.choice((1, 100)))))
            case "truncate":
                return user, (kind, (path, draw.choice((0, 10, 5000))))
            case "umask":
                return user, (kind, (path, draw.choice((0o022, 0o077, 0o777))))
            case "mkdir" | "mkfifo" | "chmod":
                return user, (kind, (path, self._mode(user)))
            case "rename":
                flags = draw.choice((0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
                return user, (kind, (path, self._path(), flags))
            case "link" | "symlink":
                return user, (kind, (path, self._path()))
            case "chown" | "lchown":
                uid = draw.choice((-1, -1, user.uid, draw.choice(USERS).uid))
                gid = draw.choice((-1, user.gid, SHARED, BOBS, draw.choice(USERS).gid))
                if uid == gid == -1:
                    # of a file with a set-ID bit that is not the caller's, FUSE in the kernel says yes and does nothing
                    uid = user.uid
                return user, (kind, (path, uid, gid))
            case "times":
                times = (UTIME_NOW, UTIME_OMIT, 10**18)
                return user, (kind, (path, draw.choice(times), draw.choice(times)))
            case _:
                return user, (kind, (path,))

    def _path(self) -> str:
        return "/".join(self._random.choices(NAMES, k=self._random.choice((1, 1, 2, 2, 3))))

    def _mode(self, user: User) -> int:
        """Any permissions. The set-user-ID bit only by root: of others kvfs does not take it, see test_set_id.py."""
        draw = self._random
        mode = draw.choice((0o777, 0o755, 0o750, 0o700, 0o711, 0o644, 0o640, draw.randrange(0o1000)))
        special = draw.choice((0, 0, 0, stat.S_ISVTX, stat.S_ISGID, stat.S_ISVTX | stat.S_ISGID, stat.S_ISUID))
        return mode | (special if user is ROOT else special & ~stat.S_ISUID)


# what makes something comes more often, or nearly every operation would meet ENOENT
_KINDS = [*_CALLS, *("mkdir", "open", "umask", "chmod", "chown") * 3, "rename", "link", "write", "setxattr"]
