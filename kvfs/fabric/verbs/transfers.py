"""One transfer in flight, and what its end means."""

from typing import TYPE_CHECKING

from kvfs.errors import RemoteAccessRefused, RetryExceeded, TransferError, TransferFlushed
from kvfs.fabric.verbs.abi import Opcode, Status
from kvfs.fabric.verbs.memory import Region

if TYPE_CHECKING:
    from kvfs.fabric.verbs.endpoint import Endpoint

_NAMES = {int(status): status.name.lower().replace("_", " ") for status in Status}
_REFUSED = {Status.REMOTE_ACCESS, Status.REMOTE_INVALID_REQUEST}
_NO_ANSWER = {Status.RETRY_EXCEEDED, Status.RNR_RETRY_EXCEEDED, Status.RESPONSE_TIMEOUT}


class Transfer:
    """A posted READ or WRITE. Until ``is_done`` the device owns the bytes of ``region`` that it is about."""

    def __init__(
        self, endpoint: "Endpoint", opcode: Opcode, region: Region, length: int, remote_address: int, rkey: int
    ) -> None:
        self.opcode = opcode
        self.length = length  # bytes
        self.region = region
        self.is_done = False
        self.error: TransferError | None = None  # when it is done
        self._endpoint = endpoint
        self._target = remote_address, rkey

    async def wait(self) -> None:
        """Until it is done; its TransferError when it failed. Cancelling ends the wait, not the transfer."""
        await self._endpoint.wait_until(lambda: self.is_done)
        if self.error is not None:
            raise self.error

    def __str__(self) -> str:
        verb, way = ("READ", "from") if self.opcode == Opcode.RDMA_READ else ("WRITE", "to")
        address, rkey = self._target
        return f"RDMA {verb} of {self.length} bytes {way} {address:#x} (rkey {rkey:#x})"


def error_of(transfer: Transfer, status: int, vendor_error: int, failure: TransferError | None) -> TransferError | None:
    """``None``: it succeeded. ``failure``: what the connection failed of before, which flushes what comes after."""
    if status == Status.SUCCESS:
        return None
    if status == Status.FLUSHED:
        return TransferFlushed(f"{transfer}: not done, as the connection failed before{because(failure)}", NEW)
    name = _NAMES.get(status, "status")
    code = f"{name} {status}" + (f", vendor's {vendor_error:#x}" if vendor_error else "")
    if status in _REFUSED:
        return RemoteAccessRefused(
            f"{transfer}: the peer's adapter refused it ({code})",
            "its region is shorter, was closed, or is not for that; connect anew and ask for its regions",
        )
    if status in _NO_ANSWER:
        return RetryExceeded(
            f"{transfer}: the peer's adapter did not answer ({code})",
            "see whether the peer lives and the path to it is up, then connect anew",
        )
    return TransferError(f"{transfer}: it failed ({code})", NEW)


def because(failure: TransferError | None) -> str:
    return f": {failure.message}" if failure else ""


NEW = "connect anew"
