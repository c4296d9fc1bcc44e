"""Commands to the daemon of a mount, by its ``.kvfs/admin`` (``kvfs.fs.admin`` has the protocol)."""

import os
from pathlib import Path
from typing import Any

import msgspec

from kvfs.cli.mounts import is_dead, kvfs_mount_at
from kvfs.errors import MountError
from kvfs.fs.control import CONTROL_NAME

_PIECE = 1 << 20  # bytes


def ask(mountpoint: Path, command: str, **arguments: Any) -> Any:
    """What the daemon answers. NotMounted where no kvfs is mounted, MountError when it refuses, fails or is gone."""
    mount = kvfs_mount_at(mountpoint)
    request = msgspec.json.encode({"command": command, **arguments})
    try:
        fd = os.open(mount.mountpoint / os.fsdecode(CONTROL_NAME) / "admin", os.O_RDWR | os.O_CLOEXEC)
        try:
            answer = _exchange(fd, request)
        finally:
            os.close(fd)
    except PermissionError as error:
        raise MountError(f"{mountpoint}: permission denied", "ask as the user who mounted it, or as root") from error
    except OSError as error:
        if is_dead(mount):
            raise MountError(f"{mountpoint}: its daemon is gone", f"clear it: kvfs umount {mountpoint}") from error
        raise MountError(f"{mountpoint}: {command} failed: {error.strerror}") from error
    said = msgspec.json.decode(answer)
    if "error" in said:
        raise MountError(f"{mountpoint}: {command} failed: {said['error']}")
    return said["answer"]


def _exchange(fd: int, request: bytes) -> bytes:
    try:
        os.write(fd, request)
    except OSError:
        if answer := _answer(fd):  # which says why
            return answer
        raise
    return _answer(fd)


def _answer(fd: int) -> bytes:
    pieces: list[bytes] = []
    while piece := os.pread(fd, _PIECE, sum(map(len, pieces))):
        pieces.append(piece)
    return b"".join(pieces)
