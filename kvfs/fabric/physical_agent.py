"""Physical space of a device on another host: an agent beside the device publishes it, with a time limit.

Vendor commands do not pass an NVMe-oF target. So ``kvfsctl physical DEVICE --publish FILE`` runs on the target, and
FILE reaches the host somehow (a shared directory, a copy every few seconds)::

    {"kvfs_physical": 1, "total": bytes, "free": bytes, "rewrites_in_place": bool,
     "published_unix": seconds, "valid_seconds": seconds, "device": str}

The file appears whole or not at all (written beside it, then renamed). Once its time is over it counts as absent, and
no news means ratio 1.0. Both clocks are taken to agree within a few seconds.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from kvfs.fabric.physical import Reading

_VERSION = 1
_SKEW = 10.0  # s that a publisher's clock may be ahead


class Published(msgspec.Struct, frozen=True):
    kvfs_physical: int
    total: int
    free: int
    rewrites_in_place: bool
    published_unix: float
    valid_seconds: float
    device: str = ""


def publish(path: Path, reading: Reading, device: str, valid_seconds: float) -> None:
    """OSError when it cannot be written."""
    entry = Published(
        _VERSION, reading.total, reading.free, reading.rewrites_in_place, time.time(), valid_seconds, device
    )
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(msgspec.json.encode(entry) + b"\n")
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def parse_published(data: bytes, now: float) -> Reading | None:
    """``None`` once its time is over. ValueError when it is no such file, or makes no sense."""
    try:
        entry = msgspec.json.decode(data, type=Published)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected what `kvfsctl physical --publish` writes, found: {error}") from error
    if entry.kvfs_physical != _VERSION:
        raise ValueError(f"expected version {_VERSION} of the format, found {entry.kvfs_physical}")
    if not 0 <= entry.free <= entry.total < 1 << 63 or entry.total == 0:
        raise ValueError(f"expected 0 <= free <= total, found {entry.free} of {entry.total}")
    age = now - entry.published_unix
    if not -_SKEW <= age <= entry.valid_seconds:
        return None
    return Reading(entry.total, entry.free, entry.rewrites_in_place)


class PublishedSource:
    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.name = f"published in {path}"
        self._path = path
        self._clock = clock

    def read(self) -> Reading | None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return parse_published(data, self._clock())
