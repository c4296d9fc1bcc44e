"""How tasks share the wait for completions, and what peers say to each other, without a device.

The queue here does what the test says, at the moment the test says it: a stalled adapter, one that vanishes and
completions that come while a task is cancelled cannot be had of a real one at will. That bytes arrive is shown with
real verbs, in ``test_verbs_endpoint``.
"""

import os
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
import trio.testing
from support.verbs_pair import streams

from kvfs.errors import PeerMismatch, TransferError, TransferFlushed
from kvfs.fabric.verbs import Endpoint, Region, RemoteRegion
from kvfs.fabric.verbs.abi import Opcode, Status
from kvfs.fabric.verbs.backend import Completion, Route
from kvfs.fabric.verbs.endpoint import Place, ack_timeout
from kvfs.fabric.verbs.exchange import Greeting, exchange, meet

_PLACE = Place("dev0", "Ethernet", 1, bytes(16), 0, 0, 5, 1 << 30, 16)
_REMOTE = RemoteRegion(rkey=7, address=1 << 20, length=1 << 16)


class ScriptedQueue:
    """Completes what it is told to complete. An event comes only when it was armed, as with a real one."""

    number = 17

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.posted: list[int] = []
        self.route: Route | None = None
        self.is_closed = False
        self.error: OSError | None = None
        self.refuses_to_close = False
        self.just_before_arming: Callable[[], None] = lambda: None
        self._completions: list[Completion] = []
        self._is_armed = False

    def connect(self, route: Route) -> None:
        self.route = route

    def post(
        self, opcode: Opcode, wr_id: int, address: int, length: int, lkey: int, remote_address: int, rkey: int
    ) -> None:
        self.posted.append(wr_id)

    def complete(self, wr_id: int, status: int = Status.SUCCESS) -> None:
        self._completions.append(Completion(wr_id, status, 0))
        if self._is_armed:
            self._is_armed = False
            os.eventfd_write(self.event_fd, 1)

    def poll(self, most: int) -> list[Completion]:
        assert not self.is_closed
        if self.error is not None:
            raise self.error
        found, self._completions = self._completions[:most], self._completions[most:]
        return found

    def arm(self) -> None:
        assert not self.is_closed
        self.just_before_arming()
        self._is_armed = True

    def take_event(self) -> bool:
        assert not self.is_closed
        try:
            return os.eventfd_read(self.event_fd) > 0
        except BlockingIOError:
            return False

    def vanish(self) -> None:
        self.error = OSError(5, "Input/output error")
        os.eventfd_write(self.event_fd, 1)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            os.close(self.event_fd)
            if self.refuses_to_close:
                raise OSError(16, "Device or resource busy")


class _Registered:
    lkey, rkey = 3, 4

    def close(self) -> None:
        pass


class Bench:
    """A connected endpoint on a scripted queue."""

    def __init__(self, depth: int = 4) -> None:
        self.queue = ScriptedQueue()
        self.region = Region(_Registered(), 4096, 1 << 16, None, lambda _: None)
        self.endpoint = Endpoint(self.queue, _PLACE, depth, 1.0, lambda _: None)
        self.ended: list[str] = []

    async def connect(self) -> None:
        async with streams() as (ours, theirs):
            await _say(theirs, _greeting())
            await theirs.send_all(b"\x01")
            await self.endpoint.connect(ours)

    async def write(self, name: str) -> None:
        try:
            await self.endpoint.write(self.region, _REMOTE, 4096)
            self.ended.append(name)
        except TransferError as error:
            self.ended.append(f"{name}: {error.message}")


def run(body: Callable[[Bench], Awaitable[None]], *, depth: int = 4, clock: trio.abc.Clock | None = None) -> None:
    async def whole() -> None:
        bench = Bench(depth)
        with trio.fail_after(3600 if clock else 60):
            await bench.connect()
            await body(bench)
        bench.endpoint.close()
        assert bench.queue.is_closed

    trio.run(whole, clock=clock)


