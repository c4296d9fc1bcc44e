"""An open RDMA device, by one of its ports: where regions and endpoints come from.

Closing goes from the leaves to the root, as verbs demand it: endpoints (the device stops touching memory), then regions
(peers stop reaching it), then protection domain and device. All of it belongs to one thread.
"""

import errno
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from kvfs.errors import RdmaError, RdmaMissing
from kvfs.fabric.verbs.abi import Access
from kvfs.fabric.verbs.backend import Backend, Context, Memory, choose_backend
from kvfs.fabric.verbs.devices import SYSFS, Gid, Port, choose_gid, device_names, read_port
from kvfs.fabric.verbs.endpoint import Endpoint, Place, ack_timeout
from kvfs.fabric.verbs.memory import Region, address_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MOST_READS = 16  # at a time, of a queue pair; adapters have 16 mostly
_EVERYTHING = Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE


class AdapterStatistics(msgspec.Struct, frozen=True):
    regions: int
    registered_bytes: int
    endpoints: int


class Adapter:
    """A context manager that closes it and all that it made."""

    def __init__(
        self,
        device: str | None = None,
        *,
        port: int | None = None,
        gid_index: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """The device of that name; ``None``: the first with a port that is up. ``port``: the first that is up.

        ``gid_index``: the port's address; by default the one that reaches farthest (``choose_gid``).
        RdmaMissing: there is no such thing, or no verbs library; RdmaError: it cannot be opened.
        """
        backend = backend or choose_backend()
        self.device, found = _choose_port(device, port)
        gid = _choose_address(self.device, found, gid_index)
        try:
            self._context = backend.open(self.device)
        except OSError as error:
            raise RdmaError(
                f"{self.device}: cannot be opened: {error.strerror}", "`kvfsctl fabric devices` says more"
            ) from error
        self.backend = backend.name
        self._regions: set[Region] = set()
        self._endpoints: set[Endpoint] = set()
        self._is_closed = False
        try:
            self._limits = self._context.limits()
            self._place = _make_place(self.device, found, gid, self._context, self._limits.max_qp_rd_atom)
        except OSError as error:
            self._context.close()
            raise RdmaError(f"{self.device}: cannot be asked: {error.strerror}") from error

    def register(self, buffer: "Buffer", *, remote_read: bool = False, remote_write: bool = False) -> Region:
        """All of a writable, C-contiguous buffer (NumPy array, memoryview, bytearray, mmap), which is kept alive.

        ``remote_*``: what peers that are connected may do with it. Its pages are pinned: RLIMIT_MEMLOCK counts them.
        ValueError for other buffers, RdmaError.
        """
        address, length, owner = address_of(buffer)
        return self.register_address(address, length, owner, remote_read=remote_read, remote_write=remote_write)

    def register_address(
        self, address: int, length: int, owner: Any = None, *, remote_read: bool = False, remote_write: bool = False
    ) -> Region:
        """``length`` bytes of mapped memory; ``owner``: what has to live as long."""
        if length <= 0 or address <= 0:
            raise ValueError(f"expected an address and a length, found {address:#x} and {length}")
        access = _access(remote_read, remote_write)
        return self._keep(lambda: self._context.register(address, length, access), address, length, owner)

    def register_dmabuf(
        self, fd: int, length: int, offset: int = 0, *, remote_read: bool = False, remote_write: bool = False
    ) -> Region:
        """``length`` bytes of a dma-buf, as GPUs' drivers export their memory; ``fd`` may be closed afterwards."""
        if length <= 0 or offset < 0:
            raise ValueError(f"expected a length and an offset, found {length} and {offset}")
        access = _access(remote_read, remote_write)
        return self._keep(lambda: self._context.register_dmabuf(fd, offset, length, access), offset, length, None)

    def endpoint(self, depth: int = 64, give_up_after: float = 5.0) -> Endpoint:
        """A new one, to be connected. ``depth``: requests in flight; ``give_up_after``: s without an answer."""
        if depth < 1:
            raise ValueError(f"expected a depth of at least 1, found {depth}")
        ack_timeout(give_up_after)
        depth = min(depth, self._limits.max_qp_wr, self._limits.max_cqe)
        try:
            queue = self._context.create_queue(depth, self._place.port, _EVERYTHING)
        except OSError as error:
            raise RdmaError(f"{self.device}: no queue pair of depth {depth}: {error.strerror}", "close some") from error
        endpoint = Endpoint(queue, self._place, depth, give_up_after, self._endpoints.discard)
        self._endpoints.add(endpoint)
        return endpoint

    def statistics(self) -> AdapterStatistics:
        return AdapterStatistics(
            regions=len(self._regions),
            registered_bytes=sum(region.length for region in self._regions),
            endpoints=len(self._endpoints),
        )

    def close(self) -> None:
        """Twice is allowed."""
        if self._is_closed:
            return
        self._is_closed = True
        with ExitStack() as last_first:
            last_first.callback(self._context.close)
            for region in self._regions:
                last_first.callback(region.close)
            for endpoint in self._endpoints:
                last_first.callback(endpoint.close)

    def __enter__(self) -> "Adapter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, register: Callable[[], Memory], address: int, length: int, owner: Any) -> Region:
        try:
            memory = register()
        except OSError as error:
            raise RdmaError(
                f"{self.device}: {length} bytes cannot be registered: {error.strerror}",
                _REMEDIES.get(error.errno or 0, ""),
            ) from error
        region = Region(memory, address, length, owner, self._regions.discard)
        self._regions.add(region)
        return region


_REMEDIES = {
    errno.ENOMEM: "raise the limit of locked memory (ulimit -l, LimitMEMLOCK)",
    errno.EFAULT: "see that all of it is mapped and writable",
    errno.EOPNOTSUPP: "this adapter's driver cannot do that; `kvfsctl fabric devices` says what it can",
    errno.EBADF: "expected the descriptor of a dma-buf",
}


def _access(remote_read: bool, remote_write: bool) -> Access:
    access = Access.LOCAL_WRITE
    if remote_read:
        access |= Access.REMOTE_READ
    if remote_write:
        access |= Access.REMOTE_WRITE
    return access


def _choose_port(device: str | None, number: int | None) -> tuple[str, Port]:
    names = device_names(SYSFS)
    if not names:
        raise RdmaMissing("no RDMA device: this kernel has no RDMA, or no adapter for it", "see kvfsctl doctor")
    if device is not None and device not in names:
        raise RdmaMissing(f"expected one of {', '.join(names)}, found no device {device}", "see kvfsctl fabric devices")
    found = [
        (name, read_port(path))
        for name in ([device] if device is not None else names)
        for path in sorted((SYSFS / name / "ports").iterdir(), key=lambda path: int(path.name))
        if number is None or int(path.name) == number
    ]
    up = [(name, port) for name, port in found if port.is_active]
    if not up:
        ports = ", ".join(f"{name} port {port.number} {port.state}" for name, port in found) or "no such port"
        raise RdmaMissing(f"expected a port that is ACTIVE, found {ports}", "bring it up: ip link, rdma link")
    return up[0]


def _choose_address(device: str, port: Port, index: int | None) -> Gid | None:
    if index is not None:
        for each in port.gids:
            if each.index == index:
                return each
        set_ones = ", ".join(str(each.index) for each in port.gids)
        raise RdmaMissing(f"{device} port {port.number}: expected a GID index of {set_ones}, found {index}")
    if port.link_layer == "InfiniBand":
        return None
    gid = choose_gid(port)
    if gid is None:
        raise RdmaMissing(f"{device} port {port.number}: it has no address", "give its interface one: ip address add")
    return gid


def _make_place(device: str, port: Port, gid: Gid | None, context: Context, reads: int) -> Place:
    found = context.port(port.number)
    return Place(
        device=device,
        link_layer=port.link_layer,
        port=port.number,
        gid=gid.raw if gid else bytes(16),
        gid_index=gid.index if gid else None,
        lid=found.lid,
        mtu=found.active_mtu,
        max_message=found.max_message,
        reads=min(_MOST_READS, reads),
    )
