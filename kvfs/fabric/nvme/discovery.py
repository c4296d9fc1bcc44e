"""What a discovery controller lists."""

from kvfs.fabric.nvme.types import Address, ConnectOptions, DiscoveryEntry


def discover(address: Address, options: ConnectOptions | None = None, *, timeout: float = 30.0) -> list[DiscoveryEntry]:
    """What the discovery controller at ``address`` offers to this host. Raises as ``connect``."""
    raise NotImplementedError
