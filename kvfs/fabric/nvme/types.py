"""What is spoken of: addresses, options, controllers, namespaces, and what a discovery controller lists.

Names are those of the NVMe over Fabrics specification and of Linux (``drivers/nvme/host/fabrics.c``).
"""

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

Transport = Literal["tcp", "rdma", "fc", "loop", "pcie"]

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
DEFAULT_PORTS: dict[str, str] = {"tcp": "4420", "rdma": "4420"}  # of I/O controllers; discovery over TCP has 8009 too


class Address(msgspec.Struct, frozen=True):
    """Where a controller is reached. ``host_*``: from which address, and over which interface, of this host."""

    transport: Transport
    traddr: str  # IPv4, IPv6 without brackets, or a host's name; fc: nn-0x...:pn-0x...; loop: empty
    trsvcid: str | None = None  # the port; None: the transport's usual one
    host_traddr: str | None = None
    host_iface: str | None = None

    @property
    def port(self) -> str | None:
        return self.trsvcid or DEFAULT_PORTS.get(self.transport)

    def __str__(self) -> str:
        """As URLs have it: ``tcp://10.0.0.1:4420``."""
        host = f"[{self.traddr}]" if _is_ipv6(self.traddr) else self.traddr
        return f"{self.transport}://{host}{f':{self.port}' if self.port else ''}"


class ConnectOptions(msgspec.Struct, frozen=True):
    """What people set of a connection; ``None``: as the kernel, or the configuration of this host, has it.

    Times in seconds; -1 for ``ctrl_loss_tmo`` is for ever, for ``fast_io_fail_tmo`` off. Keys come from files: for
    DH-HMAC-CHAP the text that ``nvme gen-dhchap-key`` prints (``keys``), for TLS a line of ``nvme tls-key --export``
    (``tls``); a TLS key that is in the keyring already needs no file.
    """

    nr_io_queues: int | None = None
    queue_size: int | None = None
    ctrl_loss_tmo: int | None = None
    fast_io_fail_tmo: int | None = None
    reconnect_delay: int | None = None
    keep_alive_tmo: int | None = None
    hostnqn: str | None = None
    hostid: str | None = None
    hdr_digest: bool = False  # TCP only, as is data_digest
    data_digest: bool = False
    tls: bool = False
    tls_key_file: Path | None = None
    keyring: str | None = None  # its name, or its serial number; None: .nvme
    dhchap_secret_file: Path | None = None
    dhchap_ctrl_secret_file: Path | None = None


class Namespace(msgspec.Struct, frozen=True):
    """A namespace as this host sees it. Sizes in bytes."""

    name: str  # nvme1n1
    nsid: int
    path: Path  # /dev/nvme1n1; with native multipath the head, which all paths to the namespace share
    generic_path: Path | None  # /dev/ng1n1
    size: int
    lba_size: int
    wwid: str  # of the three below the best there is, as udev names it: uuid.…, eui.…, nvme.…
    uuid: str | None
    nguid: str | None
    eui64: str | None
    by_id: Path | None  # /dev/disk/by-id/nvme-…, where udev has made it


class Controller(msgspec.Struct, frozen=True):
    """A controller of this host: one path to a subsystem. ``namespaces``: by number, those that are there."""

    name: str  # nvme1
    nqn: str
    address: Address
    state: str  # live, connecting, resetting, deleting, ...
    namespaces: tuple[Namespace, ...] = ()
    hostnqn: str | None = None
    hostid: str | None = None
    cntlid: int | None = None
    subsystem: str | None = None  # nvme-subsys1
    kind: str = "io"  # io, discovery, admin
    model: str = ""
    serial: str = ""
    firmware: str = ""
    queue_count: int | None = None  # with the admin queue
    queue_size: int | None = None
    ctrl_loss_tmo: int | None = None  # s; -1: for ever
    fast_io_fail_tmo: int | None = None  # s; -1: off
    reconnect_delay: int | None = None  # s
    keep_alive_tmo: int | None = None  # s
    connected_here: bool = False  # by the call of connect() that returned this: whose it is to disconnect


class DiscoveryEntry(msgspec.Struct, frozen=True):
    """One entry of a discovery log page (NVMe-oF 1.1, figure 28)."""

    address: Address
    nqn: str
    subtype: Literal["nvme", "referral", "discovery"]  # a subsystem, another discovery service, this one
    adrfam: str  # ipv4, ipv6, ib, fc, loop
    port_id: int
    controller_id: int  # 0xffff: dynamic
    admin_queue_size: int
    secure_channel: Literal["required", "not required", "not specified"]
    security: str  # TCP: none, tls, tls13


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).version == 6
    except ValueError:
        return False
