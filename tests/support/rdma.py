"""RDMA without hardware: the kernel's soft-RoCE (rdma_rxe) on a link that this machine has with itself."""

import subprocess
from pathlib import Path

LINK, DEVICE = "rdma0", "rxe0"
ADDRESS = "10.77.0.1"
_MTU = 4200  # holds a RoCE packet of 4096 bytes


def make_device() -> str:
    """The device, made when it is not there; the address that a target listens on and a host connects to."""
    if not Path("/sys/class/infiniband", DEVICE).exists():
        ip("link", "add", LINK, "type", "dummy")
        ip("link", "set", LINK, "mtu", str(_MTU), "up")
        ip("addr", "add", f"{ADDRESS}/24", "dev", LINK)
        _run("rdma", "link", "add", DEVICE, "type", "rxe", "netdev", LINK)
    return ADDRESS


def ip(*words: str) -> None:
    """ip(8)"""
    _run("ip", *words)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}: {done.stderr.strip()}"
