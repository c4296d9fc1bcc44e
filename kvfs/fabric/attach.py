"""A store's namespace as a block device of this host, for as long as somebody uses it.

::

    attached(store)
      Ledger.locked(NQN)       others who connect or disconnect this subsystem wait
        sweep                  what killed users left is disconnected
        enter                  whatever is connected from here on is known to be ours
        connect                each path; the first error ends it, but for a path that is down while another is up
        choose                 the namespace, of which every path has to show the same device
      yield                    the device is open: its name cannot become another one's meanwhile
      Ledger.locked(NQN)
        leave                  disconnects what is ours and nobody else's by now

Whatever ends it (an error, a signal that raises, the end of the mount) passes through ``leave``. SIGKILL does not; see
``kvfs.fabric.connections`` for what happens then.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvfs.errors import FabricError, FabricMissing, NamespaceVanished, TimedOut, Unreachable, UsageError
from kvfs.fabric import nvme
from kvfs.fabric.connections import Entry, Held, Ledger, User, identify
from kvfs.fabric.nvme import Controller, Namespace
from kvfs.fabric.store import FabricStore
from kvfs.units import format_size

log = logging.getLogger(__name__)


class Attached:
    """``path``: of the block device, for as long as this lasts."""

    def __init__(self, store: FabricStore, namespace: Namespace, controllers: list[Controller]) -> None:
        self.path = namespace.path
        self._store = store
        self._namespace = namespace
        self._controllers = controllers

    def statistics(self) -> dict[str, Any]:
        """``paths``: by controller, its address and its state now (``gone`` when there is none of that name)."""
        states = {controller.name: controller.state for controller in nvme.list_controllers()}
        return {
            "nqn": self._store.nqn,
            "nsid": self._namespace.nsid,
            "device": str(self._namespace.by_id or self.path),
            "wwid": self._namespace.wwid,
            "paths": {
                each.name: {"address": str(each.address), "state": states.get(each.name, "gone")}
                for each in self._controllers
            },
        }


@contextmanager
def attached(store: FabricStore, mountpoint: Path | None = None) -> Iterator[Attached]:
    """Connect what is not connected, and in the end disconnect that again. ``mountpoint``: of whom it is for.

    Raises what :func:`kvfs.fabric.nvme.connect` does, UsageError when the namespace to take is not clear; then
    nothing has been left connected.
    """
    if os.geteuid() != 0:
        raise FabricMissing(
            f"{store}: expected to run as root, which connecting takes, found user id {os.geteuid()}",
            "run as root, or have it connected and name the device",
        )
    ledger = Ledger()
    with ledger.locked(store.nqn) as entry:
        _tell(entry.sweep())
        user = entry.enter(str(store), mountpoint)
        try:
            namespace, controllers = _connect(store, entry, user)
            pin = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            _tell(entry.leave(user))
            raise
        user.device, user.before = str(namespace.path), None
        entry.save()
    log.info("%s: %s, %s, by %s", store, namespace.path, namespace.wwid, ", ".join(_names(controllers)))
    try:
        try:
            _check_identity(store, namespace, pin)
            yield Attached(store, namespace, controllers)
        finally:
            os.close(pin)
    finally:
        with ledger.locked(store.nqn) as entry:
            if (now := entry.find(user)) is not None:
                _tell(entry.leave(now))


def _connect(store: FabricStore, entry: Entry, user: User) -> tuple[Namespace, list[Controller]]:
    controllers: list[Controller] = []
    down: list[FabricError] = []
    nsids = None if store.nsid is None else [store.nsid]
    for path in store.paths:
        try:
            controller = nvme.connect(path.address, store.nqn, path.options, nsids=nsids)
        except (Unreachable, TimedOut) as error:
            if len(store.paths) == 1:
                raise
            down.append(error)
            continue
        controllers.append(controller)
        found = identify(controller.name)
        if found is not None:
            user.held.append(Held(found, str(controller.address), controller.connected_here))
            entry.save()
    if not controllers:
        raise down[0]
    for problem in down:
        log.warning("%s: mounted without one of its paths: %s", store, problem)
    namespace = _choose(store, controllers[0])
    for controller in controllers[1:]:
        other = next((each for each in controller.namespaces if each.nsid == namespace.nsid), None)
        if other is None or other.path != namespace.path:
            raise FabricError(
                f"{store}: expected {namespace.path} by {controller.name} too, found {other.path if other else 'none'}",
                "boot with nvme_core.multipath=Y and let the target allow it (CMIC), or name one path",
            )
    return namespace, controllers


def _choose(store: FabricStore, controller: Controller) -> Namespace:
    found = controller.namespaces
    if store.nsid is not None:
        found = tuple(namespace for namespace in found if namespace.nsid == store.nsid)
    if not found:
        wanted = "a namespace" if store.nsid is None else f"namespace {store.nsid}"
        raise NamespaceVanished(f"{store}: expected {wanted}, found none", "`kvfsctl fabric list` shows what there is")
    if len(found) > 1:
        listed = ", ".join(f"{each.nsid} ({format_size(each.size)}, {each.wwid})" for each in found)
        raise UsageError(
            f"{store}: expected one namespace, found {len(found)}: {listed}", f"say which one: ?nsid={found[0].nsid}"
        )
    return found[0]


def _check_identity(store: FabricStore, namespace: Namespace, pin: int) -> None:
    """What was opened is what was chosen: the name may have become another namespace's between the two."""
    number = os.fstat(pin).st_rdev
    found = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/wwid")
    wwid = found.read_text().strip() if found.exists() else "none"
    if wwid != namespace.wwid:
        raise NamespaceVanished(
            f"{store}: expected {namespace.wwid} as {namespace.path}, found {wwid}", "mount again; its name has changed"
        )


def _names(controllers: list[Controller]) -> list[str]:
    return [f"{controller.name} ({controller.address})" for controller in controllers]


def _tell(notes: list[str]) -> None:
    for note in notes:
        log.info("%s", note)
