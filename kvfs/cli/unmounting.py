"""``kvfs umount``: take the mount down, then wait until its daemon has flushed and gone.

umount(2) returns as soon as the mount is out of the tree; the daemon then still writes what it holds. Whoever
mounts the store again, detaches the device or shuts down has to wait for that, so this does. The wait is as long as
the kernel keeps the session, which it does for whoever still has the file system: above all a mount namespace (a
container, say) that was cloned while it was mounted, and has a copy of its own. Then this says who, and waits on; to
give up waiting changes nothing, the daemon ends by itself once nobody is left. --lazy is for those who do not mean to
wait: it returns at once, also when the daemon has nothing left to do.
"""

import ctypes
import errno
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from kvfs.cli.mounts import (
    Mount,
    copies_of,
    daemon_of,
    holders_of,
    is_dead,
    is_stopped,
    kvfs_mount_at,
    users_of,
)
from kvfs.errors import MountError, MountInUse, NotMounted, one_line

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_FUSERMOUNT_TIMEOUT = 60.0  # s
_PATIENCE = 2.0  # s before it is said what is waited for, and between looks whether that has changed
_MOST_NAMED = 3


def _silent(_line: str) -> None: ...


def unmount(
    path: Path, *, lazy: bool = False, timeout: float | None = None, say: Callable[[str], None] = _silent
) -> None:
    """Unmount the kvfs on ``path``; with ``lazy`` also while it is in use, and then without waiting.

    ``say`` is told, in one line, what a wait of more than two seconds is for, and again when that changes.

    A mount whose daemon was killed is detached whoever uses it: it cannot be used any more. Raises NotMounted,
    MountInUse (naming who uses it) and MountError, also when the daemon needs longer than ``timeout`` seconds.
    """
    mount = kvfs_mount_at(path)
    pid = daemon_of(mount)
    # opened before the mount goes, so that it cannot name a later process with the same number
    daemon = None if pid is None else _pidfd(pid)
    try:
        _detach(mount, lazy=lazy or (daemon is None and is_dead(mount)))
        if pid is not None and daemon is not None and not lazy:
            _wait(daemon, pid, mount, timeout, say)
    finally:
        if daemon is not None:
            os.close(daemon)


def _wait(daemon: int, pid: int, mount: Mount, timeout: float | None, say: Callable[[str], None]) -> None:
    """Until the process behind the pidfd ``daemon`` has ended."""
    deadline = None if timeout is None else time.monotonic() + timeout
    said = ""
    while True:
        left = _PATIENCE if deadline is None else min(_PATIENCE, max(0.0, deadline - time.monotonic()))
        if select.select([daemon], [], [], left)[0]:
            return
        reason = _reason(pid, mount)
        if deadline is not None and time.monotonic() >= deadline:
            raise MountError(
                f"{mount.mountpoint}: unmounted, but after {timeout:g} s {reason}",
                "wait for it to end before you use the store",
            )
        if reason != said:
            say(f"{mount.mountpoint}: unmounted; waiting: {reason}; Ctrl-C ends nothing but the wait")
            said = reason


def _reason(pid: int, mount: Mount) -> str:
    """Why the daemon of ``mount``, which is unmounted here, has not ended."""
    if is_stopped(pid):
        return f"daemon {pid} is stopped (`kill -CONT {pid}`), with {mount.source} not closed"
    if holders := copies_of(mount) or [f"used by {name}" for name in holders_of(mount)]:
        more = f" and {len(holders) - _MOST_NAMED} more" if len(holders) > _MOST_NAMED else ""
        return f"daemon {pid} still serves it, {', '.join(holders[:_MOST_NAMED])}{more}"
    return f"daemon {pid} still writes to {mount.source}"


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
