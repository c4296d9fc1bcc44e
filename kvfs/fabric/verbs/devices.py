"""RDMA devices of this host: ports, links, addresses, and what each can do.

Links and addresses come from ``/sys/class/infiniband`` (the kernel's Documentation/ABI/stable/sysfs-class-infiniband),
so they are seen without any library; limits, on-demand paging and dma-buf are asked of the device by verbs.
A kernel without RDMA has no devices: that is an answer, not an error.
"""

import ipaddress
import re
from pathlib import Path
from typing import Literal

import msgspec

from kvfs.errors import RdmaMissing, one_line
from kvfs.fabric.verbs.backend import Backend, Limits, Odp, choose_backend

_NO_GID = bytes(16)
_LONGEST_GAP = 64  # entries
SYSFS = Path("/sys/class/infiniband")
_UVERBS = Path("/dev/infiniband")

GidKind = Literal["IB", "RoCE v1", "RoCE v2"]


class Gid(msgspec.Struct, frozen=True):
    """An address of a port. ``netdev``: the Ethernet interface that it goes by."""

    index: int
    address: str  # as IPv6 addresses are written; RoCE v2 over IPv4: ::ffff:10.0.0.1
    kind: GidKind
    netdev: str | None

    @property
    def raw(self) -> bytes:
        """16 bytes, in network order."""
        return ipaddress.IPv6Address(self.address).packed


class Port(msgspec.Struct, frozen=True):
    number: int
    link_layer: Literal["InfiniBand", "Ethernet"]
    state: str  # ACTIVE, DOWN, INIT, ARMED, ...
    physical_state: str  # LinkUp, Disabled, Polling, ...
    rate: float  # Gbit/s
    width_and_speed: str  # 4X EDR
    lid: int
    gids: tuple[Gid, ...]  # those that are set, by index
    active_mtu: int | None = None  # bytes, of the payload of a packet
    max_message: int | None = None  # bytes

    @property
    def is_active(self) -> bool:
        return self.state == "ACTIVE"


class Device(msgspec.Struct, frozen=True):
    """``problem``: why it could not be asked by verbs; what only verbs know is ``None`` then."""

    name: str
    ports: tuple[Port, ...]
    driver: str | None
    node_guid: str
    numa_node: int | None
    limits: Limits | None = None
    odp: Odp | None = None
    has_dmabuf: bool | None = None  # GPUDirect: memory of a GPU is registered by a dma-buf
    problem: str = ""


def list_devices(backend: Backend | None = None, root: Path | None = None) -> list[Device]:
    """By name; empty where the kernel has no RDMA, or no adapter.

    ``backend``: ``None`` takes the one that there is, and does without where there is none.
    """
    root = SYSFS if root is None else root
    names = device_names(root)
    if not names:
        return []
    problem = ""
    if backend is None:
        try:
            backend = choose_backend()
        except RdmaMissing as error:
            problem = str(error)
    return [_describe(root / name, backend, problem) for name in names]


def device_names(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir())
    except FileNotFoundError:
        return []


def read_port(directory: Path) -> Port:
    """``directory``: a port's, as ``/sys/class/infiniband/mlx5_0/ports/1``. OSError when it has gone."""
    rate, _, width = _read(directory / "rate").partition(" Gb/sec ")
    layer = _read(directory / "link_layer")
    return Port(
        number=int(directory.name),
        link_layer="Ethernet" if layer == "Ethernet" else "InfiniBand",
        state=_after_colon(_read(directory / "state")),
        physical_state=_after_colon(_read(directory / "phys_state")),
        rate=float(rate) if re.fullmatch(r"[\d.]+", rate) else 0.0,
        width_and_speed=width.strip("()"),
        lid=int(_read(directory / "lid") or "0", 0),
        gids=_gids(directory),
    )


def mtu_bytes(code: int) -> int:
    """Of ``IBV_MTU_256`` (1) to ``IBV_MTU_4096`` (5)."""
    return 128 << code


def choose_gid(port: Port) -> Gid | None:
    """The one that reaches farthest: RoCE v2 by IPv4, by IPv6, link-local; then RoCE v1. ``None``: none is set."""

    def rank(gid: Gid) -> tuple[int, int]:
        address = ipaddress.IPv6Address(gid.address)
        if gid.kind == "RoCE v2":
            return (0 if address.ipv4_mapped else 2 if address.is_link_local else 1), gid.index
        return 3, gid.index

    return min(port.gids, key=rank, default=None)


def _describe(directory: Path, backend: Backend | None, problem: str) -> Device:
    numbers = sorted(int(path.name) for path in (directory / "ports").iterdir())
    device = Device(
        name=directory.name,
        ports=tuple(read_port(directory / "ports" / str(number)) for number in numbers),
        driver=_link_name(directory / "device/driver"),
        node_guid=_read(directory / "node_guid"),
        numa_node=_numa_node(directory / "device/numa_node"),
        problem=problem,
    )
    if backend is None:
        return device
    try:
        return _ask(device, backend)
    except OSError as error:
        reason = one_line(f"{backend.name} cannot open it: {error.strerror or error}")
        if not any(_UVERBS.glob("uverbs*")):
            reason += ", as /dev/infiniband has no uverbs: modprobe ib_uverbs"
        return msgspec.structs.replace(device, problem=reason)


def _ask(device: Device, backend: Backend) -> Device:
    context = backend.open(device.name)
    try:
        ports = []
        for port in device.ports:
            found = context.port(port.number)
            ports.append(
                msgspec.structs.replace(port, active_mtu=mtu_bytes(found.active_mtu), max_message=found.max_message)
            )
        return msgspec.structs.replace(
            device,
            ports=tuple(ports),
            limits=context.limits(),
            odp=context.odp(),
            has_dmabuf=context.has_dmabuf(),
        )
    finally:
        context.close()


def _gids(directory: Path) -> tuple[Gid, ...]:
    """A GID that is not set reads as zeros, and its attributes fail with EINVAL.

    Tables have hundreds of entries and are filled from the first free one on, so a long gap is the end.
    """
    found = []
    gap = 0
    for path in sorted((directory / "gids").iterdir(), key=lambda path: int(path.name)):
        text = _read(path)
        raw = bytes.fromhex(text.replace(":", "")) if text else _NO_GID
        if len(raw) != 16 or raw == _NO_GID:
            gap += 1
            if gap == _LONGEST_GAP:
                break
            continue
        gap = 0
        kind = _read(directory / "gid_attrs/types" / path.name)
        found.append(
            Gid(
                index=int(path.name),
                address=_ipv6(raw),
                kind="RoCE v2" if kind == "RoCE v2" else "RoCE v1" if "RoCE" in kind else "IB",
                netdev=_read(directory / "gid_attrs/ndevs" / path.name) or None,
            )
        )
    return tuple(found)


def _ipv6(raw: bytes) -> str:
    address = ipaddress.IPv6Address(raw)
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)


def _after_colon(text: str) -> str:
    """``4: ACTIVE`` -> ``ACTIVE``"""
    return text.partition(": ")[2] or text or "unknown"


def _read(path: Path) -> str:
    """Empty where there is no such attribute, or it has no value."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link_name(path: Path) -> str | None:
    return path.resolve().name if path.exists() else None


def _numa_node(path: Path) -> int | None:
    node = int(_read(path) or "-1")
    return node if node >= 0 else None
