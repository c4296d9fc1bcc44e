"""What the ring tests share: the kernel's parameter, and what a mount says of its request loop."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from support.mount import KvfsMount

_PATH = Path("/sys/module/fuse/parameters/enable_uring")
_LOCK = Path(tempfile.gettempdir()) / "kvfs-test-enable-uring.lock"


class Parameter:
    """``enable_uring`` of the fuse module. It counts when a mount is made; mounts that exist keep what they have.

    It is the whole machine's, and the tests may run there several times at once (with a sanitizer beside without): who
    wants it on shares a lock with others who do, who wants it off has it alone, and the last to go puts it back.
    """

    def __init__(self) -> None:
        if not _PATH.exists():
            pytest.skip("NOT TESTED: the kernel has no FUSE over io_uring (Linux 6.14)")
        if os.geteuid() != 0 and _read() != "Y":
            pytest.skip("NOT TESTED: FUSE over io_uring is switched off, and only root can switch it on")

    @contextmanager
    def on(self) -> Iterator[None]:
        with open(_LOCK, "a+") as lock:
            if _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):  # nobody else is here: this is what it was before
                lock.truncate(0)
                lock.write(_read())
                lock.flush()
            _lock(lock, fcntl.LOCK_SH)
            _write("Y")
            try:
                yield
            finally:
                if _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    lock.seek(0)
                    _write(lock.read())

    @contextmanager
    def off(self) -> Iterator[None]:
        with open(_LOCK, "a+") as lock:
            _lock(lock, fcntl.LOCK_EX)
            before = _read()
            _write("N")
            try:
                yield
            finally:
                _write(before)


def _lock(lock: IO[str], operation: int) -> bool:
    try:
        fcntl.flock(lock, operation)
    except BlockingIOError:
        return False
    return True


def _read() -> str:
    return _PATH.read_text().strip()


def _write(value: str) -> None:
    if _read() != value:
        _PATH.write_text(value)


def loop_statistics(mount: KvfsMount) -> dict[str, Any]:
    """``kind``, ``threads``, ``requests_total``, ``in_hand`` and so on."""
    statistics: dict[str, Any] = json.loads((mount / ".kvfs" / "stats").read_bytes())
    loop: dict[str, Any] = statistics["components"]["splitter"]["loop"]
    return loop
