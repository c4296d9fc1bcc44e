"""Content that proves where it came from.

Every 4 KiB block starts with a stamp, a little-endian 64-bit word: ``| 0x4B56 (16 bits) | file id (24) | block of the
file (24) |``. The rest is random, so that a device that compresses gains nothing, the same 1 MiB over and over.
A stale, misplaced, short or zeroed answer therefore differs at the first word of a block already.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.system import BenchError

BLOCK = 4096
_WORDS = BLOCK // 8
_BASE_BLOCKS = 256
_TAG = 0x4B56
_MAX_ID = 1 << 24

Blocks = NDArray[np.uint64]
"""Shape (blocks, 512): one row per 4 KiB block."""


class WrongBytes(BenchError):
    """A file system answered with something else than what was written."""


def _base() -> Blocks:
    random = np.random.default_rng(0x6B766673)
    blocks: Blocks = random.integers(0, 1 << 64, size=(_BASE_BLOCKS, _WORDS), dtype=np.uint64)
    return blocks


_BASE = _base()


def as_blocks(buffer: Any) -> Blocks:
    """A view of ``buffer`` (length a multiple of 4096) as blocks."""
    return np.frombuffer(buffer, dtype=np.uint64).reshape(-1, _WORDS)


def stamp(file_id: int, block: int) -> int:
    if not (0 <= file_id < _MAX_ID and 0 <= block < _MAX_ID):
        raise ValueError(f"expected file id and block below {_MAX_ID}, found {file_id} and {block}")
    return _TAG << 48 | file_id << 24 | block


def fill(blocks: Blocks) -> None:
    """Put the random part into ``blocks``, which start a file; :func:`mark` then makes them that file's."""
    blocks[:] = _BASE[np.arange(len(blocks)) % _BASE_BLOCKS]


def mark(blocks: Blocks, file_id: int) -> None:
    """Stamp ``blocks``, the whole content of a file, as file ``file_id``'s."""
    if len(blocks) == 1:  # small files: a tenth of what arange costs
        blocks[0, 0] = stamp(file_id, 0)
        return
    blocks[:, 0] = np.arange(stamp(file_id, 0), stamp(file_id, len(blocks) - 1) + 1, dtype=np.uint64)


def check_ends(blocks: Blocks, file_id: int, first_block: int) -> None:
    """Compare the stamps of the first and the last block: cheap enough to do while timing."""
    for row in (0, len(blocks) - 1):
        _compare(int(blocks[row, 0]), file_id, first_block + row)


def check_stamps(blocks: Blocks, file_id: int, first_block: int) -> None:
    """Compare the stamps of all blocks: one word read in each."""
    first = stamp(file_id, first_block)
    expected = np.arange(first, first + len(blocks), dtype=np.uint64)
    wrong = np.flatnonzero(blocks[:, 0] != expected)
    if len(wrong):
        _compare(int(blocks[wrong[0], 0]), file_id, first_block + int(wrong[0]))


def check_all(blocks: Blocks, file_id: int, first_block: int) -> None:
    """Compare every byte."""
    numbers = np.arange(first_block, first_block + len(blocks))
    expected = _BASE[numbers % _BASE_BLOCKS]
    expected[:, 0] = stamp(file_id, 0) + numbers.astype(np.uint64)
    wrong = np.flatnonzero((blocks != expected).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        _compare(int(blocks[row, 0]), file_id, first_block + row)
        raise WrongBytes(f"file {file_id}, block {first_block + row}: the stamp is right, the bytes after it are not")


def is_stamp(word: int) -> bool:
    """Whether ``word``, the first of some block on the device, was written by a benchmark."""
    return word >> 48 == _TAG


def _compare(word: int, file_id: int, block: int) -> None:
    if word == stamp(file_id, block):
        return
    found = f"file {word >> 24 & _MAX_ID - 1}, block {word & _MAX_ID - 1}" if is_stamp(word) else f"0x{word:016x}"
    raise WrongBytes(f"expected file {file_id}, block {block}, found {found}")
