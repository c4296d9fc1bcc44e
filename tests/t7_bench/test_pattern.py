"""Content that cannot be mistaken: any other byte, block or file is noticed."""

import numpy as np
import pytest
from benchlib import pattern
from benchlib.pattern import Blocks, WrongBytes
from hypothesis import given
from hypothesis import strategies as st

_BLOCKS = 300  # more than the random part is long, so that it repeats


def _file(file_id: int, blocks: int = _BLOCKS) -> Blocks:
    content = pattern.as_blocks(bytearray(blocks * pattern.BLOCK))
    pattern.fill(content)
    pattern.mark(content, file_id)
    return content


@pytest.mark.parametrize("blocks", [1, 2, _BLOCKS])
def test_what_was_written_passes_whole_and_in_parts(blocks: int) -> None:
    content = _file(7, blocks)
    pattern.check_all(content, 7, 0)
    pattern.check_ends(content, 7, 0)
    pattern.check_all(content[blocks // 2 :], 7, blocks // 2)


@given(st.integers(0, _BLOCKS - 1), st.integers(0, 511), st.integers(0, 63))
def test_one_flipped_bit_is_found(block: int, word: int, bit: int) -> None:
    content = _file(7)
    content[block, word] ^= np.uint64(1 << bit)
    with pytest.raises(WrongBytes, match=rf"file 7, block {block}\b"):
        pattern.check_all(content, 7, 0)


def test_another_file_another_place_and_zeros_are_named() -> None:
    content = _file(7)
    with pytest.raises(WrongBytes, match="expected file 8, block 0, found file 7, block 0"):
        pattern.check_ends(content, 8, 0)
    with pytest.raises(WrongBytes, match="expected file 7, block 5, found file 7, block 0"):
        pattern.check_ends(content, 7, 5)
    content[-1] = 0
    with pytest.raises(WrongBytes, match=f"expected file 7, block {_BLOCKS - 1}, found 0x0000000000000000"):
        pattern.check_ends(content, 7, 0)


def test_ids_that_do_not_fit_a_stamp_are_refused() -> None:
    with pytest.raises(ValueError, match="below 16777216"):
        pattern.stamp(1 << 24, 0)
