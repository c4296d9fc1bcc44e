"""Sizes and times as people write them, and byte counts as people read them.

``64G`` means 64 GiB: K, M, G, T, P are powers of 1024, as in lsblk, truncate and LVM, with or without
``iB``; ``KB``, ``MB``, ``GB``... are powers of 1000, as printed on a drive. ``2h`` is two hours: s, m, h, d.
"""

import re
from fractions import Fraction

from kvfs.errors import UsageError

_PREFIXES = "KMGTP"
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:([KMGTP])(iB|B)?|B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes that ``text`` means (``64G``, ``1.5T``, ``512MiB``, ``2 TB``, ``4096``), rounded down.

    UsageError when it is no size, zero, or more than a signed 64-bit offset can address.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"expected a size, found {text!r}", "write a number with K, M, G, T or P, as in 64G or 1.5T")
    number, prefix, suffix = match.groups()
    base = 1000 if (suffix or "").upper() == "B" else 1024
    size = int(Fraction(number) * base ** (_PREFIXES.index(prefix.upper()) + 1 if prefix else 0))
    if not 0 < size < 1 << 63:
        raise UsageError(f"expected a size from 1 byte to 8 EiB, found {text!r}", "write it as in 64G or 1.5T")
    return size


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+)\s*([smhd]?)", re.ASCII)
_FRACTIONS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0}
_SECONDS_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?", re.ASCII)


def parse_seconds(text: str) -> float:
    """Seconds that ``text`` means (``30s``, ``500ms``, ``2m``, ``1.5``), 0 included. UsageError when it is no time."""
    match = _SECONDS_TEXT.fullmatch(text.strip())
    if match is None or (seconds := float(match[1]) * _FRACTIONS[match[2] or ""]) > _SECONDS["d"]:
        raise UsageError(f"expected a time up to a day, found {text!r}", "write it as in 30s, 500ms or 2m")
    return seconds


def parse_duration(text: str) -> int:
    """Seconds that ``text`` means (``2h``, ``30m``, ``7d``, ``90``), 0 included.

    UsageError when it is no time, or more than a century.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"expected a time, found {text!r}", "write a number with s, m, h or d, as in 30m or 2h")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > 36_600 * _SECONDS["d"]:
        raise UsageError(f"expected a time of at most a century, found {text!r}", "write it as in 30m or 2h")
    return seconds


def format_size(count: int) -> str:
    """``count`` bytes with a binary unit and three significant digits or more: ``512 B``, ``1.50 GiB``, ``64 GiB``."""
    if abs(count) < 1024:
        return f"{count} B"
    value, unit = float(count), ""
    for unit in _PREFIXES + "E":
        value /= 1024
        if abs(value) < 1023.5 or unit == "E":
            break
    if value == int(value):
        return f"{int(value)} {unit}iB"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}iB"
