"""A store in a regular file: what its file system has left for the file's holes."""

import os
from pathlib import Path

from kvfs.fabric.physical import Reading


class FileSource:
    """The file is sparse: blocks that were never written, or were punched out again, have no space of their own.

    What is allocated stays the file's when it is written again. (On btrfs, and for blocks that share their space with
    a reflink, writing again takes new space: there this reads too much.) Blocks that an ordinary user may take count,
    as the file system's reserve is root's.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"file system of {path}"
        self._path = path

    def read(self) -> Reading | None:
        status = self._path.stat()
        space = os.statvfs(self._path)
        return reading_of(status.st_size, status.st_blocks * 512, space.f_bavail * space.f_frsize)


def reading_of(size: int, allocated: int, available: int) -> Reading | None:
    """``size`` and ``allocated`` bytes of the file, ``available`` ones of its file system.

    ``None`` when the holes can all be filled: the file system limits nothing.
    """
    holes = max(size - allocated, 0)
    if available >= holes:
        return None
    return Reading(total=min(allocated, size) + available, free=available, rewrites_in_place=True)
