"""The mounts there are, and the process behind each: read from /proc, never through a mount.

A mount whose daemon was killed, stopped or hangs fails or blocks every call that reaches it, so nothing here
looks below a mountpoint, but for is_dead().
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvfs.errors import NotMounted

FSTYPE = "fuse.kvfs"
_MOST_LINKS = 40  # that the kernel follows
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5)). ``source``: for kvfs, the path of the store."""

    mountpoint: Path
    fstype: str
    source: str
    options: tuple[str, ...]


def mount_table() -> list[Mount]:
    """In the order of mounting: what is mounted over another mount comes after it."""
    table = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        mountpoint, options = fields.split(" ")[4:6]
        fstype, source, super_options = rest.split(" ")[:3]
        table.append(
            Mount(Path(_decode(mountpoint)), fstype, _decode(source), (*options.split(","), *super_options.split(",")))
        )
    return table


def mount_at(path: Path) -> Mount | None:
    """What is mounted on ``path`` itself, the topmost of several."""
    wanted = resolve_mountpoint(path)
    return next((mount for mount in reversed(mount_table()) if mount.mountpoint == wanted), None)


def resolve_mountpoint(path: Path) -> Path:
    """``path`` absolute, symlinks followed, like realpath; but what it is a mountpoint of is not looked at."""
    mountpoints = {mount.mountpoint for mount in mount_table()}
    for _ in range(_MOST_LINKS):
        absolute = path.absolute()
        if absolute.name == "..":
            return Path(os.path.realpath(absolute))
        path = Path(os.path.realpath(absolute.parent)) / absolute.name
        if path in mountpoints or not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


def kvfs_mount_at(path: Path) -> Mount:
    """The kvfs mount on ``path``; NotMounted when there is none."""
    mount = mount_at(path)
    if mount is None:
        mounts = [str(mount.mountpoint) for mount in mount_table() if mount.fstype == FSTYPE]
        raise NotMounted(
            f"{path}: nothing is mounted here", f"kvfs mounts: {', '.join(mounts)}" if mounts else "no kvfs is mounted"
        )
    if mount.fstype != FSTYPE:
        raise NotMounted(f"{path}: expected a kvfs mount, found {mount.fstype}", "name a kvfs mountpoint")
    return mount


def is_dead(mount: Mount) -> bool:
    """Whether the kernel has lost the mount's daemon. Only for a mount without a live daemon: else it may block.

    Asks with statvfs: the kernel answers stat of the root from its cache for a while.
    """
    try:
        os.statvfs(mount.mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def daemon_of(mount: Mount) -> int | None:
    """Process id of the kvfs daemon behind ``mount``: who holds both its store and /dev/fuse open.

    ``None`` when it is gone, belongs to another user, or runs in another process-id namespace. Asking the
    daemon itself would hang with a daemon that hangs; the owner recorded in the store may be long dead.
    """
    store = os.path.realpath(mount.source)
    for process in _processes():
        open_files = _targets(process / "fd")
        if "/dev/fuse" in open_files and open_files & {store, f"{store} (deleted)"}:
            return int(process.name)
    return None


def users_of(mount: Mount) -> list[str]:
    """Processes that keep the mount busy, as ``name (pid)``: a working directory, root, program or file in it."""
    root = str(mount.mountpoint)
    found = []
    for process in _processes():
        targets = _targets(process / "fd") | {_target(process / link) for link in ("cwd", "root", "exe")}
        if any(target == root or target.startswith(root.rstrip("/") + "/") for target in targets):
            found.append(f"{_command(process)} ({process.name})")
    return found


def _processes() -> Iterator[Path]:
    return Path("/proc").glob("[0-9]*")


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "gone since"


def _targets(directory: Path) -> set[str]:
    """Where the links in ``directory`` point to; nothing when its process is gone or another user's."""
    try:
        return {_target(link) for link in directory.iterdir()}
    except OSError:
        return set()


def _target(link: Path) -> str:
    """Where ``link`` points to, by its text alone; empty when it is gone."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _decode(text: str) -> str:
    """Undo the kernel's escapes; also those of bytes, as in \\040 for a blank."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
