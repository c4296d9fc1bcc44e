"""NVMe namespaces: what their identify data says of thin provisioning.

Structures and field names are those of the NVM Express Base Specification 2.0 (Identify, figures 275 to 278 and 289)
and its NVM Command Set (Identify Namespace, figure 97).

The status of a write that finds no space, Capacity Exceeded (81h, generic), reaches the store as ENOSPC: the block
layer maps it.
"""

import os
import struct
from pathlib import Path

import msgspec

from kvfs.fabric.nvme.admin import IDENTIFY, PAGE, AdminCommand, open_namespace
from kvfs.fabric.physical import Reading

_CNS_NAMESPACE, _CNS_NVM_SET_LIST = 0x00, 0x04


class NamespaceData(msgspec.Struct, frozen=True):
    """Of Identify Namespace; counts of logical blocks."""

    size: int  # NSZE
    capacity: int  # NCAP: the most that may be allocated
    used: int  # NUSE: what is allocated
    is_thin: bool  # NSFEAT bit 0, THINP
    block_bytes: int  # of the LBA format in use
    nvm_set: int  # NVMSETID, 0: none


def parse_namespace(data: bytes) -> NamespaceData:
    """ValueError when that is no such structure."""
    if len(data) < PAGE:
        raise ValueError(f"expected {PAGE} bytes of namespace data, found {len(data)}")
    size, capacity, used = struct.unpack_from("<QQQ", data, 0)
    features, formatted = data[24], data[26]
    index = formatted & 0xF | (formatted >> 5 & 0x3) << 4  # FLBAS bits 3:0, and 6:5 for formats beyond the 16th
    shift = data[128 + 4 * index + 2]
    if not 9 <= shift <= 16:
        raise ValueError(f"expected logical blocks of 512 bytes to 64 KiB, found 2^{shift}")
    if capacity > size or used > capacity:
        raise ValueError(f"expected NUSE <= NCAP <= NSZE, found {used}, {capacity}, {size}")
    (nvm_set,) = struct.unpack_from("<H", data, 100)
    return NamespaceData(size, capacity, used, bool(features & 1), 1 << shift, nvm_set)


def parse_nvm_set_unallocated(data: bytes, nvm_set: int) -> int | None:
    """Of an NVM Set List: the bytes that set ``nvm_set`` has for nobody yet (UNVMSETCAP); ``None``: it is not there."""
    if len(data) < PAGE:
        raise ValueError(f"expected {PAGE} bytes of an NVM Set List, found {len(data)}")
    count = data[0]
    if count > 31:
        raise ValueError(f"expected at most 31 NVM Sets, found {count}")
    for index in range(count):
        at = 128 * (1 + index)
        (identifier,) = struct.unpack_from("<H", data, at)
        if identifier == nvm_set:
            return int.from_bytes(data[at + 32 : at + 48], "little")
    return None


def thin_reading(namespace: NamespaceData, unallocated: int | None) -> Reading | None:
    """``unallocated``: of the NVM Set that the namespace lies in, when that is known."""
    if not namespace.is_thin:
        return None
    total = namespace.capacity * namespace.block_bytes
    free = (namespace.capacity - namespace.used) * namespace.block_bytes
    if unallocated is not None and unallocated < free:
        total -= free - unallocated
        free = unallocated
    if total >= namespace.size * namespace.block_bytes:
        return None  # all of it may be allocated
    return Reading(total=total, free=free, rewrites_in_place=True)


class ThinSource:
    """A thin-provisioned namespace."""

    def __init__(self, name: str, send: AdminCommand, namespace: int) -> None:
        self.name = f"thin provisioning of {name}"
        self._send = send
        self._namespace = namespace

    @classmethod
    def probe(cls, device: Path) -> "ThinSource | None":
        """``None`` for whatever is no thin-provisioned NVMe namespace, or may not be asked."""
        found = open_namespace(device)
        if found is None:
            return None
        fd, send, namespace = found
        try:
            if parse_namespace(send(IDENTIFY, namespace, _CNS_NAMESPACE, 0, PAGE)).is_thin:
                return cls(str(device), send, namespace)
        except (OSError, ValueError):
            pass
        os.close(fd)
        return None

    def read(self) -> Reading | None:
        namespace = parse_namespace(self._send(IDENTIFY, self._namespace, _CNS_NAMESPACE, 0, PAGE))
        unallocated = None
        if namespace.nvm_set:
            sets = self._send(IDENTIFY, 0, _CNS_NVM_SET_LIST, namespace.nvm_set, PAGE)
            unallocated = parse_nvm_set_unallocated(sets, namespace.nvm_set)
        return thin_reading(namespace, unallocated)
