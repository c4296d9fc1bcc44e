"""A whole tree as a dictionary, to compare it with itself after a remount or with another tree."""

import hashlib
import os
import stat
from typing import NamedTuple


class Entry(NamedTuple):
    mode: int
    links: int
    size: int
    mtime_ns: int
    uid: int
    content: str  # digest of a file, target of a link
    xattrs: tuple[tuple[str, bytes], ...]


def listing(root: str | os.PathLike[str]) -> dict[str, Entry]:
    """Every name below ``root`` (relative) with its attributes and content."""
    found: dict[str, Entry] = {}
    for directory, subdirectories, files in os.walk(root):
        for name in subdirectories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = _entry(path)
    return found


def comparable(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Without what differs between file systems (size and links of directories) or runs (times)."""
    return {
        name: entry._replace(mtime_ns=0, links=0, size=0) if stat.S_ISDIR(entry.mode) else entry._replace(mtime_ns=0)
        for name, entry in entries.items()
    }


def _entry(path: str) -> Entry:
    status = os.lstat(path)
    content = ""
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
    names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
    xattrs = tuple((name, os.getxattr(path, name)) for name in names)
    return Entry(status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_uid, content, xattrs)
