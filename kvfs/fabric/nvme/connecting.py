"""Connecting and disconnecting."""

from collections.abc import Collection

from kvfs.fabric.nvme.types import Address, ConnectOptions, Controller


def connect(
    address: Address,
    nqn: str,
    options: ConnectOptions | None = None,
    *,
    nsids: Collection[int] | None = None,
    timeout: float = 30.0,
) -> Controller:
    """A live controller whose namespaces ``nsids`` (default: all that it has) can be opened.

    A connection that is there already, of the same host to the same subsystem at the same address, is returned as it
    is (``connected_here`` is False). What failed leaves nothing connected.

    Raises Unreachable, WrongNqn, HostRefused, AuthenticationFailed, NamespaceVanished, TimedOut, FabricMissing,
    FabricError.
    """
    raise NotImplementedError


def disconnect(controller_name_or_nqn: str, *, timeout: float = 30.0) -> list[str]:
    """The names of the controllers that are gone now: the one, or all of the NQN. Raises NotConnected, TimedOut."""
    raise NotImplementedError
