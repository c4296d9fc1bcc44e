"""Native completions, awaited from trio.

What does not wait is sync and called on ``Engine.store`` itself (lookup, getattr, create, ...); what may wait
for the device is an async method here, under the same name.

A native data call either finishes at once, and then nothing is awaited, or takes the token along and answers
through ``completions()`` when ``eventfd`` turns readable. One task, alive inside ``Engine.receiving()``, waits for
that and wakes whoever waits for the token.

Why there is no checkpoint on the path that finishes at once: the callers are request loops that wait for
their next request in trio's scheduler, so each request yields already.

Concurrency
-----------
Everything here runs on trio's thread; ``_waiting`` has no other user, and native only sees the eventfd.

* Submit and register happen without a yield between them, so a completion can never be drained before its
  waiter is in ``_waiting``.
* A waiter cannot be cancelled (``Abort.FAILED``). Native owns the token, and perhaps the caller's buffer, until
  it answers; a request that stopped waiting would leave its client without a reply and release handles that
  native still works on. Cancellation therefore takes effect at the next checkpoint after the answer. Rejected:
  forgetting the token and dropping the late answer. It saves no time, as the volume cannot be closed either
  before the device has answered.
* Hence the receiver has to outlive every waiter, also when the scope around ``receiving()`` is cancelled: it is
  shielded, and stopped only when the body is done and nobody waits.
* If the receiver itself fails (a bug), no answer can arrive any more: it wakes all waiters with EIO and refuses
  later ones before it lets the exception go.
"""

import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from errno import EIO
from typing import Any

import msgspec
import trio
from outcome import Value
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_readable, wait_task_rescheduled

from kvfs._native import ReadBuffer, Store

log = logging.getLogger(__name__)
native_log = logging.getLogger("kvfs.native")

_EVENT_TOKEN = 0


class EngineStatistics(msgspec.Struct, frozen=True):
    """``in_flight``: calls that wait for native now; ``completions_total`` arrived in ``wakeups_total`` batches."""

    in_flight: int
    completions_total: int
    wakeups_total: int


class Engine:
    """The waiting half of ``store``.

    ``on_drop(parent, name)`` is called, from the receiver, after native removed a corrupt file under that name. The
    async methods raise ``OSError`` as ``Store``'s do, and work inside ``receiving()`` only.
    """

    def __init__(self, store: Store, on_drop: Callable[[int, bytes], None]) -> None:
        self.store = store
        self._on_drop = on_drop
        self._next_token = itertools.count(_EVENT_TOKEN + 1).__next__
        self._waiting: dict[int, Task] = {}
        self._idle: trio.Event | None = None  # set when nobody waits; exists once receiving() ends
        self._refusing = True  # no receiver: whoever waited now would wait for ever
        self._completions = 0
        self._wakeups = 0

    async def read(self, ino: int, offset: int, size: int) -> ReadBuffer:
        token = self._next_token()
        buffer = self.store.read(ino, offset, size, token)
        return await self._completion(token) if buffer is None else buffer

    async def write(self, ino: int, offset: int, data: bytes) -> int:
        token = self._next_token()
        done = self.store.write(ino, offset, data, token)
        return await self._completion(token) if done is None else done

    async def truncate(self, ino: int, size: int) -> None:
        token = self._next_token()
        if self.store.truncate(ino, size, token) is None:
            await self._completion(token)

    async def flush(self, ino: int) -> None:
        token = self._next_token()
        if self.store.flush(ino, token) is None:
            await self._completion(token)

    async def fsync(self, ino: int) -> None:
        token = self._next_token()
        if self.store.fsync(ino, token) is None:
            await self._completion(token)

    async def sync(self) -> None:
        token = self._next_token()
        if self.store.sync(token) is None:
            await self._completion(token)

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        token = self._next_token()
        if self.store.rename(parent, name, new_parent, new_name, flags, token) is None:
            await self._completion(token)

    async def _completion(self, token: int) -> Any:
        """What native answers for ``token``, which it has just taken."""
        if self._refusing:
            raise OSError(EIO, "completions of the native store are not received")
        self._waiting[token] = current_task()
        result = await wait_task_rescheduled(_stay)
        if type(result) is int and result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Completions arrive inside this block; its end waits for those that are still due. Once per engine."""
        scope = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            self._refusing = False
            nursery.start_soon(self._receive, scope)
            try:
                yield
            finally:
                if self._waiting:
                    self._idle = trio.Event()
                    with trio.CancelScope(shield=True):
                        await self._idle.wait()
                self._refusing = True
                scope.cancel()

    async def _receive(self, scope: trio.CancelScope) -> None:
        eventfd = self.store.eventfd
        try:
            with scope:
                while True:
                    await wait_readable(eventfd)
                    self._wakeups += 1
                    for token, result in self.store.completions():
                        if token == _EVENT_TOKEN:
                            self._event(*result)
                        else:
                            self._completions += 1
                            self._wake(token, result)
        finally:
            self._refusing = True
            for token in list(self._waiting):
                self._wake(token, -EIO)

    def _wake(self, token: int, result: Any) -> None:
        reschedule(self._waiting.pop(token), Value(result))
        if self._idle is not None and not self._waiting:
            self._idle.set()

    def _event(self, kind: str, *details: Any) -> None:
        if kind == "log":
            level, text = details
            native_log.log(level, "%s", text)
        elif kind == "drop":
            self._on_drop(*details)
        else:
            log.error("unknown event of the native store: %s %r", kind, details)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(len(self._waiting), self._completions, self._wakeups)


def _stay(_raise_cancel: RaiseCancelT) -> Abort:
    return Abort.FAILED
