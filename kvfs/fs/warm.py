"""What a mount is asked about its warm tier, by ioctl(2) on an open file: native/warm/ioctl.hpp has the same layout.

Whoever may open a file for reading may ask, as the descriptor is the proof.
"""

import fcntl
import struct
from dataclasses import dataclass
from enum import IntEnum

_REPORT = struct.Struct("=QQII")  # size, warm bytes, state, flags
_PASSTHROUGH = 1


def _iowr(number: int) -> int:
    return 3 << 30 | _REPORT.size << 16 | ord("K") << 8 | number


WARM = _iowr(0x77)  # returns when the file is in
STATE = _iowr(0x78)  # changes nothing
EVICT = _iowr(0x79)

EMPTY_REPORT = bytes(_REPORT.size)  # what goes in


class Warmth(IntEnum):
    """Whether a file is in the tier, or why it would not be taken."""

    COLD = 0
    WARM = 1
    TOO_SMALL = 2
    TOO_LARGE = 3
    NOT_REGULAR = 4


@dataclass(frozen=True)
class Report:
    """``size`` and ``warm_bytes`` in bytes. ``passthrough``: who opens a warm file reads it without asking kvfs."""

    size: int
    warm_bytes: int
    warmth: Warmth
    passthrough: bool

    @classmethod
    def parse(cls, data: bytes) -> "Report":
        size, warm_bytes, state, flags = _REPORT.unpack(data)
        return cls(size, warm_bytes, Warmth(state), bool(flags & _PASSTHROUGH))


def ask(fd: int, command: int) -> Report:
    """``command``: WARM, STATE or EVICT.

    OSError: ENOTTY (no warm tier answers for this file), ENOSPC (no room in the tier that may be taken), ESTALE (it
    changes all the time), EIO (it cannot be read). What clients read by passthrough, ``fd`` included, is evicted when
    the last of them closes it.
    """
    return Report.parse(fcntl.ioctl(fd, command, EMPTY_REPORT))
