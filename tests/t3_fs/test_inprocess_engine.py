"""``Engine``: the protocol between native completions and trio, against a store whose answers the test decides."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import trio
import trio.testing

from kvfs._native import Store
from kvfs.store import Engine

INLINE = object()


class ScriptedStore:
    """Takes the tokens of ``sync``, ``read`` and ``write`` and answers when told to."""

    def __init__(self) -> None:
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.tokens: list[int] = []
        self.inline: Any = None
        self._answers: list[tuple[int, Any]] = []
        self.broken = False

    def _take(self, token: int) -> Any:
        if self.inline is not None:
            return self.inline
        self.tokens.append(token)
        return None

    def sync(self, token: int) -> Any:
        return self._take(token)

    def read(self, ino: int, offset: int, size: int, token: int) -> Any:
        return self._take(token)

    def write(self, ino: int, offset: int, data: bytes, token: int) -> Any:
        return self._take(token)

    def answer(self, *answers: tuple[int, Any]) -> None:
        self._answers += answers
        os.eventfd_write(self.eventfd, 1)

    def completions(self) -> list[tuple[int, Any]]:
        os.eventfd_read(self.eventfd)
        if self.broken:
            raise RuntimeError("broken on purpose")
        answers, self._answers = self._answers, []
        return answers


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    scripted = ScriptedStore()
    yield scripted
    os.close(scripted.eventfd)


def make_engine(store: ScriptedStore, on_drop: Callable[[int, bytes], None] = lambda parent, name: None) -> Engine:
    return Engine(cast(Store, store), on_drop)


def test_answers_reach_their_waiters_in_any_order(store: ScriptedStore) -> None:
    results: dict[str, Any] = {}

    async def main() -> None:
        engine = make_engine(store)

        async def write(name: str) -> None:
            results[name] = await engine.write(2, 0, b"data")

        async with engine.receiving(), trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(write, name)
                await trio.testing.wait_all_tasks_blocked()
            assert engine.statistics().in_flight == 3
            first, second, third = store.tokens
            store.answer((third, 3), (first, 1))
            store.answer((second, 2))
        assert engine.statistics().in_flight == 0
        assert engine.statistics().completions_total == 3

    trio.run(main)
    assert results == {"a": 1, "b": 2, "c": 3}


def test_negative_answers_are_errnos(store: ScriptedStore) -> None:
    async def main() -> None:
        engine = make_engine(store)

        async def write() -> None:
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
                await engine.write(2, 0, b"data")
            assert caught.value.errno == errno.ENOSPC

        async with engine.receiving(), trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            store.answer((store.tokens[0], -errno.ENOSPC))

    trio.run(main)


def test_an_answer_at_once_does_not_yield(store: ScriptedStore) -> None:
    store.inline = 4

    async def main() -> None:
        engine = make_engine(store)
        async with engine.receiving():
            with trio.testing.assert_no_checkpoints():
                assert await engine.write(2, 0, b"data") == 4

    trio.run(main)


def test_cancellation_waits_for_the_answer(store: ScriptedStore) -> None:
    """Also that of the scope around ``receiving()``: the receiver goes on for whoever still waits."""
    done = []

    async def main() -> None:
        engine = make_engine(store)

        async def write() -> None:
            done.append(await engine.write(2, 0, b"data"))

        async def cancel_then_answer(scope: trio.CancelScope) -> None:
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                assert engine.statistics().in_flight == 1
                store.answer((store.tokens[0], 4))

        async with trio.open_nursery() as outside:
            with trio.CancelScope() as scope:
                outside.start_soon(cancel_then_answer, scope)
                async with engine.receiving(), trio.open_nursery() as nursery:
                    nursery.start_soon(write)

    trio.run(main)
    assert done == [4]


def test_a_broken_receiver_fails_every_waiter(store: ScriptedStore) -> None:
    errors = []

    async def main() -> None:
        engine = make_engine(store)

        async def write() -> None:
            for _ in range(2):  # the second comes after the receiver's end
                try:
                    await engine.write(2, 0, b"data")
                except OSError as error:
                    errors.append(error.errno)

        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="broken on purpose"), flatten_subgroups=True):
            async with engine.receiving(), trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await trio.testing.wait_all_tasks_blocked()
                store.broken = True
                store.answer((store.tokens[0], 4))

    trio.run(main)
    assert errors == [errno.EIO, errno.EIO]


def test_events_are_told_apart_from_answers(store: ScriptedStore, caplog: pytest.LogCaptureFixture) -> None:
    dropped = []

    async def main() -> None:
        engine = make_engine(store, lambda parent, name: dropped.append((parent, name)))
        async with engine.receiving():
            store.answer((0, ("drop", 7, b"page")), (0, ("log", logging.ERROR, "100% of it")))
            await trio.testing.wait_all_tasks_blocked()
        assert engine.statistics().completions_total == 0

    trio.run(main)
    assert dropped == [(7, b"page")]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", "100% of it")]
