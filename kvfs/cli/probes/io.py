"""Probes of asynchronous and direct I/O, tried out on the file system that holds the default store."""

import ctypes
import errno
import mmap
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvfs import paths
from kvfs.cli.probes.finding import Finding, State
from kvfs.cli.probes.system import CAP_IPC_LOCK, has_capability, read
from kvfs.units import format_size

_libc = ctypes.CDLL(None, use_errno=True)

# <linux/io_uring.h>; the same system call numbers on every architecture
_IO_URING_SETUP = 425
_IO_URING_REGISTER = 427
_REGISTER_BUFFERS = 0
_UNREGISTER_BUFFERS = 1
_PARAMS_SIZE = 120

_STATX_DIOALIGN = 0x2000
_DIOALIGN_OFFSET = 152  # of stx_dio_mem_align and stx_dio_offset_align in struct statx
_AT_EMPTY_PATH = 0x1000
_PUNCH_HOLE = 0x02 | 0x01  # with FALLOC_FL_KEEP_SIZE

_POOL = 64 << 20  # bytes of registered buffers that the probe asks for


def io_uring() -> Finding:
    purpose = "every read and write of the store"
    name = "io_uring"
    with _ring() as (ring, error):
        if not error:
            os.fstat(ring)
            return Finding(name, State.OK, "a ring can be set up", purpose, required=True)
    disabled = read("/proc/sys/kernel/io_uring_disabled")
    if error == errno.ENOSYS:
        found, remedy = "the kernel has none, or a seccomp filter hides it", "boot kernel 5.15 or later"
    elif error == errno.EPERM and disabled not in (None, "0"):
        found, remedy = f"switched off: kernel.io_uring_disabled is {disabled}", "sysctl kernel.io_uring_disabled=0"
    elif error == errno.EPERM:
        found = "forbidden, most likely by the container's seccomp profile"
        remedy = "allow io_uring_setup, io_uring_enter and io_uring_register in that profile"
    else:
        found, remedy = os.strerror(error), "see `man io_uring_setup` for this error"
    return Finding(name, State.MISSING, f"io_uring: {found}", purpose, remedy, required=True)


def registered_buffers() -> Finding:
    purpose = "I/O without mapping the buffers anew for each request"
    name = "registered buffers"
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    shown = "unlimited" if limit == resource.RLIM_INFINITY else format_size(limit)
    if has_capability(CAP_IPC_LOCK):
        shown += ", lifted by CAP_IPC_LOCK"
    with _ring() as (ring, error):
        if error:
            return Finding(name, State.UNKNOWN, "no io_uring to try them on", purpose)
        with mmap.mmap(-1, _POOL) as pool:
            # the address is taken through a view that has to be gone before the map can be closed
            view = ctypes.c_char.from_buffer(pool)
            vector = struct.pack("PN", ctypes.addressof(view), _POOL)
            del view
            if _libc.syscall(_IO_URING_REGISTER, ring, _REGISTER_BUFFERS, vector, 1) == 0:
                _libc.syscall(_IO_URING_REGISTER, ring, _UNREGISTER_BUFFERS, None, 0)
                return Finding(name, State.OK, f"{format_size(_POOL)} registered (RLIMIT_MEMLOCK {shown})", purpose)
            code = ctypes.get_errno()
    return Finding(
        name,
        State.LIMITED,
        f"{format_size(_POOL)}: {os.strerror(code)} (RLIMIT_MEMLOCK {shown})",
        purpose,
        "raise it: ulimit -l, memlock in /etc/security/limits.conf, or LimitMEMLOCK= in the unit",
    )


def direct_io() -> Finding:
    purpose = "the store bypasses the host's page cache"
    name = "O_DIRECT"
    directory = _store_directory()
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return Finding(
            name,
            State.UNKNOWN if error.errno in (errno.EACCES, errno.EROFS) else State.MISSING,
            f"{directory}: {error.strerror}",
            purpose,
            "put the store on a local file system such as ext4 or XFS, or on a block device",
        )
    try:
        alignment = _direct_io_alignment(file)
    finally:
        os.close(file)
    if alignment is None:
        return Finding(name, State.OK, f"{directory}: opens; the kernel (before 6.1) tells no alignment", purpose)
    memory, offset = alignment
    found = f"{directory}: alignment {memory} B in memory, {offset} B in the file"
    if offset == 0:
        return Finding(name, State.MISSING, f"{directory}: not supported", purpose, "put the store on ext4 or XFS")
    if offset > 4096 or memory > 4096:
        return Finding(name, State.MISSING, found, purpose, "the store's blocks have 4096 B: use another device")
    return Finding(name, State.OK, found, purpose)


def hole_punching() -> Finding:
    purpose = "space of dropped pages goes back to the file system"
    name = "hole punching"
    directory = _store_directory()
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return Finding(name, State.UNKNOWN, f"{directory}: {error.strerror}", purpose)
    try:
        os.ftruncate(file, 8192)
        done = _libc.fallocate(file, _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(4096)) == 0
        code = ctypes.get_errno()
    finally:
        os.close(file)
    if done:
        return Finding(name, State.OK, f"{directory}: works", purpose)
    remedy = "put the store on ext4, XFS, btrfs or tmpfs"
    return Finding(name, State.MISSING, f"{directory}: {os.strerror(code)}", purpose, remedy)


def _store_directory() -> Path:
    """Where the default store lies or would lie: the nearest directory that exists."""
    directory = paths.data_directory()
    while not directory.is_dir():
        directory = directory.parent
    return directory


@contextmanager
def _ring() -> Iterator[tuple[int, int]]:
    """A small ring as (descriptor, 0), or (-1, errno)."""
    parameters = ctypes.create_string_buffer(_PARAMS_SIZE)
    ring = _libc.syscall(_IO_URING_SETUP, 4, parameters)
    if ring < 0:
        yield -1, ctypes.get_errno()
        return
    try:
        yield ring, 0
    finally:
        os.close(ring)


def _direct_io_alignment(file: int) -> tuple[int, int] | None:
    """``(memory, file offset)`` alignment in bytes; zeros: no direct I/O; ``None``: the kernel does not tell."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statx(file, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, buffer) != 0:
        return None
    (mask,) = struct.unpack_from("I", buffer.raw)
    if not mask & _STATX_DIOALIGN:
        return None
    memory, offset = struct.unpack_from("II", buffer.raw, _DIOALIGN_OFFSET)
    return memory, offset


PROBES = (io_uring, registered_buffers, direct_io, hole_punching)
