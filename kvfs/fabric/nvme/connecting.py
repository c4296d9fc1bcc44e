"""Connecting and disconnecting: one controller is one path to a subsystem.

Who owns what: a controller that is being made belongs to the worker's lease (``worker``), and passes to the caller when
all of it is there, which is the last thing that happens. Two who connect the same at the same time: the kernel makes
one controller and tells the other EALREADY, who then finds the first one's and waits for it as for any that was there.
"""

import errno
import os
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from kvfs.errors import FabricError, NamespaceVanished, NotConnected, TimedOut, Unreachable
from kvfs.fabric.nvme.admin import active_namespaces, admin_command
from kvfs.fabric.nvme.bounded import load_module, resolved, same_host, within
from kvfs.fabric.nvme.fabrics import explain, options_line
from kvfs.fabric.nvme.host import Identity, checked_nqn, host_identity
from kvfs.fabric.nvme.lease import Deadline, Refusal, delete_controller, make_controller
from kvfs.fabric.nvme.sysfs import HOST
from kvfs.fabric.nvme.types import Address, ConnectOptions, Controller

_LOOK_AGAIN = 0.02  # s between two looks at what the kernel is doing
_FABRICS = Path("/dev/nvme-fabrics")


def connect(
    address: Address,
    nqn: str,
    options: ConnectOptions | None = None,
    *,
    nsids: Collection[int] | None = None,
    timeout: float = 30.0,
) -> Controller:
    """A live controller whose namespaces ``nsids`` (default: all that it has) can be opened. ``timeout``: s.

    A connection that is there already, of the same host to the same subsystem at the same address, is returned as it
    is (``connected_here`` is False). What failed leaves nothing connected.

    Raises Unreachable, WrongNqn, HostRefused, AuthenticationFailed, NamespaceVanished, TimedOut, FabricMissing,
    FabricError.
    """
    options = options or ConnectOptions()
    deadline = Deadline(timeout)
    checked_nqn(nqn)
    identity = host_identity(options.hostnqn, options.hostid)
    where = resolved(address, deadline)
    prepare(where, deadline)
    line = options_line(where, nqn, options, identity)
    try:
        while True:
            existing = _find(where, nqn, identity)
            if existing is not None:
                return _wait_until_ready(existing.name, nsids, deadline)
            try:
                with make_controller(line, deadline) as lease:
                    controller = _wait_until_ready(lease.name, nsids, deadline)
                    lease.keep()
                return msgspec.structs.replace(controller, connected_here=True)
            except Refusal as refusal:
                if refusal.errno != errno.EALREADY:
                    raise explain(refusal, address, nqn, options, identity) from None
            _pause(deadline)  # somebody else's, which is coming or going
    except TimedOut as error:
        # a key that is not the other side's may leave Linux waiting for minutes, over RDMA above all
        doubt = "is the target up, and the key right" if options.dhchap_secret_file else "is the target up"
        hint = error.hint or f"nothing was left connected; {doubt}?"
        raise TimedOut(f"{address}: {nqn}: {error.message}", hint) from None


def disconnect(controller_name_or_nqn: str, *, timeout: float = 30.0) -> list[str]:
    """The names of the controllers that are gone now: the one, or all of the NQN. ``timeout``: s.

    Raises NotConnected, TimedOut (the kernel goes on with it), FabricError for a drive of this host itself.
    """
    deadline = Deadline(timeout)
    wanted = controller_name_or_nqn.removeprefix("/dev/")
    found = [each for each in HOST.controllers() if wanted in (each.name, each.nqn)]
    if not found:
        raise NotConnected(f"{controller_name_or_nqn}: not connected", "see what is: kvfsctl fabric list")
    local = [each.name for each in found if each.address.transport == "pcie"]
    if local:
        raise FabricError(f"{local[0]}: expected a controller over a fabric, found a drive of this host", "leave it")
    for each in found:
        _delete(each.name, deadline)
    return [each.name for each in found]


