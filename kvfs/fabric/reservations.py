"""Persistent reservations of a block device: the target itself refuses the writes of other hosts.

A registrant is a host with a key of 64 bits; one of them reserves the namespace, and a host is fenced by preempting
its key. To NVMe namespaces the commands go as they are (Base Specification 2.0, sections 7.5 to 7.8 and 8.19), by
``NVME_IOCTL_IO_CMD``, which the head of a multipath device takes too. Linux has calls for NVMe and SCSI alike,
``<linux/pr.h>``, and they serve everything else; for NVMe they will not do, as they cannot unregister a host (Linux
6.18 sends a replacement by key 0, after which the host is registered, and may write) nor, before Linux 7.0, say who
is registered.

The type is Write Exclusive - Registrants Only:

* Readers are never shut out: any host may mount read-only.
* All paths of a registered host may write. In NVMe that holds for every type, as a registrant is a host and not a
  path; SCSI's plain Write Exclusive would leave a multipath host with one path.
* A second host that reserves gets a conflict, so the target itself says who came first. Not so with Write Exclusive -
  All Registrants: there whoever registers holds the reservation, too, and nothing keeps two hosts apart but an
  agreement made elsewhere. With several writer hosts that agreement exists (host leases), and All Registrants is the
  type then: the reservation does not end with the one host that made it. It is the same calls with another number.

What is left when a host dies: its registration and the reservation, as long as the target's power lasts (with
persist-through-power-loss, longer). The same host registers again over its own; another has to preempt.
"""

import ctypes
import errno
import fcntl
import os
import struct

import msgspec

from kvfs.errors import FabricError

WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3  # PR_WRITE_EXCLUSIVE_REG_ONLY

