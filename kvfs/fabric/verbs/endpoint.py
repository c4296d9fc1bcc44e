"""One-sided RDMA READ and WRITE over a reliable connection: one end of it.

Who owns what. An endpoint is used from one thread, that of one ``trio.run``. It owns its queue pair, completion queue
and channel. Up to ``depth`` requests are posted; ``_pending`` has each by its number until its completion was polled.
A completion tells three things apart: done, failed, flushed. The first failure puts the queue pair into the error
state, as reliable connections have it (InfiniBand Architecture Specification, volume 1, 10.3.1): all that was posted
behind is flushed, and nothing can be posted again. That is kept in ``_failure``; the way on is a new endpoint.

Who waits. There is no task in the background. Of the tasks that wait, one leads: it polls, hands out what came, and
sleeps on the channel's descriptor; the others are parked. The leader wakes all of them when anything came and when it
leaves, done, failed or cancelled; each looks whether what it waits for has come true, and one that goes on waiting
leads. So no completion waits for a task that is gone. Between two awaits nobody else runs: ``_is_led`` needs no lock.
Polling before and after :meth:`~kvfs.fabric.verbs.backend.Queue.arm` leaves no gap in which one is overlooked.

Memory. What was posted the device does by itself: a task that is cancelled cannot take it back. :meth:`Endpoint.read`
and :meth:`~Endpoint.write` therefore return only when none of theirs is in flight, cancelled or not, as
``trio.to_thread.run_sync`` does; who posts by ``*_nowait`` has to wait, or to close the endpoint, before the memory is
used for anything else. A region counts what is in flight on it (``Region.users``) and cannot be closed meanwhile.

How long. The adapter sends a packet that nobody acknowledges 7 times, and so fails after about ``give_up_after``
(the specification lets it take four times that). Adapters that are dead themselves complete nothing: after
``_STALLED`` times that, and 30 s at least, without one completion the queue pair is destroyed, which ends its access to
memory, and all is failed.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import trio

from kvfs.errors import RdmaError, TimedOut, TransferError, TransferFlushed
from kvfs.fabric.verbs.abi import Opcode
from kvfs.fabric.verbs.backend import Queue, Route
from kvfs.fabric.verbs.exchange import Greeting, exchange, meet
from kvfs.fabric.verbs.memory import Region, RemoteRegion
from kvfs.fabric.verbs.transfers import NEW, Transfer, because, error_of

_MOST = 8 << 20  # bytes of one request: enough for any link, and a large transfer does not hold up what comes behind
_TRIES = 7  # of a packet: the first, and 6 retries. The field holds 7, which soft-RoCE takes for "without end"
_STALLED = 8
_SHORTEST_STALL = 30.0  # s


class Place(msgspec.Struct, frozen=True):
    """Where an endpoint is on this host's side. ``gid_index`` ``None``: routed by LID."""

    device: str
    link_layer: Literal["InfiniBand", "Ethernet"]
    port: int
    gid: bytes
    gid_index: int | None
    lid: int
    mtu: int  # IBV_MTU_*
    max_message: int  # bytes
    reads: int  # READs at a time, either way


class EndpointStatistics(msgspec.Struct, frozen=True):
    """``sleeps``: how often nothing had come yet and a task slept until something did."""

    reads: int
    writes: int
    read_bytes: int
    written_bytes: int
    failed: int
    flushed: int
    in_flight: int
    sleeps: int


