"""Memory that the device reads and writes by itself: regions of this host, and what a peer may know of them."""

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from kvfs.errors import RdmaError
from kvfs.fabric.verbs.backend import Memory

if TYPE_CHECKING:
    from typing_extensions import Buffer

_Key = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Address = Annotated[int, msgspec.Meta(ge=0)]  # MessagePack has none beyond 64 bits
_Length = Annotated[int, msgspec.Meta(gt=0, le=(1 << 63) - 1)]


class RemoteRegion(msgspec.Struct, frozen=True):
    """A region of the peer: who knows this, and is connected, may do with it what it was registered for.

    ``address``: of its first byte, in the peer's own address space; ``length`` in bytes.
    """

    rkey: _Key
    address: _Address
    length: _Length


class Region:
    """Registered memory: pinned, and the device may use it until it is closed.

    ``owner`` is kept alive as long. ``users`` counts transfers in flight from or to it: while there are any it cannot
    be closed, as the device would go on with memory that has become somebody else's.
    """

    def __init__(
        self, memory: Memory, address: int, length: int, owner: Any, on_close: Callable[["Region"], None]
    ) -> None:
        self.address = address
        self.length = length
        self.lkey = memory.lkey
        self.remote = RemoteRegion(rkey=memory.rkey, address=address, length=length)
        self.users = 0
        self._memory: Memory | None = memory
        self._owner = owner
        self._on_close = on_close

    @property
    def is_closed(self) -> bool:
        return self._memory is None

    def close(self) -> None:
        """No peer reaches it any more. BufferError while transfers of ours are in flight. Twice is allowed."""
        if self._memory is None:
            return
        if self.users:
            raise BufferError(f"expected a region without transfers, found {self.users} in flight")
        memory, self._memory = self._memory, None
        self._on_close(self)
        try:
            memory.close()
        except OSError as error:  # the device may still have it: the owner stays
            raise RdmaError(f"{self.length} bytes cannot be deregistered: {error.strerror}") from error
        self._owner = None

    def __enter__(self) -> "Region":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def address_of(buffer: "Buffer") -> tuple[int, int, Any]:
    """Address and length in bytes of a writable, C-contiguous buffer, and what keeps it in place while it is held.

    NumPy arrays, memoryviews, bytearrays, mmaps, ctypes objects... TypeError or ValueError for others and empty ones.
    """
    view = memoryview(buffer)
    if view.readonly or not view.c_contiguous or not view.nbytes:
        found = "read-only" if view.readonly else "empty" if not view.nbytes else "not contiguous"
        raise ValueError(f"expected a writable, C-contiguous buffer of at least a byte, found one that is {found}")
    hold = (ctypes.c_char * view.nbytes).from_buffer(view)
    return ctypes.addressof(hold), view.nbytes, hold
