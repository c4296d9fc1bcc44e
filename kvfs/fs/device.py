"""A FUSE connection of our own: ``/dev/fuse`` opened and mounted, for whoever reads requests without libfuse.

Root mounts by mount(2). Others ask fusermount3, which is set-user-ID: it opens the device, mounts it and sends the
descriptor over a socket that the environment variable ``_FUSE_COMMFD`` names (libfuse's lib/mount.c and
util/fusermount.c are the two ends of that protocol).
"""

import ctypes
import os
import select
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from kvfs.errors import MountError, NoFuse, one_line

_HINT = "`kvfsctl doctor` checks what it takes"
_FUSERMOUNT_TIMEOUT = 60.0  # s
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_SYNCHRONOUS, _MS_DIRSYNC, _MS_NOATIME = 1, 2, 4, 8, 16, 128, 1024
# name: (flag, set it?)
_FLAGS = {
    "ro": (_MS_RDONLY, True),
    "nosuid": (_MS_NOSUID, True),
    "nodev": (_MS_NODEV, True),
    "noexec": (_MS_NOEXEC, True),
    "exec": (_MS_NOEXEC, False),
    "sync": (_MS_SYNCHRONOUS, True),
    "dirsync": (_MS_DIRSYNC, True),
    "noatime": (_MS_NOATIME, True),
}


def mount_device(mountpoint: Path, fsname: str, options: Iterable[str]) -> int:
    """Mount a new connection on ``mountpoint``; its descriptor, on which INIT waits to be read.

    ``options``: flags of mount(8) (ro, nosuid, ...), ``allow_other`` and ``default_permissions``. Raises MountError,
    NoFuse.
    """
    if os.geteuid() == 0:
        return _mount(mountpoint, fsname, tuple(options))
    return _fusermount(mountpoint, fsname, tuple(options))


def detach_device(mountpoint: Path, fd: int) -> str:
    """Take the mount of connection ``fd`` out of the tree, whoever uses it; why that failed, or nothing.

    Does nothing when the connection is over: what is mounted there now, if anything, is another's.
    """
    events = select.poll()
    events.register(fd, 0)
    if any(event & select.POLLERR for _, event in events.poll(0)):
        return ""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mountpoint), _UMOUNT_NOFOLLOW | _MNT_DETACH) == 0:
            return ""
        return os.strerror(ctypes.get_errno())
    return _run_fusermount(["-u", "-z", "--", str(mountpoint)])


def _mount(mountpoint: Path, fsname: str, options: tuple[str, ...]) -> int:
    flags = _MS_NOSUID | _MS_NODEV
    data = [f"rootmode={stat.S_IFDIR:o}", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    for option in options:
        if option in _FLAGS:
            flag, is_set = _FLAGS[option]
            flags = flags | flag if is_set else flags & ~flag
        else:
            data.append(option)
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise NoFuse(f"/dev/fuse: {error.strerror}", _HINT) from error
    libc = ctypes.CDLL(None, use_errno=True)
    text = ",".join([f"fd={fd}", *data])
    if libc.mount(os.fsencode(fsname), os.fsencode(mountpoint), b"fuse.kvfs", ctypes.c_ulong(flags), os.fsencode(text)):
        code = ctypes.get_errno()
        os.close(fd)
        raise MountError(f"{mountpoint}: cannot mount: {os.strerror(code)}", _HINT)
    return fd


def _fusermount(mountpoint: Path, fsname: str, options: tuple[str, ...]) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        text = ",".join([f"fsname={escape(fsname)}", "subtype=kvfs", *options])
        said = _run_fusermount(["-o", text, "--", str(mountpoint)], theirs)
        if said:
            raise MountError(f"{mountpoint}: cannot mount: {said}", _HINT)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountError(f"{mountpoint}: cannot mount: fusermount3 sent no descriptor", _HINT)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def escape(value: str) -> str:
    """For libfuse and fusermount3, which split options at commas."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _run_fusermount(arguments: list[str], channel: socket.socket | None = None) -> str:
    """Nothing when it succeeds, else what it said, in one line."""
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3: not found, and only root can mount without it", "install the package fuse3")
    environment = {**os.environ, "LC_ALL": "C"}
    if channel is not None:
        environment["_FUSE_COMMFD"] = str(channel.fileno())
    done = subprocess.run(
        [program, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_FUSERMOUNT_TIMEOUT,
        check=False,
        pass_fds=() if channel is None else (channel.fileno(),),
    )
    text = one_line(done.stderr.decode(errors="replace"))
    return "" if done.returncode == 0 else text or f"fusermount3 ended with status {done.returncode}"
