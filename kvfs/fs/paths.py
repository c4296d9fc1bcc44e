"""The paths to a store's namespace: when all were lost and one is there again, the store is made writable by itself.

A write of metadata that fails turns a store read-only (``native/store/health.hpp``), as nobody can say what the device
holds then, and ``kvfsctl recover`` waits for somebody to look after a device that fails. A lost path is another matter:
what the target has taken it keeps, and nobody has to look after anything but the path. So here the same recovery is
begun without being asked for, and all that it verifies it verifies. It is left to a person

- when the error is the target's own word: a medium error, a reservation of another host, no space;
- when another host has taken the store meanwhile, which ``Store.recover`` looks at before it writes anything;
- when the device is no namespace over a fabric, or is gone for good: the kernel gave it up (``ctrl_loss_tmo``) or the
  target withdrew the namespace, and what is there under that name now is another device, which a mount opens anew.

Concurrency: one task, which looks twice a second at what the store says of itself, and into /sys, which asks no device
anything, only when that is bad. ``Store.recover`` only begins a recovery; one that fails is tried again after twice the
time, for as long as a path is live.
"""

import errno
import logging
from pathlib import Path
from typing import Any

import trio

from kvfs._native import Store
from kvfs.fabric.nvme.sysfs import HOST, Host

log = logging.getLogger(__name__)

_INTERVAL = 0.5  # s
_LONGEST_WAIT = 30.0  # s, between attempts
# what Linux makes of a lost path (block/blk-core.c, drivers/nvme/host/multipath.c), of a silent one, and of one that
# is being removed; what a target says itself comes as other numbers, but for errors that have none of their own
_OF_PATHS = frozenset({errno.EIO, errno.ENOLINK, errno.ETIMEDOUT, errno.ENODEV, errno.EAGAIN})


class Paths:
    """The controllers over which this host reaches the namespace ``device`` (a block device that is open)."""

    def __init__(self, device: Path, host: Host = HOST) -> None:
        self._host = host
        self._name = device.resolve().name
        self._sequence = self._disk_sequence()

    def states(self) -> dict[str, str]:
        """By controller, of those over a fabric. Empty: there is none (any more)."""
        return {
            controller.name: controller.state
            for controller in self._host.controllers()
            if controller.address.transport != "pcie"
            and any(namespace.name == self._name for namespace in controller.namespaces)
        }

    def is_same_device(self) -> bool:
        """Whether the name still is the device that was opened."""
        return self._sequence is not None and self._disk_sequence() == self._sequence

    def _disk_sequence(self) -> str | None:
        """A number that the kernel gives to one disk only, for as long as it runs."""
        try:
            return (self._host.sys / "class/block" / self._name / "diskseq").read_text()
        except OSError:
            return None


class PathWatch:
    """``statistics()``: the paths now, how often all were lost under the store's log, how often it came back."""

    def __init__(self, store: Store, device: Path, host: Host = HOST) -> None:
        self._store = store
        self._device = device
        self._paths = Paths(device, host)
        self._is_over_fabric = bool(self._paths.states())
        self._losses = 0
        self._returns = 0

    async def run(self) -> None:
        if not self._is_over_fabric:
            return
        while True:
            await trio.sleep(_INTERVAL)
            health = self._store.health()
            if health["state"] == "read-only" and health["error"] in _OF_PATHS:
                self._losses += 1
                if await self._bring_back():
                    self._returns += 1

    async def _bring_back(self) -> bool:
        """Until the store is writable; False when somebody else made it so, or it is no matter of paths any more."""
        log.warning("%s: a path was lost under the log; the store is writable again when it is back", self._device)
        wait = _INTERVAL
        while True:
            await trio.sleep(wait)
            if not self._paths.is_same_device():
                log.error("%s: gone; unmount and mount again once it is back", self._device)
                self._is_over_fabric = False
                await trio.sleep_forever()
            health = self._store.health()
            if health["error"] not in _OF_PATHS:
                return False
            if health["state"] != "read-only" or "live" not in self._paths.states().values():
                continue
            wait = min(2 * wait, _LONGEST_WAIT)
            try:
                self._store.recover()
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EALREADY):  # well already, or at it already
                    log.error("%s: stays read-only: %s", self._device, error)
                    return False
            if await self._settled():
                return True

    async def _settled(self) -> bool:
        """Wait for the end of a recovery; whether the store is writable."""
        while True:
            await trio.sleep(_INTERVAL)
            health = self._store.health()
            if health["error"] not in _OF_PATHS:
                return bool(health["state"] == "healthy")
            if health["state"] == "read-only" and health["last_answer"]:
                return False

    def statistics(self) -> dict[str, Any]:
        return {
            "paths": self._paths.states() if self._is_over_fabric else {},
            "losses_total": self._losses,
            "returns_total": self._returns,
        }
