"""``kvfsctl evict`` and ``kvfsctl drain``, the daemon's half: one job at a time, looked after by further commands.

::

    {"command": "evict", "roots": [inode numbers], "bytes": 1048576, "dry_run": false}   begins one
    {"command": "evict-progress"}                                                       the one under way, or the last
    {"command": "evict-stop"}                                                           ends it early

Concurrency: ``Evictions.run`` is one task, alive as long as the mount, and the only one that steps a job. Commands run
on the same thread, replace nothing that is under way and only read its progress. A step is native, takes about a
millisecond and evicts whole files: whenever it is stopped, or the daemon ends, nothing is half done.
"""

import errno
from typing import Any

import msgspec
import trio

from kvfs import _native
from kvfs._native import EvictionJob, Store
from kvfs.fs.admin import AdminFile, Command

_CATCH_UP = 0.02  # s


class EvictCommand(Command, frozen=True):
    """``roots``: directories with all below them, and files; none: everything. ``bytes`` None: all that may go."""

    roots: list[int] = msgspec.field(default_factory=list)
    bytes: int | None = None
    dry_run: bool = False


class Evictions:
    """Jobs of one mount."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._job: EvictionJob | None = None
        self._is_done = True
        self._wake = trio.Event()

    def add_to(self, admin: AdminFile) -> None:
        admin.add("evict", EvictCommand, self._begin)
        admin.add("evict-progress", Command, self._progress)
        admin.add("evict-stop", Command, self._stop)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            job = self._job
            assert job is not None
            while not self._is_done:
                step = job.step()
                if step == _native.EVICTION_DONE:
                    self._is_done = True
                await trio.sleep(_CATCH_UP if step == _native.EVICTION_WAIT else 0)

    async def _begin(self, command: EvictCommand) -> None:
        if not self._is_done:
            raise OSError(errno.EBUSY, "another kvfsctl evict or drain is under way")
        if command.bytes is not None and command.bytes < 0:
            raise OSError(errno.EINVAL, f"expected a number of bytes, found {command.bytes}")
        self._job = EvictionJob(self._store, roots=command.roots, bytes=command.bytes, dry_run=command.dry_run)
        self._is_done = False
        self._wake.set()

    async def _progress(self, _: Command) -> dict[str, Any]:
        if self._job is None:
            raise OSError(errno.ENOENT, "nothing was evicted by command since the mount")
        return {"done": self._is_done, **self._job.progress()}

    async def _stop(self, _: Command) -> None:
        self._is_done = True
