"""A FUSE connection whose daemon is the test: enough of it for pages to be registered for passthrough."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_INIT = 26
_PASSTHROUGH = 1 << 37
_INIT_EXT = 1 << 30
_MNT_DETACH = 2


@contextmanager
def fuse_connection(mountpoint: Path) -> Iterator[int]:
    """Root only. The descriptor of a connection that negotiated passthrough; nobody answers its requests."""
    mountpoint.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        if _libc.mount(b"kvfs-test", os.fsencode(mountpoint), b"fuse", 0, options) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(mountpoint))
        try:
            _answer_init(fd)
            yield fd
        finally:
            _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH)
    finally:
        os.close(fd)


def _answer_init(fd: int) -> None:
    request = os.read(fd, 1 << 17)
    _, opcode, unique = struct.unpack_from("=IIQ", request)
    major, minor, readahead, flags, flags2 = struct.unpack_from("=IIIII", request, 40)
    assert (opcode, major) == (_INIT, 7)
    assert (flags | flags2 << 32) & _PASSTHROUGH, "this kernel has no FUSE passthrough"
    wanted = _INIT_EXT | _PASSTHROUGH
    # fuse_init_out: ..., flags, max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment,
    # flags2, max_stack_depth, then what newer kernels added
    body = struct.pack(
        "=IIIIHHIIHHII24x", major, minor, readahead, wanted & 0xFFFFFFFF, 16, 12, 1 << 20, 1, 256, 0, wanted >> 32, 1
    )
    os.write(fd, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)