def prepare(address: Address, deadline: Deadline) -> None:
    """Load the transport's module where fabrics, or the transport, are not there yet."""
    module = f"nvme_{address.transport}"
    if not _FABRICS.exists() or not Path("/sys/module", module).exists():
        load_module(module, deadline)


def _find(address: Address, nqn: str, identity: Identity) -> Controller | None:
    """As the kernel decides what is a duplicate (``nvmf_ip_options_match``)."""
    for each in HOST.controllers():
        there = each.address
        if (
            each.nqn == nqn
            and not each.state.startswith(("deleting", "dead"))
            and there.transport == address.transport
            and same_host(there.traddr, address.traddr)
            and there.port == address.port
            and (each.hostnqn, each.hostid) == (identity.hostnqn, identity.hostid)
            and (address.host_traddr is None or address.host_traddr == there.host_traddr)
            and (address.host_iface is None or address.host_iface == there.host_iface)
        ):
            return each
    return None


def _wait_until_ready(name: str, nsids: Collection[int] | None, deadline: Deadline) -> Controller:
    """Live, and every namespace that is wanted a block device whose node is there."""
    wanted: list[int] | None = None
    while True:
        controller = HOST.controller(name)
        if controller is None:
            raise Unreachable(f"{name}: gone while it was waited for", "the kernel log says why")
        if controller.state == "live":
            if wanted is None:
                wanted = _wanted(controller, nsids, deadline)
            if wanted is not None and {each.nsid for each in controller.namespaces}.issuperset(wanted):
                return controller
        if deadline.is_over:
            raise _late(controller, wanted, deadline)
        _pause(deadline)


def _wanted(controller: Controller, nsids: Collection[int] | None, deadline: Deadline) -> list[int] | None:
    """``None``: the controller's node in /dev is not there yet."""
    try:
        fd = os.open(HOST.dev / controller.name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FabricError(f"/dev/{controller.name}: {(error.strerror or '').lower()}", "run this as root") from None

    def ask() -> list[int]:
        try:
            return active_namespaces(admin_command(fd))
        finally:
            os.close(fd)

    try:
        active = within(deadline, ask)
    except OSError as error:
        raise FabricError(
            f"{controller.name}: its namespaces cannot be listed: {error}", "see the kernel log"
        ) from None
    missing = sorted(set(nsids or ()) - set(active))
    if missing:
        raise NamespaceVanished(
            f"{controller.nqn}: expected namespace {_numbers(missing)}, found {_numbers(active) or 'none'}",
            "ask for one that is there" if active else "enable it at the target",
        )
    return active if nsids is None else sorted(nsids)


def _late(controller: Controller, wanted: list[int] | None, deadline: Deadline) -> FabricError:
    if controller.state != "live":
        return TimedOut(
            f"{controller.name} is {controller.state}, not live, after {deadline.seconds:g} s",
            f"is the target up? `kvfsctl fabric disconnect {controller.name}` gives this connection up",
        )
    missing = set(wanted or ()) - {each.nsid for each in controller.namespaces}
    return NamespaceVanished(
        f"{controller.nqn}: no block device for namespace {_numbers(missing)} after {deadline.seconds:g} s",
        "see the kernel log, and whether udev runs",
    )


def _delete(name: str, deadline: Deadline) -> None:
    try:
        delete_controller(name, deadline)
    except PermissionError:
        raise FabricError(f"{name}: not permitted to disconnect it", "run this as root") from None
    except OSError as error:
        raise FabricError(f"{name}: {(error.strerror or str(error)).lower()}", "see the kernel log") from None
    except TimedOut as error:
        raise TimedOut(f"{name}: {error.message}", "the kernel is still disconnecting it") from None
    while HOST.controller(name) is not None:
        if deadline.is_over:
            raise TimedOut(f"{name}: no end within {deadline.seconds:g} s", "the kernel is still disconnecting it")
        _pause(deadline)


def _pause(deadline: Deadline) -> None:
    """Between two looks; that the deadline is over, the loop around this or the next wait finds."""
    time.sleep(min(_LOOK_AGAIN, deadline.left()))


def _numbers(numbers: Collection[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
