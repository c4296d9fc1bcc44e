"""What ``kvfs mount`` does between its command line and the daemon: plan, check, serve.

Everything that can be refused without touching the store is refused before the daemon starts. The store is
made, when it has to be, by the daemon: native code may start threads, and those do not survive a fork.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvfs import paths
from kvfs.cli.mounts import FSTYPE, mount_at, resolve_mountpoint
from kvfs.cli.options import FstabOptions
from kvfs.cli.probes import fuse
from kvfs.errors import BadMountpoint, MountError, MountInUse, NoFuse, UsageError, VolumeError

if TYPE_CHECKING:
    from kvfs.fs.options import DataPath, OnFull, RequestLoop  # at run time the daemon imports kvfs.fs, after its fork


SWEEP_AFTER = 3600  # s: no client takes an hour to write a page


@dataclass(frozen=True)
class NativeOptions:
    """Of the native data path, and whether it is taken at all; see ``kvfs.fs.options``."""

    data_path: "DataPath" = "native"
    threads: int = 0
    request_loop: "RequestLoop" = "auto"
    passthrough: bool = True
    warm_bytes: int | None = None


@dataclass(frozen=True)
class DeviceOptions:
    """Of the store's device; see ``kvfs.fs.options``."""

    io_timeout: float = 30.0
    inject_faults: bool = False
    physical_space: Path | None = None


@dataclass(frozen=True)
class MountRequest:
    """Absolute paths, symlinks resolved. ``size`` in bytes: of a store to be made, or what an existing one has to be.

    ``log`` None: standard error. ``sweep_after``: as in ``kvfs.fs.options``.
    """

    store: Path
    mountpoint: Path
    size: int | None
    read_only: bool
    allow_other: bool
    log: Path | None
    extra: tuple[str, ...] = ()
    on_full: "OnFull" = "evict"
    native: NativeOptions = NativeOptions()
    sweep_after: int = SWEEP_AFTER
    device: DeviceOptions = DeviceOptions()


def plan(
    names: Sequence[str],
    fstab: FstabOptions,
    *,
    size: int | None = None,
    read_only: bool = False,
    allow_other: bool | None = None,
    log: Path | None = None,
    foreground: bool = False,
    on_full: "OnFull | None" = None,
    native: NativeOptions | None = None,
    sweep_after: int | None = None,
    device: DeviceOptions | None = None,
) -> MountRequest:
    """``names``: ``[STORE ...] MOUNTPOINT``. Options of the command line win over ``-o``. Raises UsageError."""
    *stores, mountpoint = names
    if len(stores) > 1:
        raise UsageError(
            f"expected one store, found {len(stores)}: {', '.join(stores)}",
            "stores of several namespaces come with NVMe-oF support (part 4); name one",
        )
    target = paths.require_text(resolve_mountpoint(Path(mountpoint)))
    store = paths.require_text(Path(os.path.realpath(stores[0]))) if stores else paths.default_store()
    if allow_other is None:
        allow_other = fstab.allow_other if fstab.allow_other is not None else os.geteuid() == 0
    log = log or fstab.log
    if log is None and not foreground:
        log = paths.default_log(target)
    return MountRequest(
        store=store,
        mountpoint=target,
        size=fstab.size if size is None else size,
        read_only=read_only or bool(fstab.read_only),
        allow_other=allow_other,
        log=log and log.absolute(),
        extra=fstab.extra,
        on_full=on_full or fstab.on_full or "evict",
        native=native or NativeOptions(),
        sweep_after=next((given for given in (sweep_after, fstab.sweep_after) if given is not None), SWEEP_AFTER),
        device=device or DeviceOptions(),
    )


def check(request: MountRequest) -> None:
    """Raise for what would fail whatever the store holds: mountpoint, FUSE, the kind of file that the store is."""
    _check_mountpoint(request.mountpoint)
    _check_fuse(request.allow_other)
    _check_request_loop(request.native)
    _check_store(request)


def serve(request: MountRequest, ready: Callable[[], None]) -> None:
    """Make the store when it is absent, mount it and serve until unmounted or told to end.

    ``ready`` is called once the mount answers. A store made here is removed again when that does not come to pass.
    """
    from kvfs import fs
    from kvfs.store import volume

    is_new = not request.store.exists()
    answered = False

    def answer() -> None:
        nonlocal answered
        answered = True
        ready()

    volume.open_or_create(request.store, request.size)
    try:
        fs.serve(
            fs.MountOptions(
                store=request.store,
                mountpoint=request.mountpoint,
                read_only=request.read_only,
                allow_other=request.allow_other,
                fsname=str(request.store),
                sweep_after=request.sweep_after,
                log=request.log,
                extra=request.extra,
                on_full=request.on_full,
                **asdict(request.native),
                **asdict(request.device),
            ),
            answer,
        )
    except BaseException:
        if is_new and not answered:
            _remove_unused(request.store)
        raise


def _remove_unused(store: Path) -> None:
    """Remove ``store`` unless another mount took it in the meantime: whoever uses a store has it locked."""
    with store.open("rb") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store.unlink()


def _check_mountpoint(path: Path) -> None:
    found = mount_at(path)
    if found is not None:
        raise MountInUse(
            f"{path}: expected a free directory, found {found.source} ({found.fstype}) mounted on it",
            f"run `kvfs umount {path}` first" if found.fstype == FSTYPE else "choose another directory",
        )
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise BadMountpoint(f"{path}: no such directory", f"make it: mkdir -p {path}") from None
    except OSError as error:
        raise BadMountpoint(f"{path}: {error.strerror}", "choose another directory") from error
    if not stat.S_ISDIR(mode):
        raise BadMountpoint(f"{path}: expected a directory, found a file", "name the directory to mount on")
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise BadMountpoint(f"{path}: you may not write to it", "mount on a directory of your own, or as root")


def _check_fuse(allow_other: bool) -> None:
    for finding in (fuse.device(), fuse.may_mount()):
        if not finding.is_ok:
            raise NoFuse(finding.found, finding.remedy)
    if allow_other and os.geteuid() != 0:
        finding = fuse.user_allow_other()
        if not finding.is_ok:
            raise MountError(f"allow_other: {finding.found}", finding.remedy)


def _check_request_loop(native: NativeOptions) -> None:
    """Rings that were asked for by name; whoever did not care gets what there is."""
    if native.data_path == "native" and native.request_loop == "uring":
        finding = fuse.over_io_uring()
        if not finding.is_ok:
            raise NoFuse(f"--request-loop uring: {finding.feature}: {finding.found}", finding.remedy)


def _check_store(request: MountRequest) -> None:
    store = request.store
    if store.is_relative_to(request.mountpoint):
        raise BadMountpoint(f"{store}: lies below the mountpoint {request.mountpoint}", "the mount would hide it")
    if request.read_only and not store.exists():
        raise VolumeError(f"{store}: no such store, and none is made with --read-only", "check the path")
