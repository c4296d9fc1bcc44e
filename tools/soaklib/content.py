"""Bytes that follow from a name, a version and an offset: whatever a read returns can be verified without a copy.

Word ``i`` of a file (64 bits, little-endian) is ``(i + 1) * K ^ seed``, with K the golden ratio's odd constant of
Fibonacci hashing (Knuth, TAOCP 6.4) and ``seed`` a BLAKE2b digest of name and version. Stale, misplaced, zeroed or
another file's bytes differ in their first word.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvfs.errors import KvfsError

WORD = 8  # B
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SoakError(KvfsError):
    """The mount did something that it must not, or the soak cannot be run here."""


class WrongBytes(SoakError):
    """A read returned what was not written."""


def words(name: str, version: int, offset: int, size: int) -> NDArray[np.uint64]:
    """``size`` bytes from ``offset`` on, both multiples of 8. Shape (size / 8,)."""
    seed = int.from_bytes(hashlib.blake2b(f"{name}\0{version}".encode(), digest_size=8).digest(), "little")
    first = offset // WORD + 1
    index = np.arange(first, first + size // WORD, dtype=np.uint64)
    out: NDArray[np.uint64] = index * _GOLDEN ^ np.uint64(seed)
    return out


def verify(found: Any, name: str, version: int, offset: int, size: int) -> None:
    """``found``: any buffer. WrongBytes, with what was expected where, when it is short or differs."""
    view = memoryview(found).cast("B")
    if len(view) != size:
        raise WrongBytes(f"{name} version {version} at {offset}: expected {size} bytes, found {len(view)}")
    expected = words(name, version, offset, size)
    actual = np.frombuffer(view, dtype=np.uint64)
    wrong = np.flatnonzero(actual != expected)
    if len(wrong):
        at = int(wrong[0])
        raise WrongBytes(
            f"{name} version {version} at byte {offset + at * WORD}: expected {int(expected[at]):016x}, found "
            f"{int(actual[at]):016x}, and {len(wrong) * WORD} of {size} bytes in all differ"
        )