def test_each_task_wakes_by_its_own_completion_in_whatever_order() -> None:
    async def body(bench: Bench) -> None:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(bench.write, name)
                await trio.testing.wait_all_tasks_blocked()
            for number, so_far in ((1, "b"), (0, "ba"), (2, "bac")):
                bench.queue.complete(number)
                with trio.fail_after(10):
                    while "".join(bench.ended) != so_far:
                        await trio.lowlevel.checkpoint()
        assert bench.region.users == 0

    run(body)


def test_when_the_leader_is_cancelled_another_leads() -> None:
    async def body(bench: Bench) -> None:
        first = bench.endpoint.write_nowait(bench.region, _REMOTE, 8)
        second = bench.endpoint.write_nowait(bench.region, _REMOTE, 8)
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(first.wait)
                    await trio.testing.wait_all_tasks_blocked()  # it leads
                    nursery.start_soon(second.wait)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            assert not first.is_done
            await trio.testing.wait_all_tasks_blocked()
            bench.queue.complete(1)
        assert second.is_done
        assert bench.region.users == 1
        bench.queue.complete(0)
        await first.wait()
        assert bench.region.users == 0

    run(body)


def test_a_completion_between_the_look_and_the_arming_is_not_overlooked() -> None:
    async def body(bench: Bench) -> None:
        transfer = bench.endpoint.write_nowait(bench.region, _REMOTE, 8)
        bench.queue.just_before_arming = lambda: bench.queue.complete(0)  # no event comes of it
        await transfer.wait()

    run(body)


def test_a_cancelled_write_returns_when_the_device_is_done_with_it() -> None:
    async def body(bench: Bench) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.write, "a")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    assert bench.region.users == 1
                    assert bench.ended == []
                    bench.queue.complete(0)
        assert bench.ended == ["a"]
        assert bench.region.users == 0

    run(body)


def test_closing_wakes_whoever_sleeps_and_calls_nothing_of_the_queue_any_more() -> None:
    async def body(bench: Bench) -> None:
        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(bench.write, name)
            await trio.testing.wait_all_tasks_blocked()
            bench.endpoint.close()
        assert len(bench.ended) == 2
        assert all("outcome unknown: the endpoint was closed" in said for said in bench.ended), bench.ended

    run(body)


def test_who_waits_for_room_is_woken_by_a_completion() -> None:
    async def body(bench: Bench) -> None:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(bench.write, name)
                await trio.testing.wait_all_tasks_blocked()
            assert bench.queue.posted == [0, 1]
            bench.queue.complete(1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert bench.queue.posted == [0, 1, 2]
            bench.queue.complete(0)
            bench.queue.complete(2)
        assert sorted(bench.ended) == ["a", "b", "c"]

    run(body, depth=2)


def test_a_cancelled_task_that_waits_for_room_posts_nothing() -> None:
    async def body(bench: Bench) -> None:
        held = bench.endpoint.write_nowait(bench.region, _REMOTE, 8)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.write, "never")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert bench.queue.posted == [0]
        bench.queue.complete(0)
        await held.wait()

    run(body, depth=1)


def test_the_first_failure_is_what_later_ones_name() -> None:
    async def body(bench: Bench) -> None:
        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(bench.write, name)
                await trio.testing.wait_all_tasks_blocked()
            bench.queue.complete(0, Status.REMOTE_OPERATION)
            bench.queue.complete(1, Status.FLUSHED)
        await bench.write("c")
        reason = "RDMA WRITE of 4096 bytes to 0x100000 (rkey 0x7): it failed (remote operation 11)"
        assert f"a: {reason}" in bench.ended
        assert any(said.startswith("b: ") and said.endswith(f"failed before: {reason}") for said in bench.ended)
        assert f"c: not tried, as the connection failed before: {reason}" in bench.ended
        assert bench.queue.posted == [0, 1]

    run(body)


