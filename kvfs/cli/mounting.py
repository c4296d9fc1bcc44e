"""What ``kvfs mount`` does between its plan and its end: check, serve.

Everything that can be refused without touching the store is refused before the daemon starts. The store is
made, when it has to be, by the daemon: native code may start threads, and those do not survive a fork.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from kvfs.cli.mounts import FSTYPE, mount_at
from kvfs.cli.plan import MountRequest, NativeOptions
from kvfs.cli.probes import fuse
from kvfs.cli.stores import OpenStore, opened
from kvfs.errors import BadMountpoint, MountError, MountInUse, NoFuse, VolumeError


def check(request: MountRequest) -> None:
    """Raise for what would fail whatever the store holds: mountpoint, FUSE, the kind of file that the store is."""
    _check_mountpoint(request.mountpoint)
    _check_fuse(request.allow_other)
    _check_request_loop(request.native)
    _check_store(request)


def serve(request: MountRequest, ready: Callable[[], None]) -> None:
    """Make the store when it is absent, mount it and serve until unmounted or told to end.

    ``ready`` is called once the mount answers. A store made here is removed again when that does not come to pass, and
    what was connected for it is disconnected in the end.
    """
    with opened(request.store, request.mountpoint) as store:
        _serve(request, store, ready)


def _serve(request: MountRequest, found: OpenStore, ready: Callable[[], None]) -> None:
    from kvfs import fs
    from kvfs.store import volume

    store = found.path
    is_new = not store.exists()
    answered = False

    def answer() -> None:
        nonlocal answered
        answered = True
        ready()

    volume.open_or_create(store, request.size)
    try:
        fs.serve(
            fs.MountOptions(
                store=store,
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
            found.components,
        )
    except BaseException:
        if is_new and not answered:
            _remove_unused(store)
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
    if not isinstance(store, Path):
        return  # the daemon connects it
    if store.is_relative_to(request.mountpoint):
        raise BadMountpoint(f"{store}: lies below the mountpoint {request.mountpoint}", "the mount would hide it")
    if request.read_only and not store.exists():
        raise VolumeError(f"{store}: no such store, and none is made with --read-only", "check the path")
