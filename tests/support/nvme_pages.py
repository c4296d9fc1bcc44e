"""What drives would answer. Constructed from the public layout descriptions, not recorded from a drive.

Layouts: NVM Command Set Specification, Identify Namespace; NVM Express Base Specification, NVM Set List; the
declarations in nvme-cli's ScaleFlux plug-in.
"""

import struct

GIB = 1 << 30
SECTOR = 512


def namespace(
    size: int, capacity: int, used: int, *, thin: bool = True, shift: int = 12, nvm_set: int = 0, index: int = 1
) -> bytes:
    """Identify Namespace, CNS 00h; counts of logical blocks of ``1 << shift`` bytes, LBA format ``index``."""
    page = bytearray(4096)
    struct.pack_into("<QQQ", page, 0, size, capacity, used)  # NSZE, NCAP, NUSE
    page[24] = int(thin)  # NSFEAT bit 0: THINP
    page[25] = 3  # NLBAF, one less than there are
    page[26] = index & 0xF | (index >> 4) << 5  # FLBAS
    struct.pack_into("<H", page, 100, nvm_set)  # NVMSETID
    for each in range(64):
        page[128 + 4 * each + 2] = 9  # LBADS: 512 bytes
    page[128 + 4 * index + 2] = shift
    return bytes(page)


def nvm_sets(*sets: tuple[int, int, int]) -> bytes:
    """NVM Set List, CNS 04h: of each set its number, TNVMSETCAP and UNVMSETCAP in bytes."""
    page = bytearray(4096)
    page[0] = len(sets)
    for index, (number, total, unallocated) in enumerate(sets):
        at = 128 * (1 + index)
        struct.pack_into("<H", page, at, number)
        page[at + 16 : at + 32] = total.to_bytes(16, "little")
        page[at + 32 : at + 48] = unallocated.to_bytes(16, "little")
    return bytes(page)


def capacity_information(total: int, free: int) -> bytes:
    """ScaleFlux, admin command D3h: free_space, phy_cap, phy_space, user_space in sectors, the rest in 4 KiB."""
    sectors = free // SECTOR, total // SECTOR, total // SECTOR, 2 * total // SECTOR
    return struct.pack("<QQQQQQ", *sectors, max(total - free, 0) // 4096, 0)


def extended_health(total: int, free: int) -> bytes:
    """ScaleFlux, log page C2h: twelve 32-bit counters, opn[32], total and free in sectors, usage, ratio * 100."""
    used = 100 - 100 * free // total
    body = bytes(48) + b"CSD-3310".ljust(32, b"\0")
    return (body + struct.pack("<QQII", total // SECTOR, free // SECTOR, used, 122)).ljust(512, b"\0")


def additional_smart(used_percent: int, *, out_of_space: bool = False) -> bytes:
    """ScaleFlux, log page CAh: items of 12 bytes: key, 2 reserved, normalised, reserved, 48-bit value, reserved."""
    page = bytearray(512)
    for item, value in ((20, int(out_of_space)), (21, used_percent)):
        page[item * 12 + 5 : item * 12 + 11] = value.to_bytes(6, "little")
    return bytes(page)
