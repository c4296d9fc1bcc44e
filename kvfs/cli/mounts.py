"""The mounts there are, and the process behind each: read from /proc, never through a mount.

A mount whose daemon was killed, stopped or hangs fails or blocks every call that reaches it, so nothing here
looks below a mountpoint, but for is_dead().
"""

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvfs.errors import NotMounted
from kvfs.fabric.connections import Ledger
from kvfs.fabric.url import is_url

FSTYPE = "fuse.kvfs"
_MOST_LINKS = 40  # that the kernel follows
_OCTAL = re.compile(r"\\([0-7]{3})")
_AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_BYTES, _STATX_DEVICE = 256, struct.Struct("136x II")  # of struct statx; its stx_dev_major and _minor


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5)). ``source``: for kvfs, the path of the store.

    ``ident`` is the mount's alone, in all namespaces; ``device`` (major:minor) the file system's, however often it is
    mounted.
    """

    ident: int
    device: str
    mountpoint: Path
    fstype: str
    source: str
    options: tuple[str, ...]


def mount_table(process: Path = Path("/proc/self")) -> list[Mount]:
    """In the order of mounting: what is mounted over another mount comes after it. OSError: the process is gone."""
    table = []
    for line in (process / "mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        ident, _, device, _, mountpoint, options = fields.split(" ")[:6]
        fstype, source, super_options = rest.split(" ")[:3]
        table.append(
            Mount(
                ident=int(ident),
                device=device,
                mountpoint=Path(_decode(mountpoint)),
                fstype=fstype,
                source=_decode(source),
                options=(*options.split(","), *super_options.split(",")),
            )
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


def mount_of(path: Path, table: Sequence[Mount]) -> tuple[Path, Mount]:
    """``path`` resolved, and the kvfs mount that it lies in; NotMounted when it lies in none."""
    resolved = Path(os.path.realpath(path))
    # of several on one mountpoint the last one mounted is the one in sight, which max() has to meet first
    inside = [mount for mount in reversed(table) if resolved.is_relative_to(mount.mountpoint)]
    over = max(inside, key=lambda mount: len(mount.mountpoint.parts), default=None)
    if over is None or over.fstype != FSTYPE:
        known = ", ".join(str(mount.mountpoint) for mount in table if mount.fstype == FSTYPE)
        raise NotMounted(
            f"{path}: expected a path in a kvfs mount, found one in {over.fstype if over else 'none'}",
            f"kvfs mounts: {known}" if known else "no kvfs is mounted",
        )
    return resolved, over


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
    store = _device_of_url(mount) if is_url(mount.source) else os.path.realpath(mount.source)
    if store is None:
        return None
    for process in _processes():
        open_files = _targets(process / "fd")
        if "/dev/fuse" in open_files and open_files & {store, f"{store} (deleted)"}:
            return int(process.name)
    return None


def _device_of_url(mount: Mount) -> str | None:
    """What the daemon of a store on a fabric said that it would open."""
    try:
        return Ledger().device_of(mount.mountpoint)
    except PermissionError:  # it is root's, and so is the daemon
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


def copies_of(mount: Mount) -> list[str]:
    """Where else the file system of ``mount`` is mounted, in words: here, or in other mount namespaces, each with a
    process that lives there. A namespace that ``mount`` was cloned into keeps its copy when the original goes."""
    found = {
        copy.ident: f"mounted on {copy.mountpoint} too"
        for copy in mount_table()
        if copy.device == mount.device and copy.ident != mount.ident
    }
    namespaces = {_target(Path("/proc/self/ns/mnt"))}
    for process in sorted(_processes(), key=lambda process: int(process.name)):
        namespace = _target(process / "ns" / "mnt")
        if namespace in namespaces:
            continue
        if namespace:  # else another user's, whose mounts can be read nevertheless
            namespaces.add(namespace)
        try:
            table = mount_table(process)
        except OSError:
            continue
        for copy in table:
            if copy.device == mount.device and copy.fstype == mount.fstype and copy.ident != mount.ident:
                where = f"mounted on {copy.mountpoint} in the mount namespace of {_command(process)} ({process.name})"
                found.setdefault(copy.ident, where)
    return list(found.values())


def holders_of(mount: Mount) -> list[str]:
    """Processes with something of the file system of ``mount`` open, by whatever path, as ``name (pid)``."""
    found = []
    for process in _processes():
        try:
            links = [*(process / "fd").iterdir(), *(process / link for link in ("cwd", "root", "exe"))]
        except OSError:
            continue
        if any(_device_of(link) == mount.device for link in links):
            found.append(f"{_command(process)} ({process.name})")
    return found


def is_stopped(pid: int) -> bool:
    """By a signal or a tracer."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in "Tt"


def _device_of(link: Path) -> str:
    """major:minor of what ``link`` leads to; empty when that cannot be told. Never asks the file system itself, which
    stat would, and hang in one that hangs."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statx(_AT_FDCWD, os.fsencode(link), _AT_STATX_DONT_SYNC, 0, buffer) != 0:
        return ""
    major, minor = _STATX_DEVICE.unpack_from(buffer)
    return f"{major}:{minor}"


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
