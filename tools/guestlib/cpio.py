"""The archive that a kernel unpacks into its first file system: cpio's "newc" format, fields in ASCII hexadecimal.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. A kernel takes several archives, one
after the other, as one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = b"070701"
_END = "TRAILER!!!"
_DIRECTORY, _FILE = 0o040000, 0o100000


@dataclass(frozen=True)
class Entry:
    """``name``: without a leading slash, its directory before it. ``data``: None for a directory."""

    name: str
    data: bytes | None = None
    mode: int = 0o755

    @property
    def full_mode(self) -> int:
        return self.mode | (_DIRECTORY if self.data is None else _FILE)


def archive(entries: Iterable[Entry]) -> bytes:
    """All of ``entries``, in order, as one archive."""
    out = bytearray()
    number = 0
    for number, entry in enumerate(entries, 1):
        _append(out, number, entry.name, entry.full_mode, entry.data or b"")
    _append(out, number + 1, _END, 0, b"")
    return bytes(out)


def _append(out: bytearray, inode: int, name: str, mode: int, data: bytes) -> None:
    text = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size of data, device and its number twice, size of name, checksum (not used)
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
    out += _MAGIC + b"".join(b"%08X" % field for field in fields) + text
    out += bytes(-len(out) % 4)
    out += data
    out += bytes(-len(out) % 4)
