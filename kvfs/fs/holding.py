"""Opening and closing the store of a mount: who owns it, and what holds other hosts off while it is mounted.

::

    open_store      lock, owner record, reservation, recovery (``kvfs.store.ownership.Hold``)
    watch_reservation   every few seconds: a target that was restarted has forgotten its reservations
    close_store     the store, then the reservation: until then no other host can have written to it

What a mount may miss of its own fencing is the native side's to notice (``native/store/ownership.hpp``).
"""

import getpass
import logging
import os
import socket
import time
from datetime import UTC, datetime

import msgspec
import trio

from kvfs._native import FaultInjector, Store
from kvfs.errors import KvfsError, VolumeCorrupt, VolumeOwned, from_oserror
from kvfs.fabric.reservations import ReservationConflict
from kvfs.fs.options import MountOptions
from kvfs.store import ownership
from kvfs.store.hosts import Host
from kvfs.store.ownership import Hold

log = logging.getLogger(__name__)

_INTERVAL = 5.0  # s between two looks at the reservation
_ATTEMPTS, _PAUSE = 8, 0.25  # at reading what another host is writing; s


def open_store(options: MountOptions, faults: FaultInjector | None, host: Host, hold: Hold) -> Store:
    """For writing ``hold`` is taken with it. Raises VolumeError; then nothing is held."""
    try:
        if options.read_only:
            return _open_read_only(options, faults, host)
        return _open(options, faults, host, hold)
    except BaseException as error:
        _end(options, hold, in_order=hold.was_free)
        if isinstance(error, OSError):
            raise from_oserror(error, options.store) from error
        raise


def close_store(options: MountOptions, store: Store, hold: Hold) -> None:
    """VolumeOwned when another host has taken the store meanwhile; other VolumeErrors when it was not closed in order:
    then this host keeps the reservation, for its next mount."""
    health = store.health()
    try:
        store.close()
    except OSError as error:
        _end(options, hold, in_order=False)
        if health["state"] == "fenced":
            raise VolumeOwned(
                f"{options.store}: {health['reason']} while it was mounted", "what was not fsynced before that is lost"
            ) from error
        raise from_oserror(error, options.store) from error
    _end(options, hold, in_order=True)


def _end(options: MountOptions, hold: Hold, *, in_order: bool) -> None:
    try:
        hold.end(in_order=in_order)
    except (OSError, ReservationConflict) as error:
        log.warning("%s: its reservation on the target cannot be ended: %s", options.store, error)


async def watch_reservation(hold: Hold, store: Store) -> None:
    """Until cancelled."""
    said = ""
    while True:
        await trio.sleep(_INTERVAL)
        if store.health()["state"] == "fenced":
            return
        try:
            line = await trio.to_thread.run_sync(hold.renew, abandon_on_cancel=True)
        except (OSError, KvfsError) as error:
            if str(error) != said:  # once, however long a path is down
                log.info("%s", error)
            said = str(error)
        else:
            said = ""
            if line:
                log.info("%s", line)


def _open(options: MountOptions, faults: FaultInjector | None, host: Host, hold: Hold) -> Store:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "mountpoint": str(options.mountpoint),
        "user": _user_name(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "host_name": host.name,
        "host_id": host.id.hex(),
        "boot_id": host.boot_id,
    }
    return Store(
        str(options.store),
        owner=msgspec.json.encode(owner).decode(errors="replace"),
        sweep_after=options.sweep_after,
        io_timeout=options.io_timeout,
        faults=faults,
        evict=options.on_full == "evict",
        host=host.id,
        host_name=host.name,
        on_locked=hold.take,
    )


def _open_read_only(options: MountOptions, faults: FaultInjector | None, host: Host) -> Store:
    """What another host is writing at this moment may change between the pieces that are read of it: it is read again
    when that does not fit together."""
    for attempt in range(_ATTEMPTS):
        try:
            return Store(str(options.store), read_only=True, io_timeout=options.io_timeout, faults=faults, host=host.id)
        except OSError as error:
            failure = from_oserror(error, options.store)
            is_last = attempt == _ATTEMPTS - 1
            if is_last or not isinstance(failure, VolumeCorrupt) or ownership.read(options.store).is_free:
                raise failure from error
        time.sleep(_PAUSE)
    raise AssertionError("not reached")


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers run under user ids that no passwd knows
        return str(os.getuid())
