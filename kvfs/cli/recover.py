"""``kvfsctl recover``: bring a mount back that a failing device has turned read-only."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from kvfs.cli.admin import ask
from kvfs.errors import DeviceFailed, VolumeOwned

_INTERVAL = 0.1  # s, between two looks


def recover(mountpoint: Path) -> dict[str, Any]:
    """The mount's health once it is writable. Waits for the device as long as the mount's ``--io-timeout`` lets it.

    DeviceFailed with the reason when it stays read-only, VolumeOwned when another host has taken the store; NotMounted,
    MountError.
    """
    health: dict[str, Any] = ask(mountpoint, "recover")
    with _waiting(mountpoint)():
        while health["state"] == "recovering" or (health["state"] == "read-only" and not health["last_answer"]):
            time.sleep(_INTERVAL)
            health = ask(mountpoint, "health")
    if health["state"] == "fenced":  # meanwhile
        raise VolumeOwned(f"{mountpoint}: {health['reason']}: there is no way back for this mount", "unmount it")
    if health["state"] != "healthy":
        raise DeviceFailed(f"{mountpoint}: stays read-only: {health['last_answer']}", "the kernel log may say more")
    return health


def _waiting(mountpoint: Path) -> Callable[[], Any]:
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    return lambda: console.status(f"recovering {mountpoint}")


def print_health(health: dict[str, Any]) -> None:
    print(f"{health['state']}, {health['verified_bytes_total']} bytes verified")