_IGNORE_KEY = 1  # PR_FL_IGNORE_KEY
_PR_REGISTER, _PR_RESERVE, _PR_RELEASE, _PR_PREEMPT_ABORT = 0x401870C8, 0x401070C9, 0x401070CA, 0x401870CC
_PR_REGISTRATION = struct.Struct("=QQII")  # old_key new_key flags pad
_PR_RESERVATION = struct.Struct("=QII")  # key type flags
_PR_PREEMPTION = struct.Struct("=QQII")  # old_key new_key type flags
_PR_CONFLICT = 0x18  # PR_STS_RESERVATION_CONFLICT
_NO_RESERVATIONS = {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

# <linux/nvme_ioctl.h>
_NVME_ID, _NVME_ADMIN, _NVME_IO = 0x4E40, 0xC0484E41, 0xC0484E43
_COMMAND = struct.Struct("<BBHI8xQQII6III")  # opcode flags rsvd nsid; metadata addr metadata_len len; cdw10-15 ...
_KEYS = struct.Struct("<QQ")  # of a command's data: CRKEY, then NRKEY or PRKEY
_IDENTIFY, _REGISTER, _REPORT, _ACQUIRE, _RELEASE = 0x06, 0x0D, 0x0E, 0x11, 0x15
_ADD, _REMOVE, _REPLACE = 0, 1, 2  # RREGA
_RESERVE, _PREEMPT_AND_ABORT = 0, 2  # RACQA
_IEKEY = 1 << 3
_RTYPE = WRITE_EXCLUSIVE_REGISTRANTS_ONLY << 8
_EXTENDED = 1  # of a report: host identifiers of 128 bits
_PAGE = 4096
_RESCAP, _RESCAP_REGISTRANTS_ONLY = 31, 1 << 3  # byte of Identify Namespace
_STATUS, _CONFLICT = 0x7FF, 0x83  # status code and type; Reservation Conflict


class ReservationConflict(FabricError):
    """The reservation is another host's."""


class Registrant(msgspec.Struct, frozen=True):
    """``host_id``: of NVMe, hexadecimal."""

    key: int
    host_id: str
    holds: bool


class Report(msgspec.Struct, frozen=True):
    """``kind``: 0 when nobody holds the reservation."""

    generation: int
    kind: int
    registrants: tuple[Registrant, ...]

    @property
    def holder(self) -> Registrant | None:
        return next((each for each in self.registrants if each.holds), None)


class Reservations:
    """Of the device behind ``fd``, which stays the caller's and is open for writing. The calls block.

    ReservationConflict and OSError; ``name`` is for messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        try:
            self._nsid = fcntl.ioctl(fd, _NVME_ID)
        except OSError:  # ENOTTY: no NVMe
            self._nsid = 0

    def are_supported(self) -> bool:
        """Asked of the namespace (RESCAP) where it is NVMe; else by taking this host's registration away."""
        if self._nsid:
            try:
                data = self._nvme(_NVME_ADMIN, _IDENTIFY, bytes(_PAGE))
            except OSError:  # a controller that refuses the command
                return False
            return bool(data[_RESCAP] & _RESCAP_REGISTRANTS_ONLY)
        try:
            self._pr(_PR_REGISTER, _PR_REGISTRATION.pack(0, 0, _IGNORE_KEY, 0))
        except ReservationConflict:
            return True
        except OSError as error:
            if error.errno in _NO_RESERVATIONS:
                return False
            raise
        return True

    def register(self, key: int) -> None:
        """In place of whatever this host had registered."""
        if not self._nsid:
            return self._pr(_PR_REGISTER, _PR_REGISTRATION.pack(0, key, _IGNORE_KEY, 0))
        try:
            self._nvme(_NVME_IO, _REGISTER, _KEYS.pack(0, key), _ADD)
        except ReservationConflict:  # registered with another key
            self._nvme(_NVME_IO, _REGISTER, _KEYS.pack(0, key), _REPLACE | _IEKEY)

    def unregister(self, key: int) -> None:
        """A reservation that this host holds ends with it."""
        if not self._nsid:
            return self._pr(_PR_REGISTER, _PR_REGISTRATION.pack(key, 0, 0, 0))
        self._nvme(_NVME_IO, _REGISTER, _KEYS.pack(key, 0), _REMOVE)

    def reserve(self, key: int) -> None:
        if not self._nsid:
            return self._pr(_PR_RESERVE, _PR_RESERVATION.pack(key, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0))
        self._nvme(_NVME_IO, _ACQUIRE, _KEYS.pack(key, 0), _RESERVE | _RTYPE)

    def release(self, key: int) -> None:
        if not self._nsid:
            return self._pr(_PR_RELEASE, _PR_RESERVATION.pack(key, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0))
        self._nvme(_NVME_IO, _RELEASE, _KEYS.pack(key, 0), _RTYPE)

    def preempt(self, victim: int, key: int) -> None:
        """Hosts with key ``victim`` are registered no more, what they sent is aborted or over, and what one of them had
        reserved is ours."""
        if not self._nsid:
            return self._pr(_PR_PREEMPT_ABORT, _PR_PREEMPTION.pack(victim, key, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0))
        self._nvme(_NVME_IO, _ACQUIRE, _KEYS.pack(key, victim), _PREEMPT_AND_ABORT | _RTYPE)

    def report(self) -> Report | None:
        """None where it cannot be asked for."""
        if not self._nsid:
            return None
        return parse_report(self._nvme(_NVME_IO, _REPORT, bytes(_PAGE), _PAGE // 4 - 1, _EXTENDED))

    def _pr(self, request: int, argument: bytes) -> None:
        status = fcntl.ioctl(self._fd, request, bytearray(argument))  # of what can be changed it returns the status
        if status == _PR_CONFLICT:
            raise ReservationConflict(f"{self._name}: reserved by another host")
        if status:
            raise OSError(errno.EIO, f"reservation: the device answers with status {status:#x}")

    def _nvme(self, request: int, opcode: int, data: bytes, cdw10: int = 0, cdw11: int = 0) -> bytes:
        """What is in the command's data afterwards."""
        buffer = ctypes.create_string_buffer(data, len(data))
        address = ctypes.addressof(buffer)
        command = _COMMAND.pack(opcode, 0, 0, self._nsid, 0, address, 0, len(data), cdw10, cdw11, 0, 0, 0, 0, 0, 0)
        status = fcntl.ioctl(self._fd, request, bytearray(command)) & _STATUS
        if status == _CONFLICT:
            raise ReservationConflict(f"{self._name}: reserved by another host")
        if status:
            raise OSError(errno.EIO, f"{self._name}: reservation: NVMe status {status:#05x} to command {opcode:#04x}")
        return buffer.raw


def parse_report(data: bytes) -> Report:
    """Reservation Status Extended Data Structure (NVMe Base 2.0, section 7.8): 64 bytes, then 64 for each registrant.

    ValueError when ``data`` is too short for one.
    """
    if len(data) < 64:
        raise ValueError(f"expected 64 bytes of reservation status, found {len(data)}")
    generation, kind, count = struct.unpack_from("<IBH", data)
    registrants = []
    for at in range(64, min(64 + 64 * count, len(data) - 63), 64):
        _, status, key = struct.unpack_from("<HB5xQ", data, at)
        registrants.append(Registrant(key, data[at + 16 : at + 32].hex(), bool(status & 1)))
    return Report(generation, kind, tuple(registrants))


def open_device(path: str | os.PathLike[str]) -> int:
    """For :class:`Reservations` of a device that may be in use. OSError."""
    return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
