"""``kvfsctl fabric devices``: the RDMA devices of this host."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from kvfs.errors import RdmaMissing
from kvfs.fabric.verbs import Device, Gid, Port, choose_backend, choose_gid
from kvfs.units import format_size

NO_DEVICE = "no RDMA device: this kernel has no RDMA, or no adapter for it"
TRY_IT = "to try it in software: rdma link add rxe0 type rxe netdev eth0"
_PORT = ("device", "port", "link", "state", "Gbit/s", "MTU", "address", "interface")
_DEVICE = ("device", "driver", "max MRs", "max MR size", "max QPs", "on-demand paging", "GPUDirect (dma-buf)")


def library() -> str | None:
    """The verbs library that kvfs uses here; ``None``: neither is installed."""
    try:
        return choose_backend().name
    except RdmaMissing:
        return None


def to_builtins(devices: list[Device]) -> dict[str, Any]:
    return {"library": library(), "devices": devices}


def print_devices(devices: list[Device]) -> None:
    if not devices:
        print(f"{NO_DEVICE}; {TRY_IT}")
        return
    console = Console(highlight=False)
    console.print(_table(_PORT, (row for device in devices for row in _port_rows(device))))
    console.print()
    console.print(_table(_DEVICE, map(_device_row, devices)))
    for device in devices:
        if device.problem:
            console.print(f"{device.name}: {device.problem}", soft_wrap=True)


def describe(device: Device) -> str:
    """In a few words, of its first port that is up, else of the first."""
    port = next((port for port in device.ports if port.is_active), None) or next(iter(device.ports), None)
    if port is None:
        return f"{device.name} (no port)"
    return f"{device.name} ({_link(port, choose_gid(port))}, {port.rate:g} Gbit/s, {port.state})"


def _table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _port_rows(device: Device) -> Iterator[tuple[str, ...]]:
    for port in device.ports:
        gid = choose_gid(port)
        yield (
            device.name,
            str(port.number),
            _link(port, gid),
            port.state,
            f"{port.rate:g}",
            _or_unknown(port.active_mtu),
            gid.address.removeprefix("::ffff:") if gid else f"LID {port.lid}" if port.lid else "none",
            (gid.netdev if gid else None) or "-",
        )


def _device_row(device: Device) -> tuple[str, ...]:
    limits = device.limits
    return (
        device.name,
        device.driver or "-",
        _or_unknown(limits.max_mr if limits else None),
        _size(limits.max_mr_size) if limits else "?",
        _or_unknown(limits.max_qp if limits else None),
        _yes_or_no(device.odp.supported if device.odp else None),
        _yes_or_no(device.has_dmabuf),
    )


def _link(port: Port, gid: Gid | None) -> str:
    return gid.kind if gid and gid.kind != "IB" else port.link_layer


def _size(count: int) -> str:
    return "any" if count >= 1 << 63 else format_size(count)


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)


def _yes_or_no(value: bool | None) -> str:
    return "?" if value is None else "yes" if value else "no"
