"""Two RDMA endpoints that are connected: both in this process, or one in another process that can be killed."""

import mmap
import multiprocessing
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.process import BaseProcess

import trio

from kvfs.fabric.verbs import Adapter, Endpoint, Region, RemoteRegion, choose_backend

PATIENT = 30.0  # s: where a machine that is busy must not be taken for a peer that is gone


def stream_of(end: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(end))


@asynccontextmanager
async def streams() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two ends of one."""
    ours, theirs = map(stream_of, socket.socketpair())
    async with ours, theirs:
        yield ours, theirs


async def connect_pair(ours: Endpoint, theirs: Endpoint, regions: list[Region]) -> tuple[RemoteRegion, ...]:
    """Connect two endpoints of this process; ``regions`` of the second are what the first is told of."""
    told: list[RemoteRegion] = []

    async def connect_ours(stream: trio.SocketStream) -> None:
        told.extend(await ours.connect(stream, within=PATIENT))

    async with streams() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(connect_ours, a)
        await theirs.connect(b, regions, within=PATIENT)
    return tuple(told)


@contextmanager
def peer_process(backend: str, length: int) -> Iterator[tuple[BaseProcess, socket.socket]]:
    """A peer in a process of its own, and the socket to connect over.

    It has ``length`` bytes that we may read and write, connects, says so by one byte, and waits for the stream's end.
    Forked, as a new interpreter takes seconds in a guest; before anything is open here that it would share.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = multiprocessing.get_context("fork").Process(target=_run_peer, args=(backend, ours, theirs, length))
        process.start()
        theirs.close()
        try:
            yield process, ours
        finally:
            process.kill()
            process.join()


def _run_peer(backend: str, ours: socket.socket, theirs: socket.socket, length: int) -> None:
    ours.close()
    trio.run(_serve, backend, theirs, length)


async def _serve(backend: str, sock: socket.socket, length: int) -> None:
    memory = mmap.mmap(-1, length)
    with Adapter(backend=choose_backend(backend)) as adapter, adapter.endpoint() as endpoint:
        region = adapter.register(memory, remote_read=True, remote_write=True)
        async with stream_of(sock) as stream:
            await endpoint.connect(stream, [region], within=PATIENT)
            await stream.send_all(b"!")
            while await stream.receive_some():
                pass
