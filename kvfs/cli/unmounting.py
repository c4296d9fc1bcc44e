"""``kvfs umount``: take the mount down, then wait until its daemon has flushed and gone.

umount(2) returns as soon as the mount is out of the tree; the daemon then still writes what it holds. Whoever
mounts the store again, detaches the device or shuts down has to wait for that, so this does.
"""

import ctypes
import errno
import os
import select
import shutil
import subprocess
from pathlib import Path

from kvfs.cli.mounts import Mount, daemon_of, is_dead, kvfs_mount_at, users_of
from kvfs.errors import MountError, MountInUse, NotMounted, one_line

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_FUSERMOUNT_TIMEOUT = 60.0  # s


def unmount(path: Path, *, lazy: bool = False, timeout: float | None = None) -> None:
    """Unmount the kvfs on ``path``; with ``lazy`` also while it is in use, and then without waiting.

    A mount whose daemon was killed is detached whoever uses it: it cannot be used any more. Raises NotMounted,
    MountInUse (naming who uses it) and MountError, also when the daemon needs longer than ``timeout`` seconds.
    """
    mount = kvfs_mount_at(path)
    pid = daemon_of(mount)
    # opened before the mount goes, so that it cannot name a later process with the same number
    daemon = None if pid is None else _pidfd(pid)
    try:
        _detach(mount, lazy=lazy or (daemon is None and is_dead(mount)))
        if daemon is not None and not lazy:
            ended, _, _ = select.select([daemon], [], [], timeout)
            if not ended:
                raise MountError(
                    f"{path}: unmounted, but daemon {pid} still writes to {mount.source} after {timeout:g} s",
                    "wait for it to end before you use the store",
                )
    finally:
        if daemon is not None:
            os.close(daemon)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _detach(mount: Mount, *, lazy: bool) -> None:
    code, text = (_umount2 if os.geteuid() == 0 else _fusermount)(mount.mountpoint, lazy)
    if code == 0:
        return
    if code == errno.EBUSY:
        users = users_of(mount)
        raise MountInUse(
            f"{mount.mountpoint}: in use by {', '.join(users[:5]) or 'a process that you cannot see'}",
            "end that first, or detach it with --lazy",
        )
    if code == errno.EINVAL:
        raise NotMounted(f"{mount.mountpoint}: no longer mounted")
    raise MountError(f"{mount.mountpoint}: cannot unmount: {text}", "unmount it as the user who mounted it, or as root")


def _umount2(mountpoint: Path, lazy: bool) -> tuple[int, str]:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)) == 0:
        return 0, ""
    code = ctypes.get_errno()
    return code, os.strerror(code)


def _fusermount(mountpoint: Path, lazy: bool) -> tuple[int, str]:
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3: not found, and only root can unmount without it", "install the package fuse3")
    done = subprocess.run(
        [program, "-u", *(["-z"] if lazy else []), "--", str(mountpoint)],
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_FUSERMOUNT_TIMEOUT,
        check=False,
    )
    text = one_line(done.stderr.decode(errors="replace"))
    if done.returncode == 0:
        return 0, ""
    return errno.EBUSY if os.strerror(errno.EBUSY) in text else errno.EPERM, text
