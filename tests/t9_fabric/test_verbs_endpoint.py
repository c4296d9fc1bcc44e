"""One-sided RDMA over soft-RoCE: what arrives is what was sent, and every way to fail has its own error, in time."""

import functools
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
import xxhash
from support.verbs_pair import PATIENT, connect_pair, peer_process, stream_of, streams

from kvfs.cli import kvfsctl
from kvfs.cli.probes.devices import rdma_devices
from kvfs.cli.probes.finding import State
from kvfs.errors import (
    PeerMismatch,
    RdmaError,
    RdmaMissing,
    RemoteAccessRefused,
    RetryExceeded,
    TimedOut,
    TransferError,
    TransferFlushed,
)
from kvfs.fabric.verbs import Adapter, Backend, Endpoint, RemoteRegion, choose_backend, list_devices

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("rdma_address")]

_KIB, _MIB = 1 << 10, 1 << 20


@pytest.fixture(params=["pyverbs", "ibverbs"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return choose_backend(request.param)


class Pair:
    """Two adapters of one device, an endpoint of each; ``theirs`` is memory of the second, ``mine`` of the first."""

    def __init__(
        self, backend: Backend, length: int, depth: int, give_up_after: float, other: Backend | None = None
    ) -> None:
        self.here = Adapter(backend=backend)
        self.there = Adapter(backend=other or backend)
        self.endpoint = self.here.endpoint(depth, give_up_after)
        self.peer = self.there.endpoint(depth, give_up_after)
        self.mine = np.zeros(length, np.uint8)
        self.theirs = np.zeros(length, np.uint8)
        self.local = self.here.register(self.mine)
        self.shared = self.there.register(self.theirs, remote_read=True, remote_write=True)
        self.remote: RemoteRegion

    async def connect(self) -> None:
        (self.remote,) = await connect_pair(self.endpoint, self.peer, [self.shared])

    def close(self) -> None:
        self.here.close()
        self.there.close()


def run_pair(
    backend: Backend,
    body: Callable[[Pair], Awaitable[None]],
    *,
    length: int = _MIB,
    depth: int = 64,
    give_up_after: float = PATIENT,
    other: Backend | None = None,
) -> None:
    async def whole() -> None:
        pair = Pair(backend, length, depth, give_up_after, other)
        try:
            with trio.fail_after(120):
                await pair.connect()
                await body(pair)
        finally:
            pair.close()

    trio.run(whole)


def fill(array: Any, seed: int) -> int:
    """Bytes of a seed, which repeat after a prime number of them; their checksum."""
    array[:] = np.resize(np.frombuffer(random.Random(seed).randbytes(8191), np.uint8), len(array))
    return checksum(array)


def checksum(array: Any) -> int:
    return xxhash.xxh3_64_intdigest(memoryview(array))


def test_devices_are_listed_alike_by_both_libraries() -> None:
    listed = {name: list_devices(choose_backend(name)) for name in ("pyverbs", "ibverbs")}
    for found in listed.values():
        (device,) = [each for each in found if each.name == "rxe0"]
        (port,) = device.ports
        assert (device.name, port.link_layer, port.state, port.active_mtu) == ("rxe0", "Ethernet", "ACTIVE", 4096)
        assert "::ffff:10.77.0.1" in [gid.address for gid in port.gids if gid.kind == "RoCE v2"]
        assert device.limits is not None
        assert device.odp is not None
        assert device.limits.max_mr > 0
        assert device.has_dmabuf is False
        assert device.problem == ""
    by_pyverbs, by_ibverbs = (found[0] for found in listed.values())
    assert by_pyverbs.limits == by_ibverbs.limits
    assert by_pyverbs.ports == by_ibverbs.ports
    assert by_pyverbs.odp is not None
    assert by_ibverbs.odp is not None
    assert by_pyverbs.odp.supported == by_ibverbs.odp.supported


def test_commands_show_the_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kvfsctl", *words])
        with pytest.raises(SystemExit, match="0"):
            kvfsctl.main()
        return capsys.readouterr().out

    assert "RoCE v2" in run("fabric", "devices")
    report = json.loads(run("fabric", "devices", "--json"))
    assert report["library"] == "pyverbs"
    assert report["devices"][0]["ports"][0]["gids"][0]["kind"] == "RoCE v2"
    finding = rdma_devices()
    assert finding.state is State.OK
    assert "rxe0 (RoCE v2" in finding.found


@pytest.mark.parametrize("length", [4 * _KIB, 64 * _KIB, _MIB + 1, 32 * _MIB])
def test_write_and_read_carry_every_byte(backend: Backend, length: int) -> None:
    async def body(pair: Pair) -> None:
        sent = fill(pair.mine, length)
        await pair.endpoint.write(pair.local, pair.remote)
        assert checksum(pair.theirs) == sent
        expected = fill(pair.theirs, length + 1)
        await pair.endpoint.read(pair.local, pair.remote)
        assert checksum(pair.mine) == expected
        counted = pair.endpoint.statistics()
        assert (counted.read_bytes, counted.written_bytes) == (length, length)
        assert counted.reads == counted.writes == -(-length // pair.endpoint.max_length)
        assert (counted.failed, counted.flushed, counted.in_flight) == (0, 0, 0)

    run_pair(backend, body, length=length)


def test_the_two_libraries_understand_each_other() -> None:
    async def body(pair: Pair) -> None:
        sent = fill(pair.mine, 1)
        await pair.endpoint.write(pair.local, pair.remote)
        assert checksum(pair.theirs) == sent

    run_pair(choose_backend("pyverbs"), body, other=choose_backend("ibverbs"))


def test_a_part_is_written_where_it_belongs_and_nowhere_else(backend: Backend) -> None:
    async def body(pair: Pair) -> None:
        fill(pair.mine, 2)
        await pair.endpoint.write(pair.local, pair.remote, 4097, local_offset=3, remote_offset=8191)
        assert (pair.theirs[8191 : 8191 + 4097] == pair.mine[3 : 3 + 4097]).all()
        assert not pair.theirs[:8191].any()
        assert not pair.theirs[8191 + 4097 :].any()

    run_pair(backend, body)


def test_many_are_in_flight(backend: Backend) -> None:
    """Tasks that each write, read back and compare blocks of their own, with far fewer slots than tasks."""
    block, tasks, turns, depth = 16 * _KIB, 24, 6, 8

    async def body(pair: Pair) -> None:
        deepest = 0

        async def one(task: int) -> None:
            nonlocal deepest
            at = task * 2 * block
            mine = pair.mine[at : at + block]
            back = pair.mine[at + block : at + 2 * block]
            for turn in range(turns):
                sent = fill(mine, task * turns + turn)
                await pair.endpoint.write(pair.local, pair.remote, block, local_offset=at, remote_offset=at)
                await pair.endpoint.read(pair.local, pair.remote, block, local_offset=at + block, remote_offset=at)
                assert checksum(back) == sent
                deepest = max(deepest, pair.endpoint.statistics().in_flight)

        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(one, task)
        assert pair.endpoint.statistics().writes == tasks * turns
        assert 2 <= deepest <= depth

    run_pair(backend, body, length=2 * block * tasks, depth=depth)


def test_no_more_than_depth_are_posted(backend: Backend) -> None:
    async def body(pair: Pair) -> None:
        transfers = [pair.endpoint.write_nowait(pair.local, pair.remote, _MIB) for _ in range(4)]
        with pytest.raises(trio.WouldBlock):
            pair.endpoint.write_nowait(pair.local, pair.remote, _MIB)
        assert pair.local.users == 4
        with pytest.raises(BufferError, match="4 in flight"):
            pair.local.close()
        for transfer in reversed(transfers):
            await transfer.wait()
        assert pair.local.users == 0
        pair.local.close()
        with pytest.raises(ValueError, match="closed"):
            pair.endpoint.write_nowait(pair.local, pair.remote, 1)

    run_pair(backend, body, depth=4)


@pytest.mark.parametrize("verb", ["read", "write"])
def test_a_wrong_key_is_refused_and_nothing_else_goes_on(backend: Backend, verb: str) -> None:
    async def body(pair: Pair) -> None:
        fill(pair.mine, 3)
        before = checksum(pair.mine)
        forged = RemoteRegion(pair.remote.rkey ^ 0x5A00, pair.remote.address, pair.remote.length)
        transfer: Any = functools.partial(getattr(pair.endpoint, verb), pair.local)
        with pytest.raises(RemoteAccessRefused, match=f"RDMA {verb.upper()} of 4096 bytes .* refused it"):
            await transfer(forged, 4096)
        assert isinstance(pair.endpoint.failure, RemoteAccessRefused)
        with pytest.raises(TransferFlushed, match="failed before: RDMA"):
            await transfer(pair.remote, 4096)
        assert not pair.theirs.any()
        assert checksum(pair.mine) == before
        counted = pair.endpoint.statistics()
        assert (counted.failed, counted.in_flight) == (1, 0)

    run_pair(backend, body)


@pytest.mark.parametrize("verb", ["read", "write"])
def test_beyond_the_end_is_refused_here_and_by_the_peer(backend: Backend, verb: str) -> None:
    async def body(pair: Pair) -> None:
        transfer: Any = functools.partial(getattr(pair.endpoint, verb), pair.local)
        for offset, length in ((pair.remote.length - 4095, 4096), (-1, 1), (pair.remote.length, 1)):
            with pytest.raises(ValueError, match="expected a range within the remote region"):
                await transfer(pair.remote, length, remote_offset=offset)
        for offset, length in ((pair.local.length - 1, 2), (-1, 1), (0, 0)):
            with pytest.raises(ValueError, match="expected a range within the local region"):
                await transfer(pair.remote, length, local_offset=offset)
        assert pair.endpoint.failure is None  # these were never posted
        forged = RemoteRegion(pair.remote.rkey, pair.remote.address, 2 * pair.remote.length)
        with pytest.raises(RemoteAccessRefused):
            await transfer(forged, 4096, remote_offset=pair.remote.length - 4095)
        assert not pair.theirs.any()

    run_pair(backend, body)


def test_a_region_that_is_for_reading_only_is_not_written(backend: Backend) -> None:
    async def body(pair: Pair) -> None:
        only_read = pair.there.register(pair.theirs, remote_read=True).remote
        await pair.endpoint.read(pair.local, only_read)
        with pytest.raises(RemoteAccessRefused):
            await pair.endpoint.write(pair.local, only_read, 4096)

    run_pair(backend, body)


def test_a_region_that_was_closed_is_out_of_reach(backend: Backend) -> None:
    async def body(pair: Pair) -> None:
        await pair.endpoint.write(pair.local, pair.remote, 4096)
        pair.shared.close()
        with pytest.raises(RemoteAccessRefused):
            await pair.endpoint.read(pair.local, pair.remote, 4096)

    run_pair(backend, body)


def test_of_a_long_transfer_the_first_failure_is_what_is_said(backend: Backend) -> None:
    """Its first piece fails, the rest are flushed; none is in flight when it is said."""

    async def body(pair: Pair) -> None:
        forged = RemoteRegion(pair.remote.rkey ^ 0x5A00, pair.remote.address, pair.remote.length)
        with pytest.raises(RemoteAccessRefused):
            await pair.endpoint.write(pair.local, forged)
        assert pair.local.users == 0

    run_pair(backend, body, length=20 * _MIB, depth=2)


def test_a_peer_that_is_killed_is_given_up_in_time(backend: Backend) -> None:
    length, give_up_after = 256 * _KIB, 2.0

    async def body(process: BaseProcess, sock: socket.socket) -> None:
        with Adapter(backend=backend) as adapter:
            endpoint = adapter.endpoint(16, give_up_after)
            region = adapter.register(bytearray(length))
            errors: list[TransferError] = []
            progress = trio.Event()

            async def write() -> None:
                try:
                    while True:
                        await endpoint.write(region, remote)
                        progress.set()
                except TransferError as error:
                    errors.append(error)

            async with stream_of(sock.dup()) as stream:
                (remote,) = await endpoint.connect(stream, within=PATIENT)
                assert await stream.receive_some(1) == b"!"
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(write)
                    await progress.wait()
                    process.kill()
                    gone = trio.current_time()
            # an adapter may take four times as long; the rest is for a machine that is busy
            assert trio.current_time() - gone < 4 * give_up_after + PATIENT
            # the kernel may take the dead process's regions away before its queue pairs
            assert isinstance(endpoint.failure, RetryExceeded | RemoteAccessRefused), endpoint.failure
            assert sum(not isinstance(error, TransferFlushed) for error in errors) == 1, errors
            assert len(errors) == 4
            assert region.users == 0

    with peer_process(backend.name, length) as (process, sock):
        with_limit(functools.partial(body, process, sock))


def test_a_peer_that_does_not_answer_is_given_up_in_time(backend: Backend) -> None:
    give_up_after = 1.0

    async def body(pair: Pair) -> None:
        await pair.endpoint.write(pair.local, pair.remote)
        pair.peer.close()
        began = trio.current_time()
        with pytest.raises(RetryExceeded, match=r"RDMA READ of 4096 bytes .* did not answer"):
            await pair.endpoint.read(pair.local, pair.remote)
        assert trio.current_time() - began < 4 * give_up_after + PATIENT

    run_pair(backend, body, length=4096, give_up_after=give_up_after)


def test_closing_fails_what_waits(backend: Backend) -> None:
    """The peer's process is gone, so that what is in flight stays there."""

    async def body(process: BaseProcess, sock: socket.socket) -> None:
        with Adapter(backend=backend) as adapter:
            endpoint = adapter.endpoint(4, PATIENT)
            region = adapter.register(bytearray(4 * _KIB))
            async with stream_of(sock.dup()) as stream:
                (remote,) = await endpoint.connect(stream, within=PATIENT)
                process.kill()
                process.join(PATIENT)
                assert process.exitcode == -signal.SIGKILL

                async def write() -> None:
                    with pytest.raises(TransferFlushed, match="outcome unknown: the endpoint was closed"):
                        await endpoint.write(region, remote)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write)
                    nursery.start_soon(write)
                    await trio.testing.wait_all_tasks_blocked()
                    assert region.users == 2
                    endpoint.close()
            assert region.users == 0
            assert endpoint.statistics().flushed == 2

    with peer_process(backend.name, 4 * _KIB) as (process, sock):
        with_limit(functools.partial(body, process, sock))


def test_a_cancelled_transfer_is_over_when_it_returns(backend: Backend) -> None:
    async def body(pair: Pair) -> None:
        expected = fill(pair.theirs, 4)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel() -> None:
                    while pair.local.users == 0:
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                await pair.endpoint.read(pair.local, pair.remote)
        assert scope.cancel_called
        assert pair.local.users == 0
        assert checksum(pair.mine) == expected  # it was posted whole, so it came whole

    run_pair(backend, body, length=4 * _MIB)


def test_a_wait_that_is_cancelled_leaves_the_transfer_and_the_others(backend: Backend) -> None:
    async def body(pair: Pair) -> None:
        first = pair.endpoint.read_nowait(pair.local, pair.remote, 4 * _MIB)
        second = pair.endpoint.read_nowait(pair.local, pair.remote, 4 * _MIB)
        with trio.move_on_after(0):
            await first.wait()
        await second.wait()
        assert first.is_done
        await first.wait()

    run_pair(backend, body, length=4 * _MIB)


def test_everything_is_given_back(backend: Backend) -> None:
    async def nothing(pair: Pair) -> None:
        await pair.endpoint.write(pair.local, pair.remote)
        assert pair.here.statistics().registered_bytes == 4096
        pair.close()
        assert pair.here.statistics() == pair.there.statistics()
        assert pair.here.statistics().regions == pair.here.statistics().endpoints == 0

    run_pair(backend, nothing, length=4096)
    before = len(os.listdir("/proc/self/fd"))
    run_pair(backend, nothing, length=4096)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b"", PeerMismatch, "the end of its stream"),
        (b"\0\0", PeerMismatch, "the end of its stream"),
        (b"\xff\xff\xff\xff", PeerMismatch, "at most 16384 bytes, found 4294967295"),
        (b"\0\0\0\x05HTTP/", PeerMismatch, "another message"),
        (None, TimedOut, "none within 0.2 s"),
    ],
)
def test_a_peer_that_is_none_is_refused(
    backend: Backend, said: bytes | None, error: type[Exception], words: str
) -> None:
    async def body() -> None:
        with Adapter(backend=backend) as adapter, adapter.endpoint() as endpoint:
            region = adapter.register(bytearray(4096))
            async with streams() as (ours, theirs):
                if said is not None:
                    await theirs.send_all(said)
                    await theirs.send_eof()
                with pytest.raises(error, match=words):
                    await endpoint.connect(ours, within=0.2 if said is None else PATIENT)
            with pytest.raises(RdmaError):
                await endpoint.write(region, region.remote)

    with_limit(body)