class Endpoint:
    """Made by ``Adapter.endpoint``; a context manager that closes it."""

    def __init__(
        self, queue: Queue, place: Place, depth: int, give_up_after: float, on_close: Callable[["Endpoint"], None]
    ) -> None:
        self.depth = depth
        self._queue = queue
        self._place = place
        self._timeout = ack_timeout(give_up_after)
        self._stall = max(_SHORTEST_STALL, _STALLED * give_up_after)
        self._on_close = on_close
        self._psn = secrets.randbits(24)
        self._pending: dict[int, Transfer] = {}
        self._next = 0
        self._failure: TransferError | None = None
        self._is_used = self._is_connected = False
        self._is_closed = False
        self._is_destroyed = False  # the queue pair: nothing of it may be called
        self._is_led = False
        self._is_asleep = False
        self._followers = trio.lowlevel.ParkingLot()
        self._done = {Opcode.RDMA_READ: 0, Opcode.RDMA_WRITE: 0}
        self._bytes = {Opcode.RDMA_READ: 0, Opcode.RDMA_WRITE: 0}
        self._failed = self._flushed = self._sleeps = 0

    async def connect(
        self, stream: trio.abc.Stream, regions: Sequence[Region] = (), within: float = 10.0
    ) -> tuple[RemoteRegion, ...]:
        """Connect to the endpoint at the other end of ``stream``, which calls this too; its regions.

        ``regions``: what it is told of ours. ``within``: seconds. PeerMismatch, TimedOut, RdmaError: this endpoint is
        of no further use. The stream is not used afterwards, and stays the caller's.
        """
        place = self._place
        if self._is_used or self._is_closed:
            raise RdmaError("expected an endpoint that is new, found one that was used", "make one for each connection")
        self._is_used = True
        ours = Greeting(
            link_layer=place.link_layer,
            qpn=self._queue.number,
            psn=self._psn,
            gid=place.gid,
            lid=place.lid,
            mtu=place.mtu,
            reads=place.reads,
            regions=tuple(region.remote for region in regions),
        )
        with trio.move_on_after(within):
            theirs = await exchange(stream, ours)
            self._join(theirs)
            await meet(stream)
            self._is_connected = True
            return theirs.regions
        self._fail(TransferFlushed("the connection was never made"))
        raise TimedOut(f"expected a greeting of the peer, found none within {within:g} s", "see whether it is there")

    def read_nowait(
        self, local: Region, remote: RemoteRegion, length: int, *, local_offset: int = 0, remote_offset: int = 0
    ) -> Transfer:
        """Post one READ of ``length`` bytes, at most ``max_length``. trio.WouldBlock: ``depth`` are in flight."""
        return self._post(Opcode.RDMA_READ, local, remote, length, local_offset, remote_offset)

    def write_nowait(
        self, local: Region, remote: RemoteRegion, length: int, *, local_offset: int = 0, remote_offset: int = 0
    ) -> Transfer:
        """Post one WRITE: as :meth:`read_nowait`. When it is done the bytes are in the peer's memory."""
        return self._post(Opcode.RDMA_WRITE, local, remote, length, local_offset, remote_offset)

    async def read(
        self,
        local: Region,
        remote: RemoteRegion,
        length: int | None = None,
        *,
        local_offset: int = 0,
        remote_offset: int = 0,
    ) -> None:
        """Copy ``length`` bytes (default: to the local region's end) of the peer's memory into ours, however many.

        ValueError for a range beyond either region, TransferError. Nothing of it is in flight when this returns.
        """
        await self._transfer(Opcode.RDMA_READ, local, remote, length, local_offset, remote_offset)

    async def write(
        self,
        local: Region,
        remote: RemoteRegion,
        length: int | None = None,
        *,
        local_offset: int = 0,
        remote_offset: int = 0,
    ) -> None:
        """Copy bytes of ours into the peer's memory: as :meth:`read`."""
        await self._transfer(Opcode.RDMA_WRITE, local, remote, length, local_offset, remote_offset)

    @property
    def max_length(self) -> int:
        """Bytes of one request."""
        return min(_MOST, self._place.max_message)

    @property
    def failure(self) -> TransferError | None:
        """What the connection failed of."""
        return self._failure

    def close(self) -> None:
        """At once: what is in flight is failed, and the device lets go of its memory. Twice is allowed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._on_close(self)
        self._fail(TransferFlushed("the endpoint was closed"))

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def statistics(self) -> EndpointStatistics:
        return EndpointStatistics(
            reads=self._done[Opcode.RDMA_READ],
            writes=self._done[Opcode.RDMA_WRITE],
            read_bytes=self._bytes[Opcode.RDMA_READ],
            written_bytes=self._bytes[Opcode.RDMA_WRITE],
            failed=self._failed,
            flushed=self._flushed,
            in_flight=len(self._pending),
            sleeps=self._sleeps,
        )

    async def wait_until(self, is_met: Callable[[], bool]) -> None:
        """Until completions have made it true; TransferError when the endpoint ended instead. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while not is_met():
            if self._is_led:
                await self._followers.park()
                continue
            self._is_led = True
            try:
                await self._lead(is_met)
            finally:
                self._is_led = False
                self._followers.unpark_all()

    def _join(self, theirs: Greeting) -> None:
        if self._failure is not None:  # closed by another task
            raise self._failure
        place = self._place
        route = Route(
            port=place.port,
            gid_index=place.gid_index,
            remote_gid=theirs.gid,
            remote_lid=theirs.lid,
            remote_qpn=theirs.qpn,
            remote_psn=theirs.psn,
            local_psn=self._psn,
            mtu=min(place.mtu, theirs.mtu),
            reads_in=place.reads,
            reads_out=min(place.reads, theirs.reads),
            timeout=self._timeout,
            retries=_TRIES - 1,
        )
        try:
            self._queue.connect(route)
        except OSError as error:
            raise RdmaError(
                f"{place.device}: the adapter has no way to the peer: {error.strerror}",
                "see whether both ports are up and in one network, and choose the address by gid_index",
            ) from error

    async def _transfer(
        self,
        opcode: Opcode,
        local: Region,
        remote: RemoteRegion,
        length: int | None,
        local_offset: int,
        remote_offset: int,
    ) -> None:
        length = local.length - local_offset if length is None else length
        _check_range("local", local.length, local_offset, length)
        _check_range("remote", remote.length, remote_offset, length)
        await trio.lowlevel.checkpoint()
        posted: list[Transfer] = []
        refused: TransferError | None = None
        try:
            for at in range(0, length, self.max_length):
                if len(self._pending) >= self.depth:
                    await self.wait_until(lambda: len(self._pending) < self.depth)
                piece = min(self.max_length, length - at)
                posted.append(self._post(opcode, local, remote, piece, local_offset + at, remote_offset + at))
        except TransferError as error:
            refused = error
        finally:
            with trio.CancelScope(shield=True):
                await self.wait_until(lambda: all(each.is_done for each in posted))
        for each in posted:
            if each.error is not None:
                raise each.error
        if refused is not None:
            raise refused

    def _post(
        self, opcode: Opcode, local: Region, remote: RemoteRegion, length: int, local_offset: int, remote_offset: int
    ) -> Transfer:
        if length > self.max_length:
            raise ValueError(f"expected at most {self.max_length} bytes in one request, found {length}")
        _check_range("local", local.length, local_offset, length)
        _check_range("remote", remote.length, remote_offset, length)
        if local.is_closed:
            raise ValueError("expected an open region, found one that was closed")
        if self._failure is not None:
            raise TransferFlushed(f"not tried, as the connection failed before{because(self._failure)}", NEW)
        if not self._is_connected:
            raise RdmaError("expected a connected endpoint, found one that is not", "connect it first")
        if len(self._pending) >= self.depth:
            raise trio.WouldBlock
        address = remote.address + remote_offset
        transfer = Transfer(self, opcode, local, length, address, remote.rkey)
        number = self._next
        try:
            self._queue.post(opcode, number, local.address + local_offset, length, local.lkey, address, remote.rkey)
        except OSError as error:
            self._fail(TransferError(f"{transfer}: the adapter does not take it: {error.strerror}", NEW))
            raise self._failure or error from error
        self._next += 1
        self._pending[number] = transfer
        local.users += 1
        return transfer

    async def _lead(self, is_met: Callable[[], bool]) -> None:
        while not is_met():
            if self._is_destroyed:
                raise self._failure or TransferFlushed("the endpoint was closed")
            try:
                if self._reap():
                    continue
                self._queue.arm()
                if self._reap():
                    continue
                if not await self._sleep():
                    self._fail(TransferError(f"{self._place.device}: nothing was done for {self._stall:g} s", NEW))
                    continue
                while not self._is_destroyed and self._queue.take_event():
                    pass
            except OSError as error:
                self._fail(TransferError(f"{self._place.device}: the adapter has gone: {error.strerror}", NEW))

    async def _sleep(self) -> bool:
        """Until something may have come, or the endpoint is closed. ``False``: nothing for too long."""
        self._sleeps += 1
        self._is_asleep = True
        try:
            with trio.move_on_after(self._stall):
                await trio.lowlevel.wait_readable(self._queue.event_fd)
                return True
        except trio.ClosedResourceError:  # by close(), which has failed all that was in flight
            return True
        finally:
            self._is_asleep = False
        return False

    def _reap(self) -> bool:
        """Hand out the completions that are there; whether there were any."""
        if not self._pending:
            return False
        found = self._queue.poll(self.depth)
        for number, status, vendor_error in found:
            transfer = self._pending.pop(number)
            self._finish(transfer, error_of(transfer, status, vendor_error, self._failure))
        if found:
            self._followers.unpark_all()
        return bool(found)

    def _finish(self, transfer: Transfer, error: TransferError | None) -> None:
        transfer.is_done = True
        transfer.error = error
        transfer.region.users -= 1
        if error is None:
            self._done[transfer.opcode] += 1
            self._bytes[transfer.opcode] += transfer.length
        elif isinstance(error, TransferFlushed):
            self._flushed += 1
        else:
            self._failed += 1
        self._failure = self._failure or error

    def _fail(self, failure: TransferError) -> None:
        """Destroy the queue pair, after which the device touches nothing, and fail what was in flight.

        Where it cannot be destroyed what was in flight stays in use: its regions cannot be closed.
        """
        self._failure = self._failure or failure
        if self._is_destroyed:
            return
        self._is_destroyed = True
        if self._is_asleep:
            trio.lowlevel.notify_closing(self._queue.event_fd)
        trouble = ""
        try:
            self._queue.close()
        except OSError as error:
            trouble = f"; its memory stays in use, as the queue pair cannot be destroyed: {error.strerror}"
        while self._pending:
            _, transfer = self._pending.popitem()
            if trouble:
                transfer.region.users += 1
            self._finish(transfer, TransferFlushed(f"{transfer}: outcome unknown{because(failure)}{trouble}", NEW))
        self._followers.unpark_all()


def ack_timeout(give_up_after: float) -> int:
    """The exponent of a queue pair's time-out, 4.096 us * 2^n, with which :data:`_TRIES` of them are at most that."""
    if not 0.01 <= give_up_after <= 3600:
        raise ValueError(f"expected 0.01 to 3600 s, found {give_up_after:g}")
    return min(31, max(1, math.floor(math.log2(give_up_after / _TRIES / 4.096e-6))))


def _check_range(which: str, size: int, offset: int, length: int) -> None:
    if length <= 0 or offset < 0 or offset + length > size:
        raise ValueError(
            f"expected a range within the {which} region's {size} bytes, found {length} bytes at offset {offset}"
        )
