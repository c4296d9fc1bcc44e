"""Calls that may block longer than anybody wants to wait: a name to be resolved, a command on a lost path."""

import contextlib
import ipaddress
import queue
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

from kvfs.errors import TimedOut, Unreachable
from kvfs.fabric.nvme.lease import Deadline
from kvfs.fabric.nvme.types import Address

T = TypeVar("T")
_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"  # where administration's tools are; not in every user's PATH


def within(deadline: Deadline, function: Callable[[], T]) -> T:
    """What ``function`` returns or raises. TimedOut when the deadline is over; its thread ends when it can."""
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            outcome.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = outcome.get(timeout=deadline.left())
    except queue.Empty:
        raise TimedOut(f"no end within {deadline.seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def resolved(address: Address, deadline: Deadline) -> Address:
    """``address`` with a numeric ``traddr``, as the kernel wants it. Raises Unreachable, TimedOut."""
    if address.transport not in ("tcp", "rdma") or _is_numeric(address.traddr):
        return address
    try:
        found = within(deadline, lambda: socket.getaddrinfo(address.traddr, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not a host's name"
        raise Unreachable(f"{address.traddr}: {said}", "check the name, or give the address itself") from None
    return msgspec.structs.replace(address, traddr=str(found[0][4][0]))


def load_module(name: str, deadline: Deadline) -> None:
    """Ask for a kernel module. Whether it came shows in what is done next: it may be built in, or there already."""
    tool = find_tool("modprobe")
    if tool is not None:
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                [tool, "-q", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=deadline.left(),
                check=False,
            )


def find_tool(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def same_host(one: str, other: str) -> bool:
    """Whether two numeric addresses are the same, however they are written."""
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return one == other


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
