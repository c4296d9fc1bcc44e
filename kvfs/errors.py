"""One error hierarchy and one errno map for everything that a person sees fail.

``str(error)`` is one line: what was expected and what was found, then, after a semicolon, what to do. The
commands print that line and exit with the class's ``exit_status``. Errors inside a mounted file system are
plain ``OSError`` instead: there the errno is the interface.
"""

import errno
import json
import os
from typing import ClassVar


class KvfsError(Exception):
    """Base of all. ``message``: expected and found, naming the object; ``hint``: what to do, may be empty."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return "; ".join(one_line(part) for part in (self.message, self.hint) if part)


class UsageError(KvfsError):
    """The command line itself is wrong."""

    exit_status = 2


class VolumeError(KvfsError):
    """A store cannot be formatted, opened or read."""


class NotAVolume(VolumeError):
    """No KVFS1 superblock where one was expected."""


class ForeignData(VolumeError):
    """The store holds something that formatting would destroy."""


class VolumeInUse(VolumeError):
    """Another process holds the store."""


class VolumeOwned(VolumeInUse):
    """The store is another host's, which did not close it in order."""


class VolumeCorrupt(VolumeError):
    """Superblocks, log or checkpoints contradict themselves or their checksums."""


class VolumeTooNew(VolumeError):
    """Written by a later format version, or with incompatible features."""


class VolumeTooSmall(VolumeError):
    """No room for the superblocks and one segment, or a geometry that cannot be."""


class VolumeReadOnly(VolumeError):
    """The store is to be written, but its device or file cannot be."""


class NoSpace(VolumeError):
    """The file system that is to hold the store has no room for it."""


class DeviceFailed(VolumeError):
    """The device under a mounted store fails, or does not answer."""


class MountError(KvfsError):
    """A mount cannot be made, reached or taken down."""


class NoFuse(MountError):
    """The kernel's FUSE device, or what an ordinary user needs to mount, is missing."""


class BadMountpoint(MountError):
    """The mountpoint is missing, not a directory, or not the caller's to mount on."""


class MountInUse(MountError):
    """Something is mounted on the mountpoint, or still uses the mount."""


class NotMounted(MountError):
    """No kvfs mount where one was expected."""


class FabricError(KvfsError):
    """A target, or what this host needs to reach it, does not do what was asked of it."""


class FabricMissing(FabricError):
    """This host cannot speak NVMe over fabrics as it is: no such module in its kernel, or no right to use it."""


class Unreachable(FabricError):
    """Nobody answers at the target's address, or not in NVMe over fabrics."""


class WrongNqn(FabricError):
    """The target has no subsystem of that NQN."""


class HostRefused(FabricError):
    """The target does not let this host's NQN in."""


class AuthenticationFailed(FabricError):
    """A key is missing, malformed, or not the one that the other side has."""


class NamespaceVanished(FabricError):
    """The subsystem has no such namespace, or it has gone."""


class NotConnected(FabricError):
    """No controller of that name or NQN on this host."""


class ToolMissing(FabricError):
    """No nvme-cli, or one that is too old for what was asked."""


class TimedOut(FabricError):
    """No end within the time limit; what was begun is undone."""


class RdmaError(FabricError):
    """RDMA by verbs does not do what was asked of it."""


class RdmaMissing(RdmaError):
    """No verbs library that can be imported, no RDMA device, or no port of it that is up."""


class PeerMismatch(RdmaError):
    """What the other side of a connection to be said is not what kvfs says, or does not fit."""


class TransferError(RdmaError):
    """An RDMA READ or WRITE failed; the connection that it was on is no longer usable."""


class TransferFlushed(TransferError):
    """It was not tried, or its outcome is unknown: the connection failed before, or was closed."""


class RemoteAccessRefused(TransferError):
    """The peer's adapter refuses it: no such key, beyond the region's end, or not a region for that."""


class RetryExceeded(TransferError):
    """The peer's adapter does not answer."""


class TraceError(KvfsError):
    """A trace file is not what it is said to be."""


# errno of the native calls (see _native.pyi) -> class, what to say when the system's own text is all there is, hint
_ERRNO_MAP: dict[int, tuple[type[KvfsError], str, str]] = {
    errno.EBUSY: (VolumeInUse, "in use by another process", "unmount it first, or wait until it is done"),
    errno.EREMOTE: (VolumeOwned, "belongs to another host", "mount it with --read-only, or see `kvfsctl takeover`"),
    errno.EBADE: (VolumeOwned, "another host has reserved it on its target", "`kvfsctl takeover` fences that host"),
    errno.EUCLEAN: (VolumeCorrupt, "corrupt", "`kvfsctl fsck` says what is wrong, and with --repair keeps the rest"),
    errno.EMEDIUMTYPE: (NotAVolume, "not a kvfs store", "`kvfsctl format` makes one"),
    errno.EPROTONOSUPPORT: (VolumeTooNew, "written by a newer kvfs", "use that version or a later one"),
    errno.EROFS: (VolumeReadOnly, "read-only", "mount it with --read-only, or make it writable"),
    errno.ENOSPC: (NoSpace, "no space left", "free some, or choose a smaller --size"),
    errno.EINVAL: (VolumeTooSmall, "size or geometry impossible", "choose another --size or --segment-size"),
    errno.ENOENT: (VolumeError, "no such file or device", "check the path"),
    errno.EACCES: (VolumeError, "permission denied", "run as its owner or as root"),
    errno.EPERM: (VolumeError, "operation not permitted", "run as its owner or as root"),
    errno.EIO: (VolumeError, "input/output error", "the kernel log says more about the device"),
}


def from_oserror(error: OSError, path: str | os.PathLike[str]) -> KvfsError:
    """The error of the hierarchy for what the native module, or the system, said about store ``path``.

    The native module's own text says expected and found already (and what to do, after a semicolon) and is
    kept; the system's generic text for the errno is replaced. An errno outside the map becomes a VolumeError.
    """
    name = os.fspath(path)
    code = error.errno or 0
    kind, fallback, hint = _ERRNO_MAP.get(code, (VolumeError, "", ""))
    text = error.strerror or str(error)
    if text == os.strerror(code):
        text = fallback or text
    elif kind is VolumeInUse:
        text, hint = _name_owner(text, hint)
    return kind(text if name in text else f"{name}: {text}", "" if "; " in text else hint)


def _name_owner(text: str, hint: str) -> tuple[str, str]:
    """``text`` and ``hint`` with the owner, which a mount records as JSON (``kvfs.fs.mount``), in words."""
    said, brace, rest = text.partition("{")
    try:
        owner = json.loads(brace + rest)
        who = f"pid {owner['pid']} of {owner['user']} on {owner['host']}"
        return (
            f"{said}{who}, mounted on {owner['mountpoint']} since {owner['since']}",
            f"run `kvfs umount {owner['mountpoint']}` first",
        )
    except (ValueError, LookupError, TypeError, RecursionError):  # no JSON, or another program's
        return text, hint


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person is told of the failure of several tasks: the KvfsError that all of it comes down to.

    The group itself when there is anything else in it, which is a bug, or more than one that differ.
    """
    ours, others = group.split(KvfsError)
    if ours is None or others is not None:
        return group
    leaves: list[BaseException] = []
    pending: list[BaseException] = [ours]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        else:
            leaves.append(error)
    return leaves[0] if len({str(leaf) for leaf in leaves}) == 1 else group


def one_line(text: str) -> str:
    """``text`` on one printable line: line breaks become spaces, other control characters are escaped."""
    flat = " ".join(text.split())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in flat)