def test_an_adapter_that_does_nothing_is_given_up() -> None:
    async def body(bench: Bench) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(bench.write, name)
        assert trio.current_time() - began == 30.0
        assert bench.queue.is_closed
        assert all("dev0: nothing was done for 30 s" in said for said in bench.ended), bench.ended
        assert bench.region.users == 0

    run(body, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_an_adapter_that_vanishes_fails_all() -> None:
    async def body(bench: Bench) -> None:
        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(bench.write, name)
            await trio.testing.wait_all_tasks_blocked()
            bench.queue.vanish()
        assert all("dev0: the adapter has gone: Input/output error" in said for said in bench.ended), bench.ended
        assert len(bench.ended) == 2

    run(body)


def test_memory_of_a_queue_pair_that_cannot_be_destroyed_stays_in_use() -> None:
    async def body(bench: Bench) -> None:
        transfer = bench.endpoint.write_nowait(bench.region, _REMOTE, 8)
        bench.queue.refuses_to_close = True
        bench.endpoint.close()
        with pytest.raises(TransferFlushed, match=r"its memory stays in use.*Device or resource busy"):
            await transfer.wait()
        with pytest.raises(BufferError):
            bench.region.close()

    run(body)


@pytest.mark.parametrize(("seconds", "exponent"), [(0.01, 8), (1.0, 15), (5.0, 17), (3600.0, 26)])
def test_the_time_out_of_a_packet_fits_all_its_tries(seconds: float, exponent: int) -> None:
    assert ack_timeout(seconds) == exponent
    assert 7 * 4.096e-6 * 2**exponent <= seconds < 7 * 4.096e-6 * 2 ** (exponent + 1)


def _greeting(**changes: object) -> Greeting:
    regions = (_REMOTE,)
    greeting = Greeting("Ethernet", qpn=0xABCDEF, psn=1, gid=bytes(range(16)), lid=0, mtu=3, reads=4, regions=regions)
    return msgspec.structs.replace(greeting, **changes)


async def _say(stream: trio.SocketStream, greeting: Greeting) -> None:
    data = msgspec.msgpack.encode(greeting)
    await stream.send_all(len(data).to_bytes(4, "big") + data)


def test_what_the_peer_says_is_what_the_queue_pair_is_set_to() -> None:
    async def body(bench: Bench) -> None:
        route = bench.queue.route
        assert route is not None
        assert (route.remote_qpn, route.remote_psn, route.remote_gid) == (0xABCDEF, 1, bytes(range(16)))
        assert (route.mtu, route.reads_out, route.reads_in, route.retries) == (3, 4, 16, 6)

    run(body)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"link_layer": "InfiniBand"}, "expected a peer on Ethernet, found it on InfiniBand"),
        ({"qpn": 1 << 24}, "another message"),
        ({"gid": b"short"}, "another message"),
        ({"mtu": 6}, "another message"),
        ({"regions": (RemoteRegion(rkey=1 << 32, address=0, length=1),)}, "another message"),
        ({"regions": (RemoteRegion(rkey=1, address=0, length=0),)}, "another message"),
    ],
)
def test_a_greeting_that_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    async def body() -> None:
        async with streams() as (ours, theirs):
            await _say(theirs, _greeting(**changes))
            with pytest.raises(PeerMismatch, match=words):
                await exchange(ours, _greeting())

    trio.run(body)


def test_a_greeting_takes_no_byte_of_what_follows() -> None:
    async def body() -> None:
        async with streams() as (ours, theirs):
            await _say(theirs, _greeting())
            await theirs.send_all(b"\x01rest")
            assert await exchange(ours, _greeting()) == _greeting()
            await meet(ours)
            assert await ours.receive_some() == b"rest"

    trio.run(body)


def test_a_peer_that_is_not_ready_is_refused() -> None:
    async def body() -> None:
        async with streams() as (ours, theirs):
            await theirs.send_all(b"\x00")
            with pytest.raises(PeerMismatch, match="found byte 00"):
                await meet(ours)

    trio.run(body)
