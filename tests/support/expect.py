"""Short names for what nearly every file-system test says."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CLOCK_REALTIME_COARSE = 5  # <linux/time.h>; the time module does not name it

StrPath = str | bytes | os.PathLike[str]


@contextmanager
def raises(*codes: int) -> Iterator[None]:
    """The block has to raise an OSError with one of these errnos."""
    wanted = " or ".join(errno.errorcode[code] for code in codes)
    try:
        yield
    except OSError as error:
        if error.errno in codes:
            return
        found = errno.errorcode.get(error.errno or 0, str(error.errno))
        pytest.fail(f"expected {wanted}, got {found}: {error}")
    pytest.fail(f"expected {wanted}, but the call succeeded")


@contextmanager
def opened(path: StrPath, flags: int = os.O_RDWR, mode: int = 0o644) -> Iterator[int]:
    """A file descriptor, closed at the end; the errors of close() count."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)


def write_file(path: StrPath, data: bytes = b"", mode: int = 0o644) -> None:
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as fd:
        write_all(fd, data, 0)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """pwrite() that has to take every byte at once, as the clients of DESIGN 6 expect."""
    done = os.pwrite(fd, data, offset)
    assert done == len(data), f"short write at {offset}: {done} of {len(data)} bytes"


def read_file(path: StrPath) -> bytes:
    with opened(path, os.O_RDONLY) as fd:
        size = os.fstat(fd).st_size
        data = os.pread(fd, size + 1, 0)
        assert len(data) == size, f"read of the whole file: {len(data)} of {size} bytes"
        return data


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes that differ at every 8-byte word and from seed to seed, so that misplaced blocks show."""
    words = (length + 7) // 8
    return b"".join(
        (index * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03 & (1 << 64) - 1).to_bytes(8, "little")
        for index in range(1, words + 1)
    )[:length]


def clock_past(moment_ns: int) -> None:
    """Wait until the clock that stamps files is past ``moment_ns``, so that the next stamp has to be later."""
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= moment_ns:
        time.sleep(0.001)
