"""``.kvfs/stats`` and ``.kvfs/metrics``: one picture of the mount, as JSON and as Prometheus text.

``stats``::

    {"version": str, "pid": int, "mountpoint": str, "store": str, "uuid": str, "options": {...},
     "uptime_seconds": float, "components": {name: {...}}}

Each component's part is what its ``statistics()`` returned. Cumulative counts have names that end in ``_total``.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kvfs.fs.control import Snapshot
from kvfs.fs.metrics import prometheus_text


class Identity(msgspec.Struct, frozen=True):
    """What does not change while the mount lives."""

    version: str
    pid: int
    mountpoint: str
    store: str
    uuid: str
    options: dict[str, Any]


class MountStatus:
    """``components``: name to a ``statistics()`` that returns a frozen struct or a mapping."""

    def __init__(self, identity: Identity, components: Mapping[str, Callable[[], Any]]) -> None:
        self._identity = identity
        self._components = components
        self._begin = time.monotonic()

    def stats(self) -> bytes:
        report = {
            **msgspec.structs.asdict(self._identity),
            "uptime_seconds": self._uptime(),
            "components": self._statistics(),
        }
        return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"

    def metrics(self) -> bytes:
        identity = self._identity
        return prometheus_text(
            lambda: {
                "version": identity.version,
                "uuid": identity.uuid,
                "mountpoint": identity.mountpoint,
                "store_path": identity.store,
                "uptime_seconds": self._uptime(),
                **self._statistics(),
            }
        )

    def _uptime(self) -> float:
        return round(time.monotonic() - self._begin, 3)

    def _statistics(self) -> dict[str, Any]:
        return {name: msgspec.to_builtins(statistics()) for name, statistics in self._components.items()}


class StatusFile:
    """A read-only row of the control directory's table; ``render()`` gives the content."""

    mode = 0o444

    def __init__(self, name: bytes, render: Callable[[], bytes]) -> None:
        self.name = name
        self._render = render
        self._content = b""
        self._is_fresh = False  # rendered and not yet opened

    def refresh(self) -> None:
        self._content = self._render()
        self._is_fresh = True

    def size(self) -> int:
        return len(self._content)

    def open(self, flags: int) -> Snapshot:
        if not self._is_fresh:  # opened without its name, or together with another
            self.refresh()
        self._is_fresh = False
        return Snapshot(self._content)


def status_files(status: MountStatus) -> tuple[StatusFile, ...]:
    return StatusFile(b"stats", status.stats), StatusFile(b"metrics", status.metrics)
