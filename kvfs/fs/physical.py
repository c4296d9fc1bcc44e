"""The mount's look at the physical space under its store, every second.

Concurrency: one task; a look runs in a thread, as a device or a network file system may take its time, and the next
begins a second after it has ended. What hangs is left to itself when the mount ends. Without a look the store goes on
by what it has placed since the last one; a source that fails, or has nothing to say, leaves the store to its own
ledger.
"""

import logging
from pathlib import Path
from typing import Any

import trio

from kvfs._native import Store
from kvfs.fabric.physical import Source, choose_source

log = logging.getLogger(__name__)

_INTERVAL = 1.0  # s


class PhysicalWatch:
    def __init__(self, store: Store, path: Path, published: Path | None) -> None:
        self._store = store
        self._problem = ""
        self._looks = 0
        self._failures = 0
        self._source: Source | None = None
        try:
            self._source = choose_source(path, published)
        except OSError as error:
            self._problem = str(error)

    async def run(self) -> None:
        if self._source is None:
            return
        while True:
            await self.look(self._source)
            await trio.sleep(_INTERVAL)

    async def look(self, source: Source) -> None:
        try:
            reading = await trio.to_thread.run_sync(source.read, abandon_on_cancel=True)
        except (OSError, ValueError) as error:
            self._failures += 1
            if str(error) != self._problem:
                log.warning("%s: cannot be read: %s", source.name, error)
            self._problem = str(error)
            self._store.forget_physical()
            return
        self._problem = ""
        self._looks += 1
        if reading is None:
            self._store.forget_physical()
        else:
            self._store.set_physical(reading.total, reading.free, reading.rewrites_in_place)

    def statistics(self) -> dict[str, Any]:
        return {
            "source": self._source.name if self._source else "none: the device says nothing of it",
            "problem": self._problem,
            "looks_total": self._looks,
            "failures_total": self._failures,
        }
