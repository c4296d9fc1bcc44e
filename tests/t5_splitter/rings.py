"""What the ring tests share: the kernel's parameter, and what a mount says of its request loop."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.mount import KvfsMount

_PATH = Path("/sys/module/fuse/parameters/enable_uring")


class Parameter:
    """``enable_uring`` of the fuse module. It counts when a mount is made; mounts that exist keep what they have."""

    def __init__(self) -> None:
        if not _PATH.exists():
            pytest.skip("NOT TESTED: the kernel has no FUSE over io_uring (Linux 6.14)")
        self._before = _PATH.read_text()
        if os.geteuid() != 0 and not self.is_on:
            pytest.skip("NOT TESTED: FUSE over io_uring is switched off, and only root can switch it on")

    @property
    def is_on(self) -> bool:
        return _PATH.read_text().strip() == "Y"

    def restore(self) -> None:
        if _PATH.read_text() != self._before:
            _PATH.write_text(self._before)

    @contextmanager
    def on(self) -> Iterator[None]:
        yield from self._as("Y")

    @contextmanager
    def off(self) -> Iterator[None]:
        yield from self._as("N")

    def _as(self, value: str) -> Iterator[None]:
        before = _PATH.read_text()
        if before.strip() != value:
            _PATH.write_text(value)
        try:
            yield
        finally:
            if _PATH.read_text() != before:
                _PATH.write_text(before)


def loop_statistics(mount: KvfsMount) -> dict[str, Any]:
    """``kind``, ``threads``, ``requests_total``, ``in_hand`` and so on."""
    statistics: dict[str, Any] = json.loads((mount / ".kvfs" / "stats").read_bytes())
    loop: dict[str, Any] = statistics["components"]["splitter"]["loop"]
    return loop
