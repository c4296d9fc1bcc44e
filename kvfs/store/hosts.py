"""Which host this is, as the owner record of a volume names it.

A volume belongs to a host, not to a process: the kernel's locks keep the processes of one host apart, and whoever of
them comes next after a crash may go on at once. What counts as one host is therefore what shares those locks, which
is a running kernel; and after a reboot it is still the same machine. So two names are kept: the machine's, which
lasts, and the running kernel's, which containers with machine ids of their own have in common.

Virtual machines are copied with their machine ids. Who finds an owner of its own id that ran on another kernel, which
may be itself before it was booted anew, watches first whether that one is alive (``ownership.Hold``).
"""

import hashlib
import os
import socket
from pathlib import Path
from uuid import UUID

import msgspec

from kvfs.errors import UsageError

VARIABLE = "KVFS_HOST_ID"
_MACHINE_ID = Path("/etc/machine-id")  # machine-id(5): 32 hexadecimal digits
_PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Host(msgspec.Struct, frozen=True):
    """``id``: 16 bytes. ``boot_id``: of the running kernel, empty where a host was named by hand, as several may then
    run on one kernel."""

    id: bytes
    name: str
    boot_id: str

    @property
    def key(self) -> int:
        """Of its reservations (``kvfs.fabric.reservations``): 64 bits, the same for every mount of the host, not 0."""
        return int.from_bytes(hashlib.blake2b(self.id, digest_size=8, person=b"kvfs key").digest(), "big") or 1


def this_host() -> Host:
    """By ``KVFS_HOST_ID`` when it is set (a UUID, or any text), else machine-id(5), the firmware's UUID, the boot id.

    UsageError when ``KVFS_HOST_ID`` is empty.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        if not named.strip():
            raise UsageError(f"expected a name in {VARIABLE}, found none", f"unset {VARIABLE}, or name this host")
        return Host(_to_id(named), named[:63], "")
    boot_id = _read(_BOOT_ID)
    for file in (_MACHINE_ID, _PRODUCT_UUID):
        if text := _read(file):
            return Host(_to_id(text), socket.gethostname()[:63], boot_id)
    return Host(_to_id(boot_id or socket.gethostname()), socket.gethostname()[:63], boot_id)


def _to_id(text: str) -> bytes:
    try:
        return UUID(text).bytes
    except ValueError:
        return hashlib.blake2b(text.encode(), digest_size=16, person=b"kvfs host").digest()


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):  # absent in containers, root's alone, or "uninitialized" bytes
        return ""
