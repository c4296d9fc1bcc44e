"""``kvfsctl status``: the counters of a mount, as ``MOUNTPOINT/.kvfs/stats`` has them."""

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvfs.cli.mounts import is_dead, kvfs_mount_at
from kvfs.errors import MountError
from kvfs.units import format_size

_CONTROL = ".kvfs"


def read_stats(mountpoint: Path) -> bytes:
    """The JSON text. NotMounted where no kvfs is mounted, MountError when its daemon does not answer."""
    mount = kvfs_mount_at(mountpoint)
    try:
        return (mount.mountpoint / _CONTROL / "stats").read_bytes()
    except PermissionError as error:
        raise MountError(
            f"{mountpoint}: permission denied", "ask as the user who mounted it, or mount with --allow-other"
        ) from error
    except OSError as error:
        if is_dead(mount):
            raise MountError(f"{mountpoint}: its daemon is gone", f"clear it: kvfs umount {mountpoint}") from error
        raise MountError(f"{mountpoint}: cannot read its counters: {error.strerror}") from error


def print_status(text: bytes) -> None:
    stats: dict[str, Any] = msgspec.json.decode(text)
    components = stats.pop("components", {})
    console = Console(highlight=False)
    health = components.get("store", {}).get("health", {})
    if health.get("state", "healthy") != "healthy":
        console.print(Text(f"{health['state']}: {health['reason']}", style="bold red"), soft_wrap=True)
        mountpoint = stats.get("mountpoint", "MOUNTPOINT")
        if health["state"] == "fenced":
            remedy = f"it is read-only for good, and what was not fsynced is lost: kvfs umount {mountpoint}"
        else:
            remedy = f"once the device is well again: kvfsctl recover {mountpoint}"
        console.print(Text(remedy), soft_wrap=True)
        console.print()
    if line := _scarcity(components.get("store", {})):
        console.print(Text(line, style="bold yellow"), soft_wrap=True)
        console.print()
    console.print(_table("mount", stats))
    for name, part in components.items():
        console.print()
        console.print(_table(name, part))


def _scarcity(store: dict[str, Any]) -> str:
    """One line while what is really there under the store is below a mark; else nothing."""
    space = store.get("physical", {})
    level = space.get("level", "plenty")
    if level == "plenty":
        return ""
    left = f"{format_size(space['usable_bytes'])} of {format_size(space['total_bytes'])}"
    if level == "refuse":
        follows = "nothing is taken but what frees space"
    elif store.get("eviction", {}).get("evicts"):
        follows = "cold files are evicted ahead of need"
    else:
        follows = "below 4 % writes fail with ENOSPC"
    return f"physical space is {'low' if level == 'low' else 'scarce'}: {left} left; {follows}"


def _table(title: str, values: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat("", values):
        table.add_row(name, Text(_shown(name, value)))
    return table


def _flat(prefix: str, values: dict[str, Any]) -> list[tuple[str, Any]]:
    """Nested mappings as dotted names."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(f"{prefix}{name}.", value)
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        is_bytes = "bytes" in name.rpartition(".")[2].split("_")
        return f"{format_size(value)} ({value})" if is_bytes and value >= 1024 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
