"""What kvfs needs of a verbs library, and which one is used.

Two libraries can give it: pyverbs, rdma-core's own (Debian: python3-pyverbs), preferred as it comes with the libibverbs
that it was built for; and the ``ibverbs`` package of PyPI, which opens whatever libibverbs there is.

All that fails raises OSError with the library's errno. Nothing here waits: ``Queue.take_event`` never blocks.
"""

import errno
import os
from functools import cache
from typing import Any, NamedTuple, Protocol

import msgspec

from kvfs.errors import RdmaMissing
from kvfs.fabric.verbs.abi import Access, Opcode

NAMES = ("pyverbs", "ibverbs")  # in order of preference


class Limits(msgspec.Struct, frozen=True):
    """Of a device."""

    max_mr: int
    max_mr_size: int  # bytes
    max_qp: int
    max_qp_wr: int  # work requests of a queue
    max_cqe: int  # completions of a completion queue
    max_sge: int
    max_qp_rd_atom: int  # RDMA READs in flight at a queue pair
    firmware: str


class Odp(msgspec.Struct, frozen=True):
    """On-demand paging: memory is registered without being pinned. ``None``: the library does not say."""

    supported: bool
    implicit: bool | None = None  # a whole address space at once
    rc_read: bool | None = None  # on reliable connections, which are what kvfs uses
    rc_write: bool | None = None


class PortAttributes(msgspec.Struct, frozen=True):
    """``mtu`` as ``IBV_MTU_*`` has it."""

    active_mtu: int
    max_message: int  # bytes
    lid: int


class Route(NamedTuple):
    """Where a queue pair is connected to, and how."""

    port: int
    gid_index: int | None  # of ours; None: by LID alone, on InfiniBand
    remote_gid: bytes  # 16
    remote_lid: int
    remote_qpn: int
    remote_psn: int
    local_psn: int
    mtu: int  # IBV_MTU_*
    reads_in: int  # READs of the peer that are answered at a time
    reads_out: int  # READs of ours that are in flight at a time
    timeout: int  # 4.096 us * 2^timeout until a packet that was not acknowledged is sent again
    retries: int  # how often


class Completion(NamedTuple):
    wr_id: int
    status: int  # abi.Status, or a number that it has no name for
    vendor_error: int


class Memory(Protocol):
    """A registered memory region."""

    @property
    def lkey(self) -> int: ...
    @property
    def rkey(self) -> int: ...
    def close(self) -> None:
        """Deregister it: after that no peer reaches it."""


class Queue(Protocol):
    """A reliable-connected queue pair with its completion queue and completion channel."""

    @property
    def number(self) -> int: ...
    @property
    def event_fd(self) -> int:
        """Readable when a completion came after :meth:`arm`, and when the device has gone."""

    def connect(self, route: Route) -> None:
        """From INIT to RTS."""

    def post(
        self, opcode: Opcode, wr_id: int, address: int, length: int, lkey: int, remote_address: int, rkey: int
    ) -> None: ...
    def poll(self, most: int) -> list[Completion]: ...
    def arm(self) -> None:
        """Ask for one event at the next completion. What came before it has to be polled once more."""

    def take_event(self) -> bool:
        """Whether there was one."""

    def close(self) -> None:
        """After that the device touches no memory for it. Closing twice is allowed."""


class Context(Protocol):
    """An open device, with one protection domain."""

    def limits(self) -> Limits: ...
    def port(self, number: int) -> PortAttributes: ...
    def odp(self) -> Odp: ...
    def has_dmabuf(self) -> bool:
        """Whether memory of other devices, as of GPUs, can be registered by a dma-buf descriptor."""

    def register(self, address: int, length: int, access: Access) -> Memory: ...
    def register_dmabuf(self, fd: int, offset: int, length: int, access: Access) -> Memory:
        """Peers and work requests address it from ``offset`` on: its first byte is at address ``offset``."""

    def create_queue(self, depth: int, port: int, access: Access) -> Queue:
        """In state INIT, with room for ``depth`` work requests."""

    def close(self) -> None:
        """When all that it made is closed."""


def limits_of(found: Any, firmware: str) -> Limits:
    """``found``: ibv_device_attr as either library has it, but for the firmware's name."""
    return Limits(
        max_mr=found.max_mr,
        max_mr_size=found.max_mr_size,
        max_qp=found.max_qp,
        max_qp_wr=found.max_qp_wr,
        max_cqe=found.max_cqe,
        max_sge=found.max_sge,
        max_qp_rd_atom=found.max_qp_rd_atom,
        firmware=firmware,
    )


def takes_dmabuf(context: Context) -> bool:
    """A driver that can do it gets as far as to find that -1 is no descriptor."""
    try:
        context.register_dmabuf(-1, 0, 4096, Access.LOCAL_WRITE).close()
    except OSError as error:
        return error.errno == errno.EBADF
    return True


class Backend(Protocol):
    @property
    def name(self) -> str: ...
    def open(self, device: str) -> Context: ...


@cache
def _load(name: str) -> Backend:
    """ImportError with the reason."""
    if name == "pyverbs":
        from kvfs.fabric.verbs.backend_pyverbs import PyverbsBackend

        return PyverbsBackend()
    from kvfs.fabric.verbs.backend_ibverbs import IbverbsBackend

    return IbverbsBackend()


def choose_backend(name: str | None = None) -> Backend:
    """The one named, or by ``KVFS_VERBS``, or the first of :data:`NAMES` that imports. RdmaMissing: none does."""
    name = name or os.environ.get("KVFS_VERBS") or None
    if name is not None and name not in NAMES:
        raise RdmaMissing(f"verbs library: expected one of {', '.join(NAMES)}, found {name!r}", "check KVFS_VERBS")
    reasons = []
    for each in (name,) if name else NAMES:
        try:
            return _load(each)
        except ImportError as error:
            reasons.append(f"{each}: {error}")
    raise RdmaMissing(
        f"no verbs library can be imported ({'; '.join(reasons)})".replace("; ", ", "),
        "install the package python3-pyverbs, or `pip install 'kvfs[rdma]'` and the package libibverbs1",
    )
