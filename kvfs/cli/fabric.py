"""``kvfsctl fabric discover | connect | disconnect | list | status``: this host's NVMe over fabrics, by hand.

A mount connects and disconnects by itself. What is connected here is nobody's: no mount disconnects it.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvfs.cli.config import Config
from kvfs.errors import FabricError, FabricMissing, NotConnected, UsageError
from kvfs.fabric import nvme
from kvfs.fabric.connections import Ledger, is_needed
from kvfs.fabric.nvme import DISCOVERY_NQN, Address, Controller, DiscoveryEntry, Namespace
from kvfs.fabric.settings import choose, fabric_option
from kvfs.fabric.store import fabric_store
from kvfs.fabric.url import parse_url
from kvfs.units import format_size


def discover(target: str, options: Sequence[str], config: Config, timeout: float) -> list[DiscoveryEntry]:
    """``target``: [nvme+]tcp://HOST[:PORT]. Raises what ``kvfs.fabric.nvme.discover`` does, UsageError."""
    address = parse_service(target)
    chosen = choose({"-o": parse_options(options), f"{config.path} [fabric]": config.fabric})
    address = msgspec.structs.replace(address, host_traddr=chosen.host_traddr, host_iface=chosen.host_iface)
    return nvme.discover(address, chosen.options, timeout=timeout)


def connect(url: str, options: Sequence[str], config: Config, timeout: float) -> Controller:
    """Raises what ``kvfs.fabric.nvme.connect`` does, UsageError."""
    store = fabric_store([url], parse_options(options), config.subsystems, config.fabric, str(config.path))
    _require_root()
    with Ledger().locked(store.nqn):  # a mount that connects the same now would take this for its own
        return nvme.connect(
            store.paths[0].address,
            store.nqn,
            store.paths[0].options,
            nsids=None if store.nsid is None else [store.nsid],
            timeout=timeout,
        )


def disconnect(name_or_nqn: str, timeout: float, *, force: bool) -> list[str]:
    """The controllers that are gone. FabricError when a namespace in use loses its last path, unless ``force``."""
    wanted = _selected([name_or_nqn])
    _require_root()
    names = [each.name for each in wanted]
    with Ledger().locked(wanted[0].nqn):
        used = [] if force else [name for name in names if is_needed(name, names)]
        if used:
            raise FabricError(
                f"{used[0]}: expected nobody to use its namespaces, found one in use, and no other path to it",
                f"unmount what is on it, or run: kvfsctl fabric disconnect --force {name_or_nqn}",
            )
        return nvme.disconnect(name_or_nqn, timeout=timeout)


def status(names: Sequence[str]) -> list[Controller]:
    """The controllers over fabrics, or those of ``names``: controllers or NQNs. NotConnected when one is not there."""
    if names:
        return _selected(names)
    return [each for each in nvme.list_controllers() if each.address.transport != "pcie"]


def parse_service(text: str) -> Address:
    """UsageError."""
    found = re.fullmatch(r"(?:nvme\+)?(tcp|rdma)://([^/?#]+)/?", text)
    if found is None:
        raise UsageError(f"{text}: expected tcp://HOST[:PORT] or rdma://HOST[:PORT]", "as in tcp://10.0.0.7:8009")
    url = parse_url(f"nvme+{found[1]}://{found[2]}/{DISCOVERY_NQN}")
    has_port = re.search(r":\d+\Z", found[2].rpartition("]")[2]) is not None
    return Address(url.transport, url.host, str(url.port) if has_port else None)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Of ``-o NAME=VALUE,...``, checked. UsageError."""
    values: dict[str, Any] = {}
    for word in ",".join(options).split(","):
        if word:
            name, equals, value = word.partition("=")
            values[name] = fabric_option(name, value if equals else "true", "-o", Path.cwd())
    return values


def to_builtins(value: Any) -> Any:
    """For JSON: paths as text."""
    return msgspec.to_builtins(value, enc_hook=str)


def print_discovered(entries: Iterable[DiscoveryEntry]) -> None:
    rows = [
        (
            {"nvme": "subsystem", "referral": "referral", "discovery": "this service"}[each.subtype],
            each.nqn,
            str(each.address),
            each.security if each.secure_channel != "required" else f"{each.security}, required",
        )
        for each in entries
    ]
    _print(("kind", "NQN", "address", "TLS"), rows, "nothing is offered to this host")


def print_connected(controller: Controller) -> None:
    said = "connected" if controller.connected_here else "was connected already"
    print(f"{controller.name}: {said}: {controller.nqn} at {controller.address}")
    print_namespaces(controller.namespaces, [controller])


def print_list(controllers: Sequence[Controller]) -> None:
    namespaces = {each.name: each for controller in controllers for each in controller.namespaces}
    print_namespaces(list(namespaces.values()), controllers)
    without = [each for each in controllers if not each.namespaces]
    if without:
        print()
        _print(_PATHS, map(_path_row, without), "")


def print_namespaces(namespaces: Sequence[Namespace], controllers: Sequence[Controller]) -> None:
    rows = []
    for each in namespaces:
        paths = [controller for controller in controllers if each in controller.namespaces]
        rows.append(
            (
                str(each.path),
                str(each.nsid),
                format_size(each.size),
                f"{each.lba_size} B",
                ", ".join(f"{path.name} ({_state(path)}{path.address})" for path in paths),
                paths[0].nqn if paths else "",
                str(each.by_id or each.wwid),
            )
        )
    _print(("device", "nsid", "size", "LBA", "paths", "NQN", "identity"), rows, "no NVMe namespaces")


def print_status(controllers: Sequence[Controller]) -> None:
    rows = (
        (
            *_path_row(each),
            f"{_or_dash(each.queue_count)} x {_or_dash(each.queue_size)}",
            _seconds(each.keep_alive_tmo),
            _seconds(each.reconnect_delay),
            _seconds(each.fast_io_fail_tmo),
            _seconds(each.ctrl_loss_tmo, "never"),
        )
        for each in controllers
    )
    names = (*_PATHS, "queues", "keep-alive", "reconnects every", "I/O fails after", "given up after")
    _print(names, rows, "nothing is connected over a fabric")


_PATHS = ("controller", "state", "address", "NQN", "namespaces")


def _path_row(each: Controller) -> tuple[str, ...]:
    namespaces = ", ".join(str(namespace.path) for namespace in each.namespaces) or "-"
    return (each.name, each.state, str(each.address), each.nqn, namespaces)


def _state(controller: Controller) -> str:
    return "" if controller.state == "live" else f"{controller.state}, "


def _seconds(value: int | None, never: str = "off") -> str:
    return "-" if value is None else never if value < 0 else f"{value} s"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _print(names: tuple[str, ...], rows: Iterable[tuple[str, ...]], nothing: str) -> None:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    if table.row_count:
        Console(highlight=False).print(table)
    else:
        print(nothing)


def _selected(names: Sequence[str]) -> list[Controller]:
    controllers = nvme.list_controllers()
    found: dict[str, Controller] = {}
    for name in names:
        these = [each for each in controllers if name.removeprefix("/dev/") in (each.name, each.nqn)]
        if not these:
            raise NotConnected(f"{name}: not connected", "see what is: kvfsctl fabric list")
        found |= {each.name: each for each in these}
    return list(found.values())


def _require_root() -> None:
    if os.geteuid() != 0:
        raise FabricMissing("expected root, which connecting and disconnecting take, found another user", "run as root")
