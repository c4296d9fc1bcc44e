"""Making, describing and checking volumes: what ``kvfsctl format``, ``info``, ``fsck`` and ``kvfs mount`` need.

Everything here blocks and is for start-up and administration. Errors are those of :mod:`kvfs.errors`; when one is
raised nothing has changed: a file that was made is gone again, one that was there has its size and its bytes. What
is formatted with ``force`` is destroyed as soon as all checks have passed, though, whatever happens then.

Between the look at what a store holds and the format another program could write to it. Nothing portable prevents
that for regular files; block devices are claimed (O_EXCL) by the native side, which also refuses a mounted volume.
"""

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from kvfs import _native, paths
from kvfs.errors import (
    ForeignData,
    NoSpace,
    NotAVolume,
    UsageError,
    VolumeCorrupt,
    VolumeError,
    VolumeInUse,
    VolumeReadOnly,
    VolumeTooNew,
    VolumeTooSmall,
    from_oserror,
)
from kvfs.store import format as kvfs1
from kvfs.store import ownership
from kvfs.store.hosts import this_host
from kvfs.store.signatures import Content, describe_kernel_use, probe, read_newest
from kvfs.units import format_size

_MIB = 1 << 20
_BLKDISCARD = 0x1277  # <linux/fs.h>
_DISCARD_STEP = 4 << 30  # a request for a whole drive could not be interrupted
_LOCK_PATIENCE = 2.0  # s

StrPath = str | os.PathLike[str]