def test_bad_arguments_are_named(backend: Backend) -> None:
    with Adapter(backend=backend) as adapter:
        for bad in (bytes(8), bytearray(), memoryview(bytearray(8))[::2]):
            with pytest.raises(ValueError, match="expected a writable, C-contiguous buffer"):
                adapter.register(bad)
        with pytest.raises(RdmaError, match="cannot be registered"):
            adapter.register_address(4096, 4096)
        with pytest.raises(RdmaError, match=r"cannot be registered: .*not supported"):
            adapter.register_dmabuf(0, 4096)
        for depth, give_up_after in ((0, 1.0), (1, 0.0), (1, 1e9)):
            with pytest.raises(ValueError, match="expected"):
                adapter.endpoint(depth, give_up_after)
        region = adapter.register(bytearray(8))
        with adapter.endpoint() as endpoint, pytest.raises(RdmaError, match="connect it first"):
            endpoint.write_nowait(region, region.remote, 8)
    for arguments, words in (
        ({"device": "mlx5_9"}, "expected one of rxe0, found no device mlx5_9"),
        ({"port": 7}, "no such port"),
        ({"gid_index": 77}, "expected a GID index of 0"),
    ):
        with pytest.raises(RdmaMissing, match=words):
            Adapter(backend=backend, **arguments)  # type: ignore[arg-type]


def with_limit(body: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        with trio.fail_after(120):
            await body()

    trio.run(whole)


def test_endpoint_is_of_one_connection(backend: Backend) -> None:
    async def body(pair: Pair) -> None:
        async with streams() as (ours, _):
            with pytest.raises(RdmaError, match="expected an endpoint that is new"):
                await pair.endpoint.connect(ours)
        closed: Endpoint = pair.here.endpoint()
        closed.close()
        closed.close()
        async with streams() as (ours, _):
            with pytest.raises(RdmaError, match="expected an endpoint that is new"):
                await closed.connect(ours)

    run_pair(backend, body, length=4096)
