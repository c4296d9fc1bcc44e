"""What two sides tell each other before they are connected, over any byte stream (TCP, a UNIX socket, a pipe pair).

Each side sends one greeting and reads the other's; both drive their queue pair to RTS; then each sends one byte and
waits for the other's. Only after that does either post: a request that reaches a queue pair which is not ready is
dropped, and would cost a retry time-out.

    u32 length, big-endian | greeting: MessagePack of :class:`Greeting`        ...later...        u8 READY

The stream is not trusted with memory: lengths are bounded, and what does not fit is a PeerMismatch. It has to hold a
greeting, as both sides send before they read: a socket's or pipe's buffer does.
"""

from typing import Annotated, Literal

import msgspec
import trio

from kvfs.errors import PeerMismatch
from kvfs.fabric.verbs.memory import RemoteRegion

MOST_REGIONS = 256
_LIMIT = 16384  # bytes of a greeting
_READY = b"\x01"
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]


class Greeting(msgspec.Struct, frozen=True, array_like=True, tag="kvfs-verbs-1"):
    """``qpn``: queue pair number; ``psn``: the first packet's sequence number; ``reads``: READs that are answered at a
    time; ``mtu`` as ``IBV_MTU_*`` has it."""

    link_layer: Literal["InfiniBand", "Ethernet"]
    qpn: _Number
    psn: _Number
    gid: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    lid: Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
    mtu: Annotated[int, msgspec.Meta(ge=1, le=5)]
    reads: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    regions: Annotated[tuple[RemoteRegion, ...], msgspec.Meta(max_length=MOST_REGIONS)]


async def exchange(stream: trio.abc.Stream, ours: Greeting) -> Greeting:
    """The peer's. PeerMismatch when it is none, the link layers differ, or the stream ends."""
    data = msgspec.msgpack.encode(ours)
    if len(ours.regions) > MOST_REGIONS or len(data) > _LIMIT:
        raise ValueError(f"expected at most {MOST_REGIONS} regions, found {len(ours.regions)}")
    await _send(stream, len(data).to_bytes(4, "big") + data)
    length = int.from_bytes(await _receive(stream, 4), "big")
    if length > _LIMIT:
        raise PeerMismatch(f"expected a greeting of at most {_LIMIT} bytes, found {length}", _NOT_KVFS)
    try:
        theirs = msgspec.msgpack.decode(await _receive(stream, length), type=Greeting)
    except msgspec.DecodeError as error:  # and ValidationError, which is one
        raise PeerMismatch(f"expected a greeting of kvfs, found another message: {error}", _NOT_KVFS) from error
    if theirs.link_layer != ours.link_layer:
        raise PeerMismatch(
            f"expected a peer on {ours.link_layer}, found it on {theirs.link_layer}", "choose another device"
        )
    return theirs


async def meet(stream: trio.abc.Stream) -> None:
    """Both are ready when it returns."""
    await _send(stream, _READY)
    found = await _receive(stream, 1)
    if found != _READY:
        raise PeerMismatch(f"expected that the peer is ready, found byte {found.hex()}", _NOT_KVFS)


async def _send(stream: trio.abc.Stream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError as error:
        raise PeerMismatch("expected a greeting of the peer, found its stream closed", _SEE_PEER) from error


async def _receive(stream: trio.abc.Stream, size: int) -> bytes:
    """Exactly ``size`` bytes; what follows stays in the stream."""
    data = b""
    while len(data) < size:
        try:
            piece = await stream.receive_some(size - len(data))
        except trio.BrokenResourceError:
            piece = b""
        if not piece:
            raise PeerMismatch("expected a greeting of the peer, found the end of its stream", _SEE_PEER)
        data += piece
    return data


_NOT_KVFS = "see whether that is a kvfs of the same version"
_SEE_PEER = "the peer's own log says why"