class SuperblockCopy(msgspec.Struct, frozen=True, kw_only=True):
    """``problem``: expected and found, None when the copy is valid."""

    copy: Literal["A", "B", "end"]
    offset: int
    valid: bool
    problem: str | None


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes. ``owner``: who holds the volume, or held it last, as the mount wrote it; empty before the first.

    ``claimed``: the host that has taken the volume over and not mounted it yet, and since when.

    ``clean`` false: mounted now, or not closed in order; the next mount recovers.
    """

    path: str
    kind: Literal["file", "device"]
    device_size: int
    size: int
    segment_size: int
    segments: int
    format_version: int
    uuid: str
    label: str
    created_ns: int
    epoch: int
    clean: bool
    owner: dict[str, Any]
    claimed: str | None
    superblocks: tuple[SuperblockCopy, ...]


class FsckProblem(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    where: str
    detail: str


class FsckReport(msgspec.Struct, frozen=True, kw_only=True):
    """``clean``: no problem found. ``closed_in_order``: there was nothing to recover. ``problems`` may stop short of
    ``problem_count``. ``segments_used`` hold data, log or checkpoint.
    """

    path: str
    files: int
    directories: int
    bytes: int
    extents: int
    segments: int
    segments_used: int
    log_frames: int
    clean: bool
    closed_in_order: bool
    problems: tuple[FsckProblem, ...]
    problem_count: int


class RepairReport(msgspec.Struct, frozen=True, kw_only=True):
    """``done``: one line for each thing, in order. ``after``: ``before`` when there was nothing to do; its data was not
    read again."""

    path: str
    before: FsckReport
    done: tuple[str, ...]
    files_dropped: int
    after: FsckReport


def default_path() -> Path:
    """The embedded store that is mounted when none is named."""
    return paths.default_store()


def default_size(directory: StrPath) -> int:
    """Half of what is free where ``directory`` is or will be, in whole MiB.

    Half, because the store is sparse and believes in all of its space: whatever else grows on the host file system
    must not take what the store counts on, nor the store everything that the host has. NoSpace when that is less
    than the smallest volume.
    """
    there = Path(directory).absolute()
    while not there.exists():
        there = there.parent
    size = _free_bytes(there) // 2 // _MIB * _MIB
    if size < kvfs1.MIN_VOLUME:
        raise NoSpace(
            f"{directory}: expected room for a store of {_exact(kvfs1.MIN_VOLUME)} in half of what is free, "
            f"found {format_size(_free_bytes(there))} free",
            "free some, or name a store elsewhere",
        )
    return size


def create(
    path: StrPath, size: int | None = None, *, segment_size: int = 0, label: str = "", force: str | None = None
) -> VolumeInfo:
    """Format the regular file (made when absent, sparse) or block device at ``path``.

    ``size`` in bytes is needed for a file that is absent or empty; left out, a device or file is used whole. What
    holds anything is refused (ForeignData) unless ``force`` names ``path`` again. Raises UsageError, ForeignData,
    VolumeInUse, VolumeReadOnly, VolumeTooSmall, NoSpace, VolumeError.
    """
    path = os.fspath(path)
    _check_arguments(path, segment_size, label, force)
    with _as_volume_error(path):
        status = _stat(path)
        if status is None:
            return _create_file(path, size, segment_size, label)
        if stat.S_ISBLK(status.st_mode):
            return _format_device(path, size, segment_size, label, force)
        return _format_file(path, status, size, segment_size, label, force)


def check_create(
    path: StrPath, size: int | None = None, *, segment_size: int = 0, label: str = "", force: str | None = None
) -> None:
    """Raise what :func:`create` with these arguments would, as far as that can be known without changing anything."""
    path = os.fspath(path)
    _check_arguments(path, segment_size, label, force)
    with _as_volume_error(path):
        status = _stat(path)
        if status is None:
            _size_of_new_file(path, size, segment_size)
            parent = Path(path).absolute().parent
            if not os.access(parent, os.W_OK | os.X_OK):
                read_only = os.statvfs(parent).f_flag & os.ST_RDONLY
                code = errno.EROFS if read_only else errno.EACCES
                raise OSError(code, os.strerror(code))
        elif stat.S_ISBLK(status.st_mode):
            with _claimed(path, device=True) as fd:
                _size_on_device(path, fd, size, segment_size)
                _is_empty(path, force)
        else:
            _size_of_file(path, status, size, segment_size)
            with _claimed(path, device=False):
                if not _is_empty(path, force):
                    _native.inspect(path)


def unmake_file(path: StrPath, old_size: int | None) -> None:
    """Undo :func:`create` of a regular file that was absent (``old_size`` None) or held nothing but zeros."""
    if old_size is None:
        Path(path).unlink()
        return
    os.truncate(path, 0)
    os.truncate(path, old_size)


def open_or_create(path: StrPath, size: int | None = None) -> VolumeInfo:
    """The volume that ``kvfs mount`` is to mount, made when ``path`` is an absent, empty or all-zero file.

    A block device is never formatted by mounting it. ``size`` None: :func:`default_size` for a new file; otherwise a
    volume that exists has to have it (VolumeError). Raises what :func:`create` and :func:`info` raise.
    """
    path = os.fspath(path)
    with _as_volume_error(path):
        status = _stat(path)
        if status is None:
            with _parent_made(Path(path), wanted=Path(path) == default_path()):
                return create(path, default_size(Path(path).parent) if size is None else size)
        if stat.S_ISREG(status.st_mode) and probe(path).content is Content.EMPTY:
            new_size = status.st_size if status.st_size > 0 else default_size(Path(path).parent)
            return create(path, new_size if size is None else size)
    found = info(path)
    if size is not None and size // kvfs1.BLOCK != found.size // kvfs1.BLOCK:
        raise VolumeError(
            f"{path}: expected a volume of {_exact(size)}, found one of {_exact(found.size)}",
            "leave the size out, or format another store",
        )
    return found


def info(path: StrPath) -> VolumeInfo:
    """What the superblocks say, without taking the volume: it may be mounted.

    Raises NotAVolume, VolumeCorrupt (which superblock, expected and found), VolumeTooNew, VolumeError.
    """
    path = os.fspath(path)
    with _as_volume_error(path):
        status = _stat(path)
        if status is None:
            raise VolumeError(f"{path}: no such file or device", "check the path")
        kind = _kind(path, status)
        found = _native.inspect(path)
        copies = found["copies"]
        if found["problem"] is not None:
            raise _unusable(path, found)
    best = copies[found["best"]]["superblock"]
    return VolumeInfo(
        path=path,
        kind=kind,
        device_size=found["device_size"],
        size=best["size"],
        segment_size=best["segment_size"],
        segments=best["segments"],
        format_version=best["version"],
        uuid=best["uuid"],
        label=best["label"],
        created_ns=best["created_ns"],
        epoch=best["epoch"],
        clean=best["clean"],
        owner=_owner(best["owner"]),
        claimed=_claim(best["epoch"], found["claim"]),
        superblocks=tuple(
            SuperblockCopy(copy=c["copy"], offset=c["offset"], valid=c["valid"], problem=c["problem"]) for c in copies
        ),
    )


def _claim(epoch: int, claim: dict[str, Any] | None) -> str | None:
    if claim is None or claim["epoch"] <= epoch:
        return None
    return f"by host {claim['host_name']} at {datetime.fromtimestamp(claim['written_ns'] // 10**9, UTC).isoformat()}"


def fsck(path: StrPath, progress: Callable[[int, int], None] | None = None, verify_data: bool = True) -> FsckReport:
    """Check a volume that is not mounted, without writing to it. ``progress(done_bytes, total_bytes)``.

    Problems are reported, not raised, as long as the volume can be opened; then as :func:`info`, and VolumeInUse.
    """
    path = os.fspath(path)
    info(path)
    with _as_volume_error(path):
        return _fsck_report(path, _native.check(path, verify_data, progress))


def repair(path: StrPath, progress: Callable[[int, int], None] | None = None, verify_data: bool = True) -> RepairReport:
    """fsck, and where that finds anything, keep what can be trusted of a volume that is not mounted, and drop the rest.

    Killed at any point it leaves the volume no worse, and may be run again. Raises what :func:`fsck` does, and NoSpace.
    """
    path = os.fspath(path)
    info(path)
    host = this_host()
    hold = ownership.Hold(path, host, keeps_lock=False)
    is_done = False
    try:
        with _as_volume_error(path):
            found = _native.repair(path, verify_data, progress, host=host.id, host_name=host.name, on_locked=hold.take)
        is_done = True
    finally:
        hold.end(in_order=is_done or hold.was_free)
    return RepairReport(
        path=path,
        before=_fsck_report(path, found["before"]),
        done=tuple(found["done"]),
        files_dropped=found["files_dropped"],
        after=_fsck_report(path, found["after"]),
    )


def _fsck_report(path: str, found: dict[str, Any]) -> FsckReport:
    found |= {"path": path, "closed_in_order": found["clean"], "clean": found["problem_count"] == 0}
    return msgspec.convert(found, FsckReport)


# --- create, case by case -------------------------------------------------------------------------------------------


def _check_arguments(path: str, segment_size: int, label: str, force: str | None) -> None:
    if force is not None and os.path.normpath(force) != os.path.normpath(path):
        raise UsageError(f"expected --force to name {path} again, found {force!r}", f"use --force {path} to destroy it")
    if len(label.encode()) > kvfs1.LABEL_MAX or not label.isprintable():
        raise UsageError(
            f"expected a label of at most {kvfs1.LABEL_MAX} bytes of printable text, found {label!r}",
            "choose a shorter, plain one",
        )
    if segment_size and (
        segment_size & (segment_size - 1) or not kvfs1.MIN_SEGMENT <= segment_size <= kvfs1.MAX_SEGMENT
    ):
        raise UsageError(
            f"expected a segment size that is a power of two from 1 MiB to 256 MiB, found {_exact(segment_size)}",
            "choose another, or leave it out",
        )


def _size_of_new_file(path: str, size: int | None, segment_size: int) -> int:
    if size is None:
        raise UsageError(f"{path}: no such file or device, and no size to create a file with", "give --size, as in 64G")
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise VolumeError(f"{path}: expected a directory at {parent}, found none", "create it, or check the path")
    if parent.is_relative_to("/dev") and not parent.is_relative_to("/dev/shm"):
        # a mistyped device name would otherwise become a file in memory
        raise VolumeError(f"{path}: no such device", "check the name with lsblk")
    size = _check_size(path, size, segment_size)
    _check_free(path, size, _free_bytes(parent))
    return size


def _create_file(path: str, size: int | None, segment_size: int, label: str) -> VolumeInfo:
    size = _size_of_new_file(path, size, segment_size)
    parent = Path(path).absolute().parent
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
        _native.format_store(path, size, segment_size, label, b"", this_host().id)
        _sync_directory(parent)  # a store whose name is lost in a power cut is lost
        return info(path)
    except BaseException:
        Path(path).unlink()
        raise


def _size_of_file(path: str, status: os.stat_result, size: int | None, segment_size: int) -> int:
    _kind(path, status)
    old_size = status.st_size
    if size is None and old_size == 0:
        raise UsageError(f"{path}: an empty file, and no size to format it with", "give --size, as in 64G")
    new_size = _check_size(path, old_size if size is None else size, segment_size)
    _check_free(path, new_size, _free_bytes(Path(path)) + status.st_blocks * 512)
    return new_size


def _format_file(
    path: str, status: os.stat_result, size: int | None, segment_size: int, label: str, force: str | None
) -> VolumeInfo:
    new_size = _size_of_file(path, status, size, segment_size)
    old_size = status.st_size
    with _claimed(path, device=False) as fd:
        if not _is_empty(path, force):
            _native.inspect(path)  # what the native side cannot open, for want of O_DIRECT, is not destroyed for it
            os.ftruncate(fd, 0)
        os.ftruncate(fd, max(old_size, new_size))
    try:
        _native.format_store(path, new_size, segment_size, label, b"", this_host().id)
    except BaseException:
        os.truncate(path, old_size)
        raise
    os.truncate(path, new_size)
    return info(path)


def _size_on_device(path: str, fd: int, size: int | None, segment_size: int) -> int:
    device_size = os.lseek(fd, 0, os.SEEK_END)
    if size is not None and size > device_size:
        raise VolumeError(
            f"{path}: expected a device of at least {_exact(size)}, found {_exact(device_size)}",
            "choose a smaller --size, or leave it out to use all of it",
        )
    return _check_size(path, device_size if size is None else size, segment_size)


def _format_device(path: str, size: int | None, segment_size: int, label: str, force: str | None) -> VolumeInfo:
    with _claimed(path, device=True) as fd:
        new_size = _size_on_device(path, fd, size, segment_size)
        if not _is_empty(path, force):
            _wipe(fd, os.lseek(fd, 0, os.SEEK_END))
    _native.format_store(path, new_size, segment_size, label, b"", this_host().id)
    return info(path)


def _is_empty(path: str, force: str | None) -> bool:
    """ForeignData when it is not, and ``force`` does not say that it may go."""
    found = probe(path)
    if found.content is not Content.EMPTY and force is None:
        raise ForeignData(f"{path}: expected nothing on it, found {found.description}", f"--force {path} destroys that")
    if found.content is Content.KVFS:
        try:
            owner = ownership.read(path)
        except VolumeError:  # what no mount takes nobody has mounted
            return False
        ownership.refuse_other(owner, this_host())  # perhaps mounted there at this moment
    return found.content is Content.EMPTY


def _wipe(fd: int, size: int) -> None:
    """Leave no signature that a later probe could take for live: formatting alone writes few blocks.

    The device is told to forget the rest: on a drive with transparent compression space comes back no other way.
    """
    for start in range(0, size, _DISCARD_STEP):
        try:
            fcntl.ioctl(fd, _BLKDISCARD, struct.pack("=QQ", start, min(_DISCARD_STEP, size - start)))
        except OSError:  # advice, which many devices do not take
            break
    zeros = bytes(_MIB)
    os.pwrite(fd, zeros, 0)
    os.pwrite(fd, zeros, size - _MIB)
    os.fsync(fd)


@contextmanager
def _claimed(path: str, *, device: bool) -> Iterator[int]:
    """A writable descriptor, with the kernel's claim on a device and the lock that every kvfs process takes.

    VolumeInUse, VolumeReadOnly, OSError.
    """
    if device and _is_read_only_device(path):  # opening it for writing succeeds on some kernels all the same
        raise VolumeReadOnly(
            f"{path}: expected a writable device, found it read-only", f"`blockdev --setrw {path}` may change that"
        )
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if device else 0))
    except OSError as exc:
        if device and exc.errno == errno.EBUSY:
            raise _in_use(path, describe_kernel_use(path)) from exc
        raise
    try:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                # for instants the lock is also held by udev, shared, while it probes a device, and by the kernel,
                # while it takes down the rings of a daemon that was killed
                if time.monotonic() > deadline:
                    raise _in_use(path, None) from exc
                time.sleep(0.05)
        yield fd
    finally:
        os.close(fd)


def _in_use(path: str, how: str | None) -> VolumeInUse:
    if how is None:
        superblock = read_newest(path)
        owner = _owner(superblock.owner) if superblock else {}
        how = f"held by {', '.join(f'{key} {value}' for key, value in owner.items()) or 'another process'}"
    return VolumeInUse(f"{path}: expected a store that nobody uses, found it {how}", "unmount it first")


def _check_size(path: str, size: int, segment_size: int) -> int:
    """``size`` in whole blocks. VolumeTooSmall when it has no room for the superblocks and the least segments."""
    least = kvfs1.FIRST_SEGMENT + kvfs1.MIN_SEGMENTS * (segment_size or kvfs1.MIN_SEGMENT) + kvfs1.BLOCK
    if size < least:
        raise VolumeTooSmall(
            f"{path}: expected a store of at least {_exact(least)}, found {_exact(size)}",
            "choose a larger one" + (", or smaller segments" if segment_size else ""),
        )
    return size // kvfs1.BLOCK * kvfs1.BLOCK


def _check_free(path: str, size: int, free: int) -> None:
    if size > free:
        raise NoSpace(
            f"{path}: expected {_exact(size)} free on its file system, found {_exact(free)}",
            "free some, or choose a smaller --size",
        )


# --- helpers ----------------------------------------------------------------------------------------------------------


def _unusable(path: str, found: dict[str, Any]) -> VolumeError:
    """Why none of the superblock copies can be used, or the best one cannot."""
    problem = found["problem"]
    match found["error"]:
        case errno.EMEDIUMTYPE:
            return NotAVolume(
                f"{path}: expected a kvfs volume, found {probe(path).description}", f"`kvfsctl format {path}` makes one"
            )
        case errno.EPROTONOSUPPORT:
            return VolumeTooNew(problem)
        case _:
            return VolumeCorrupt(problem, "restore it from a copy, or format it anew")


def _owner(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return {"text": text}


@contextmanager
def _as_volume_error(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise from_oserror(exc, path) from exc


@contextmanager
def _parent_made(path: Path, *, wanted: bool) -> Iterator[None]:
    """With ``wanted``, the missing directories above ``path``; gone again when what follows fails."""
    missing = [parent for parent in path.parents if wanted and not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o755)
    try:
        yield
    except BaseException:
        for parent in missing:
            parent.rmdir()
        raise


def _stat(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except FileNotFoundError:
        if Path(path).is_symlink():
            raise VolumeError(f"{path}: a symbolic link to nothing", "check where it points") from None
        return None


def _kind(path: str, status: os.stat_result) -> Literal["file", "device"]:
    if stat.S_ISREG(status.st_mode):
        return "file"
    if stat.S_ISBLK(status.st_mode):
        return "device"
    hint = "name a file in it" if stat.S_ISDIR(status.st_mode) else "name a file or a block device such as /dev/nvme0n1"
    found = _TYPE_NAMES[stat.S_IFMT(status.st_mode)]
    raise VolumeError(f"{path}: expected a regular file or a block device, found {found}", hint)


_TYPE_NAMES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def _is_read_only_device(path: str) -> bool:
    device = Path(path).stat().st_rdev
    return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/ro").read_text().strip() == "1"


def _free_bytes(path: Path) -> int:
    """What an ordinary user may still write: the file system keeps its reserve for root."""
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exact(count: int) -> str:
    """For messages that compare two sizes, which may differ by a block only."""
    return f"{count} bytes ({format_size(count)})"
