"""Where in a store's backing file the pages of a set of files lie, found by their stamps.

The peer of a read has to read the same bytes from the same place: an unwritten part of a sparse file costs the
device nothing, and another part of it may lie elsewhere on the disk. Nothing of the store's format is assumed but
that page data lies in whole, aligned 4 KiB blocks and unchanged.
"""

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from benchlib import pattern
from benchlib.system import BenchError

_PROBE = 1 << 20  # bytes between two probes, each in the middle of its MiB: segment headers lie at the start of one
_GAP = 64 << 20  # written bytes that are no pages (a segment of the log, say) and do not end a range


def data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of what has been written: holes and preallocated space are left out."""
    size = os.fstat(fd).st_size
    end = 0
    while end < size:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, end


def longest_range(store: Path, wanted: int) -> tuple[int, int]:
    """(offset, length) of pages one after the other: ``wanted`` bytes or, where there are fewer, the longest range.

    Both are multiples of 1 MiB. BenchError when there is no page at all.
    """
    fd = os.open(store, os.O_RDONLY | os.O_DIRECT)
    try:
        found = [part for begin, end in data_ranges(fd) for part in _pages_within(fd, begin, end)]
    finally:
        os.close(fd)
    if not found:
        raise BenchError(f"{store}: expected the pages that were written to the mount, found none")
    begin, end = max(found, key=lambda part: part[1] - part[0])
    return begin, min(end - begin, wanted // _PROBE * _PROBE)


def _pages_within(fd: int, begin: int, end: int) -> list[tuple[int, int]]:
    """The ranges of pages in ``begin`` ... ``end``, all of which has been written."""
    parts: list[tuple[int, int]] = []
    with mmap.mmap(-1, pattern.BLOCK) as block:
        for offset in range(-(-begin // _PROBE) * _PROBE, end - _PROBE + 1, _PROBE):
            os.preadv(fd, [block], offset + _PROBE // 2)
            if not pattern.is_stamp(struct.unpack_from("<Q", block)[0]):
                continue
            if parts and offset - parts[-1][1] <= _GAP:
                parts[-1] = (parts[-1][0], offset + _PROBE)
            else:
                parts.append((offset, offset + _PROBE))
    return parts
