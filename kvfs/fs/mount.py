"""The life of a mount: open the store, mount, serve, unmount, close the store.

::

    serve(options, ready)
      Store(...)                     blocks: recovery; EBUSY names who has it
      Session.mount                  mount(2), or fusermount3 for an ordinary user; pyfuse3.init
      trio.run
        Engine.receiving             outlives every request
          pyfuse3.main               the pool of request tasks
          _announce                  asks the mount for its root, then ready()
          _end                       a signal, or the end of the native connection
      Session.close                  unmounts when that has not happened yet
      Store.close                    flushes, writes a checkpoint, gives the volume up

It ends in one of three ways. Somebody unmounts: the kernel closes the session when the last user is gone, and
``pyfuse3.main`` returns. A signal: the session takes no new request, those in hand are answered, then the mount is
detached, and whoever still has a file open gets ENOTCONN. An exception in pyfuse3: the same without waiting.
In all three the store is closed last, and holds everything that a write() was told was taken.
"""

import gc
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyfuse3
import trio

from kvfs import __version__
from kvfs._native import FaultInjector, give_large_blocks_back, quotas
from kvfs.errors import MountError, only_error
from kvfs.fs.admin import AdminFile, Command
from kvfs.fs.control import ControlDirectory
from kvfs.fs.datapath import EngineDataPath
from kvfs.fs.eviction import Evictions
from kvfs.fs.faults import add_fault_commands
from kvfs.fs.health import add_health_commands
from kvfs.fs.holding import close_store, open_store, watch_reservation
from kvfs.fs.operations import FileSystem
from kvfs.fs.options import MountOptions
from kvfs.fs.paths import PathWatch
from kvfs.fs.physical import PhysicalWatch
from kvfs.fs.scrub import add_scrub
from kvfs.fs.session import NativeSession, Pyfuse3Session, Session
from kvfs.fs.status import Identity, MountStatus, status_files
from kvfs.fs.tuning import tune
from kvfs.store import Engine
from kvfs.store.hosts import this_host
from kvfs.store.ownership import Hold

log = logging.getLogger(__name__)

# A request task that waits for its next request costs next to nothing, making one costs as much as a request. A task
# per request in flight: clients write with 16 threads and more, each with a 1 MiB request, and their lookups come
# on top.
_IDLE_TASKS, _MOST_TASKS = 32, 256


def serve(
    options: MountOptions, ready: Callable[[], None], under: Mapping[str, Callable[[], object]] | None = None
) -> None:
    """Mount and answer requests until unmounted, SIGTERM, SIGINT or SIGHUP; the store is closed on return.

    ``ready`` is called once the mount answers. ``under``: ``statistics()`` of what is under the store, by the names
    of the components. Main thread only. Raises a VolumeError when the store
    cannot be opened or closed, MountError when it cannot be mounted.
    """
    give_large_blocks_back()
    faults = FaultInjector() if options.inject_faults else None
    host = this_host()
    hold = Hold(options.store, host)
    store = open_store(options, faults, host, hold)
    try:
        session = NativeSession(store, options) if options.data_path == "native" else Pyfuse3Session(options)
        try:
            engine = Engine(store, on_drop=_forget_name)
            physical = PhysicalWatch(store, options.store, options.physical_space)
            evictions = Evictions(store)
            paths = PathWatch(store, options.store)
            under = {**(under or {}), "path": paths.statistics, "reservation": hold.statistics}
            session.mount(_file_system(engine, session, options, faults, physical, evictions, under))
            log.info("%s: mounted on %s (%s)", options.store, options.mountpoint, options.data_path)
            trio.run(_serve, engine, session, evictions, options.mountpoint, physical, paths, hold, ready)
        except BaseExceptionGroup as group:  # which a nursery makes of whatever a task raises
            error = only_error(group)
            if error is group:
                raise
            raise error from group
        finally:
            session.close()
            log.info("%s: unmounted", options.mountpoint)
    finally:
        close_store(options, store, hold)
        log.info("%s: closed", options.store)


def _forget_name(parent: int, name: bytes) -> None:
    """The kernel would go on believing in a file that native has dropped."""
    pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)


def _file_system(
    engine: Engine,
    session: Session,
    options: MountOptions,
    faults: FaultInjector | None,
    physical: PhysicalWatch,
    evictions: Evictions,
    under: Mapping[str, Callable[[], object]],
) -> FileSystem:
    shown = msgspec.to_builtins(options, enc_hook=str)  # str() for paths
    identity = Identity(
        version=__version__,
        pid=os.getpid(),
        mountpoint=str(options.mountpoint),
        store=options.fsname,
        uuid=engine.store.uuid,
        options={name: value for name, value in shown.items() if name not in ("store", "mountpoint")},
    )
    components: dict[str, Callable[[], object]] = {"store": engine.store.statistics, "engine": engine.statistics}
    status = MountStatus(identity, components)
    control = ControlDirectory((*status_files(status), _commands(engine, faults, evictions)))
    file_system = FileSystem(engine, EngineDataPath(engine), control, read_only=options.read_only)
    components["fs"] = lambda: session.whole(file_system.statistics())
    components["physical"] = physical.statistics
    components.update(session.components)
    components.update(under)
    return file_system


def _commands(engine: Engine, faults: FaultInjector | None, evictions: Evictions) -> AdminFile:
    """What ``kvfsctl`` asks of the mount."""
    admin = AdminFile()

    async def sync(_: Command) -> None:
        await engine.sync()

    async def list_quotas(_: Command) -> list[dict[str, Any]]:
        return quotas(engine.store)

    admin.add("sync", Command, sync)
    admin.add("quotas", Command, list_quotas)
    add_scrub(admin, engine.store)
    evictions.add_to(admin)
    add_health_commands(admin, engine.store)
    if faults is not None:
        add_fault_commands(admin, faults)
    return admin


async def _serve(
    engine: Engine,
    session: Session,
    evictions: Evictions,
    mountpoint: Path,
    physical: PhysicalWatch,
    paths: PathWatch,
    hold: Hold,
    ready: Callable[[], None],
) -> None:
    async with engine.receiving(), trio.open_nursery() as nursery:
        nursery.start_soon(_end_on_signal, session)
        nursery.start_soon(session.watch)
        nursery.start_soon(physical.run)
        nursery.start_soon(paths.run)
        nursery.start_soon(watch_reservation, hold, engine.store)
        nursery.start_soon(evictions.run)
        nursery.start_soon(_announce, mountpoint, ready)
        await pyfuse3.main(min_tasks=_IDLE_TASKS, max_tasks=_MOST_TASKS)
        nursery.cancel_scope.cancel()


async def _end_on_signal(session: Session) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            await session.end()


async def _announce(mountpoint: Path, ready: Callable[[], None]) -> None:
    """Call ``ready`` after a request has gone to the kernel, to the session and back. MountError when it fails."""
    try:
        root = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    except OSError as error:
        raise MountError(f"{mountpoint}: mounted, but does not answer: {error.strerror}") from error
    tune(root.st_dev)
    # What start-up has made lives as long as the mount; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    ready()
