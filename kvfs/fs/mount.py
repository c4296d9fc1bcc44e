"""The life of a mount: open the store, mount, serve, unmount, close the store.

::

    serve(options, ready)
      Store(...)                     blocks: recovery; EBUSY names who has it
      pyfuse3.init                   mount(2), or fusermount3 for an ordinary user
      trio.run
        Engine.receiving             outlives every request
          pyfuse3.main               the pool of request tasks
          _announce                  asks the mount for its root, then ready()
          _terminate_on_signal
      pyfuse3.close                  unmounts when that has not happened yet
      Store.close                    flushes, writes a checkpoint, gives the volume up

It ends in one of three ways. Somebody unmounts: the kernel closes the session when the last user is gone, and
``pyfuse3.main`` returns. A signal: the session takes no new request, those in hand are answered, then the mount is
detached, and whoever still has a file open gets ENOTCONN. An exception in pyfuse3: the same without waiting.
In all three the store is closed last, and holds everything that a write() was told was taken.
"""

import gc
import getpass
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ENODEV, ENOENT, ENOTCONN
from pathlib import Path

import msgspec
import pyfuse3
import trio

from kvfs import __version__
from kvfs._native import Store
from kvfs.errors import MountError, from_oserror, one_line
from kvfs.fs.control import ControlDirectory
from kvfs.fs.datapath import EngineDataPath
from kvfs.fs.operations import FileSystem
from kvfs.fs.status import Identity, MountStatus, status_files
from kvfs.fs.tuning import tune
from kvfs.store import Engine

log = logging.getLogger(__name__)

# A request task that waits for its next request costs next to nothing, making one costs as much as a request. A task
# per request in flight: clients write with 16 threads and more, each with a 1 MiB request, and their lookups come
# on top.
_IDLE_TASKS, _MOST_TASKS = 32, 256


@dataclass(frozen=True)
class MountOptions:
    """Absolute paths. ``fsname``: the source in the mount table. ``extra``: mount options, for libfuse as they are.

    ``log``: where the caller has sent the process's log; only reported here.
    """

    store: Path
    mountpoint: Path
    read_only: bool
    allow_other: bool
    fsname: str
    log: Path | None
    extra: tuple[str, ...]


def serve(options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount and answer requests until unmounted, SIGTERM, SIGINT or SIGHUP; the store is closed on return.

    ``ready`` is called once the mount answers. Main thread only. Raises a VolumeError when the store
    cannot be opened or closed, MountError when it cannot be mounted.
    """
    store = _open(options)
    try:
        engine = Engine(store, on_drop=_forget_name)
        _mount(_file_system(engine, options), options)
        try:
            trio.run(_serve, engine, options.mountpoint, ready)
        finally:
            pyfuse3.close(unmount=True)
            log.info("%s: unmounted", options.mountpoint)
    finally:
        try:
            store.close()
        except OSError as error:
            raise from_oserror(error, options.store) from error
        log.info("%s: closed", options.store)


def _open(options: MountOptions) -> Store:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "mountpoint": str(options.mountpoint),
        "user": _user_name(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        return Store(
            str(options.store), read_only=options.read_only, owner=msgspec.json.encode(owner).decode(errors="replace")
        )
    except OSError as error:
        raise from_oserror(error, options.store) from error


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers run under user ids that no passwd knows
        return str(os.getuid())


def _forget_name(parent: int, name: bytes) -> None:
    """The kernel would go on believing in a file that native has dropped."""
    pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)


def _file_system(engine: Engine, options: MountOptions) -> FileSystem:
    shown = msgspec.to_builtins(options, enc_hook=str)  # str() for paths
    identity = Identity(
        version=__version__,
        pid=os.getpid(),
        mountpoint=str(options.mountpoint),
        store=str(options.store),
        uuid=engine.store.uuid,
        options={name: value for name, value in shown.items() if name not in ("store", "mountpoint")},
    )
    components = {"store": engine.store.statistics, "engine": engine.statistics}
    status = MountStatus(identity, components)
    file_system = FileSystem(
        engine, EngineDataPath(engine), ControlDirectory(status_files(status)), read_only=options.read_only
    )
    components["fs"] = file_system.statistics
    return file_system


def _mount(file_system: FileSystem, options: MountOptions) -> None:
    mount_options = {
        _MountOption(f"fsname={_escape(options.fsname)}"),
        "subtype=kvfs",
        "default_permissions",
        *options.extra,
    }
    if options.allow_other:
        mount_options.add("allow_other")
    if options.read_only:
        mount_options.add("ro")
    logging.getLogger("pyfuse3").addFilter(_is_worth_logging)
    with _captured_stderr() as said:
        try:
            pyfuse3.init(file_system, str(options.mountpoint), mount_options)
        except RuntimeError as error:
            reason = said() or str(error)
            hint = "`kvfsctl doctor` checks what it takes"
            raise MountError(f"{options.mountpoint}: cannot mount: {reason}", hint) from error
        if said():
            log.warning("mounting %s: %s", options.mountpoint, said())
    log.info("%s: mounted on %s", options.store, options.mountpoint)


class _MountOption(str):
    """pyfuse3 encodes mount options as ASCII, which a path need not be."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))  # str(): an object of the plain type


def _escape(value: str) -> str:
    """For libfuse, which splits options at commas."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Not so: a reply that comes after the kernel gave the request up, its client killed or the mount gone."""
    if "fuse_reply_* failed" not in str(record.msg) or not isinstance(record.args, tuple):
        return True
    return not {os.strerror(code) for code in (ENOENT, ENODEV, ENOTCONN)}.intersection(record.args)


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """libfuse and fusermount3 say why they fail on standard error only; yields what tells it, on one line."""
    with tempfile.TemporaryFile() as said:

        def text() -> str:
            said.seek(0)
            return one_line(said.read().decode(errors="replace"))

        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield text
        finally:
            os.dup2(kept, 2)
            os.close(kept)


async def _serve(engine: Engine, mountpoint: Path, ready: Callable[[], None]) -> None:
    async with engine.receiving(), trio.open_nursery() as nursery:
        nursery.start_soon(_terminate_on_signal)
        nursery.start_soon(_announce, mountpoint, ready)
        await pyfuse3.main(min_tasks=_IDLE_TASKS, max_tasks=_MOST_TASKS)
        nursery.cancel_scope.cancel()


async def _terminate_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            pyfuse3.terminate()


async def _announce(mountpoint: Path, ready: Callable[[], None]) -> None:
    """Call ``ready`` after a request has gone to the kernel, to the session and back."""
    try:
        root = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    except OSError as error:
        log.error("%s: mounted, but does not answer: %s", mountpoint, error.strerror)
        pyfuse3.terminate()
        return
    tune(root.st_dev)
    # What start-up has made lives as long as the mount; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    ready()
