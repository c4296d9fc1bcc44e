"""Drives of ScaleFlux (CSD): they compress what is written, and have more logical than physical space.

The layouts are those that the vendor's plug-in of nvme-cli declares (``plugins/scaleflux``: ``sfx_freespace_ctx``,
``extended_health_info``, ``nvme_additional_smart_log``). Not tried on a drive. Three ways, best first:

* admin command D3h, query capacity information: total and free physical space, in sectors of 512 bytes;
* log page C2h, extended health: the same, and the compression ratio;
* log page CAh, additional SMART: how much of the physical space is used, in percent. How much that is in bytes
  it does not say: the logical capacity stands in for the total, which is right as far as marks in percent go.

A drive that reports more free than it has is one whose space is used up (nvme-cli reads it so).
"""

import os
import struct
from pathlib import Path

from kvfs.fabric.nvme.admin import AdminCommand, get_log_page, open_namespace, vendor_of
from kvfs.fabric.physical import Reading

_VENDORS = {0xCC53, 0x1DFD}  # ScaleFlux, DIGISTOR
_QUERY_CAPACITY = 0xD3
_ALL_NAMESPACES = 0xFFFFFFFF
_SECTOR = 512

_CAPACITY = struct.Struct("<QQQQQQ")  # free_space, phy_cap, phy_space, user_space, hw_used, app_written
_HEALTH_TOTAL = 80  # bytes in front of total_physical_capability: 12 32-bit counters and opn[32]
_HEALTH = struct.Struct("<QQII")  # total, free, physical_usage_ratio, comp_ratio
_HEALTH_PAGE, _HEALTH_BYTES = 0xC2, 512
_SMART_PAGE, _SMART_BYTES = 0xCA, 512
_SMART_ITEM, _SMART_RAW = 12, 5  # an item's size; where its 48-bit value begins
_OUT_OF_SPACE, _USAGE = 20, 21  # items


def _reading(total_sectors: int, free_sectors: int) -> Reading:
    if not 0 < total_sectors < 1 << 50:
        raise ValueError(f"expected a physical capacity, found {total_sectors} sectors")
    free = 0 if free_sectors > total_sectors else free_sectors
    # what is written again may compress worse than what it replaces
    return Reading(total=total_sectors * _SECTOR, free=free * _SECTOR, rewrites_in_place=False)


def parse_capacity(data: bytes) -> Reading:
    """The answer to admin command D3h. ValueError."""
    if len(data) < _CAPACITY.size:
        raise ValueError(f"expected {_CAPACITY.size} bytes of capacity information, found {len(data)}")
    free, _, total, *_ = _CAPACITY.unpack_from(data)
    return _reading(total, free)


def parse_health(data: bytes) -> Reading:
    """Log page C2h. ValueError."""
    if len(data) < _HEALTH_TOTAL + _HEALTH.size:
        raise ValueError(f"expected {_HEALTH_TOTAL + _HEALTH.size} bytes of extended health, found {len(data)}")
    total, free, _, _ = _HEALTH.unpack_from(data, _HEALTH_TOTAL)
    return _reading(total, free)


def parse_smart(data: bytes, logical_bytes: int) -> Reading:
    """Log page CAh. ValueError."""
    if len(data) < (_USAGE + 1) * _SMART_ITEM:
        raise ValueError(f"expected {(_USAGE + 1) * _SMART_ITEM} bytes of additional SMART, found {len(data)}")

    def raw(item: int) -> int:
        at = item * _SMART_ITEM + _SMART_RAW
        return int.from_bytes(data[at : at + 6], "little")

    used = raw(_USAGE)
    if used > 100:
        raise ValueError(f"expected the physical usage in percent, found {used}")
    free = 0 if raw(_OUT_OF_SPACE) else logical_bytes // 100 * (100 - used)
    return Reading(total=logical_bytes, free=free, rewrites_in_place=False)


class ScaleFluxSource:
    def __init__(self, name: str, send: AdminCommand, logical_bytes: int) -> None:
        self.name = f"physical space of {name}"
        self._send = send
        self._logical_bytes = logical_bytes

    @classmethod
    def probe(cls, device: Path) -> "ScaleFluxSource | None":
        """``None`` for drives of others, and where vendor commands do not arrive, as over a fabric."""
        found = open_namespace(device)
        if found is None:
            return None
        fd, send, _ = found
        try:
            if vendor_of(send) in _VENDORS:
                source = cls(str(device), send, os.lseek(fd, 0, os.SEEK_END))
                source.read()
                return source
        except (OSError, ValueError):
            pass
        os.close(fd)
        return None

    def read(self) -> Reading:
        problem: Exception | None = None
        for way in (self._by_command, self._by_health, self._by_smart):
            try:
                return way()
            except (OSError, ValueError) as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def _by_command(self) -> Reading:
        return parse_capacity(self._send(_QUERY_CAPACITY, _ALL_NAMESPACES, 0, 0, _CAPACITY.size))

    def _by_health(self) -> Reading:
        return parse_health(get_log_page(self._send, _HEALTH_PAGE, _HEALTH_BYTES))

    def _by_smart(self) -> Reading:
        return parse_smart(get_log_page(self._send, _SMART_PAGE, _SMART_BYTES), self._logical_bytes)
