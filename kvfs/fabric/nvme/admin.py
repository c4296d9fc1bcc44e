"""Admin commands by pass-through, where no tool is to be needed or none prints what is wanted as JSON.

Linux: ``NVME_IOCTL_ADMIN_CMD`` and ``NVME_IOCTL_ID`` of ``<linux/nvme_ioctl.h>``. Structures are those of the NVM
Express Base Specification 2.0. A command that is not answered ends with the kernel's own limit (60 s,
``nvme_core.admin_timeout``), which resets the controller: a shorter one would reset a drive that is only slow.
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_ADMIN_CMD = 0xC0484E41  # _IOWR('N', 0x41, struct nvme_admin_cmd), 72 bytes
_ADMIN = struct.Struct("<BBHI8xQQII6III")  # opcode flags rsvd nsid; metadata addr metadata_len data_len; cdw10-15 ...
_ID = 0x40 | 0x4E << 8  # NVME_IOCTL_ID, _IO('N', 0x40): the namespace's number

GET_LOG_PAGE, IDENTIFY = 0x02, 0x06
_CNS_CONTROLLER, _CNS_ACTIVE_NAMESPACES = 0x01, 0x02
PAGE = 4096  # bytes of what Identify returns

# (opcode, namespace, cdw10, cdw11, bytes to come back) -> data; raises OSError
AdminCommand = Callable[[int, int, int, int, int], bytes]


class Sender(Protocol):
    """An ``AdminCommand`` that takes dwords 12 and 13 as well."""

    def __call__(
        self, opcode: int, namespace: int, cdw10: int, cdw11: int, size: int, cdw12: int = 0, cdw13: int = 0
    ) -> bytes: ...


def admin_command(fd: int) -> Sender:
    """Sends read-only admin commands to the device behind ``fd``. OSError EIO with the NVMe status when it refuses."""

    def send(opcode: int, namespace: int, cdw10: int, cdw11: int, size: int, cdw12: int = 0, cdw13: int = 0) -> bytes:
        data = ctypes.create_string_buffer(size)
        dwords = (cdw10, cdw11, cdw12, cdw13, 0, 0)
        command = bytearray(_ADMIN.pack(opcode, 0, 0, namespace, 0, ctypes.addressof(data), 0, size, *dwords, 0, 0))
        status = fcntl.ioctl(fd, _ADMIN_CMD, command)
        if status != 0:
            raise OSError(5, f"admin command {opcode:#04x}: NVMe status {status:#05x}")
        return data.raw

    return send


def get_log_page(send: AdminCommand, page: int, size: int, namespace: int = 0xFFFFFFFF) -> bytes:
    dwords = size // 4 - 1
    return send(GET_LOG_PAGE, namespace, page | (dwords & 0xFFFF) << 16, dwords >> 16, size)


def read_log(send: Sender, page: int, offset: int, size: int) -> bytes:
    """``size`` bytes, a multiple of 4, of a log page from ``offset`` on, in pieces that any controller can transfer."""
    pieces = []
    for at in range(offset, offset + size, PAGE):
        length = min(PAGE, offset + size - at)
        pieces.append(send(GET_LOG_PAGE, 0, page | (length // 4 - 1) << 16, 0, length, at & 0xFFFFFFFF, at >> 32))
    return b"".join(pieces)


def active_namespaces(send: AdminCommand) -> list[int]:
    """The numbers of a controller's first 1,024 active namespaces, ascending (Identify, CNS 02h)."""
    numbers = struct.unpack("<1024I", send(IDENTIFY, 0, _CNS_ACTIVE_NAMESPACES, 0, PAGE))
    return [number for number in numbers if number]


def open_namespace(device: Path) -> tuple[int, Sender, int] | None:
    """A descriptor (the caller's), a way to send admin commands by it, and the namespace's number."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        namespace = fcntl.ioctl(fd, _ID)
    except OSError:  # ENOTTY: no NVMe
        os.close(fd)
        return None
    return fd, admin_command(fd), namespace


def vendor_of(send: AdminCommand) -> int:
    """The PCI vendor of the controller."""
    return int.from_bytes(send(IDENTIFY, 0, _CNS_CONTROLLER, 0, PAGE)[:2], "little")
