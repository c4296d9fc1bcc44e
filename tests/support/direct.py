"""What O_DIRECT asks of its callers: aligned memory."""

import mmap
import os


def aligned(data_or_length: bytes | int) -> memoryview:
    """Page-aligned memory of that length, or with that content."""
    length = data_or_length if isinstance(data_or_length, int) else len(data_or_length)
    memory = memoryview(mmap.mmap(-1, max(length, 1)))[:length]
    if not isinstance(data_or_length, int):
        memory[:] = data_or_length
    return memory


def direct_read(fd: int, length: int, offset: int) -> bytes:
    """What one preadv() into aligned memory returns: ``length`` bytes, fewer at the end of the file."""
    memory = aligned(length)
    return bytes(memory[: os.preadv(fd, [memory], offset)])
