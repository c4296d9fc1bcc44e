"""The Python side produces and reads the golden bytes exactly."""

from dataclasses import replace

import golden
import pytest
from golden import block

from kvfs.store import format as kvfs1


def test_superblock() -> None:
    expected = block(golden.SUPERBLOCK_BYTES)
    assert golden.SUPERBLOCK.pack() == expected
    assert kvfs1.Superblock.parse(expected) == golden.SUPERBLOCK


def test_host_mark() -> None:
    expected = block(golden.HOST_MARK_BYTES)
    assert golden.HOST_MARK.pack() == expected
    assert kvfs1.HostMark.parse(expected) == golden.HOST_MARK


def test_segment_header() -> None:
    expected = block(golden.SEGMENT_HEADER_BYTES)
    assert golden.SEGMENT_HEADER.pack() == expected
    assert kvfs1.SegmentHeader.parse(expected) == golden.SEGMENT_HEADER


@pytest.mark.parametrize(("record", "text"), golden.RECORDS, ids=lambda value: type(value).__name__)
def test_record(record: kvfs1.Record, text: str) -> None:
    expected = bytes.fromhex(text)
    assert kvfs1.pack_record(record) == expected
    assert list(kvfs1.parse_records(expected)) == [record]


def test_every_record_type_has_golden_bytes() -> None:
    assert [record.TYPE for record, _ in golden.RECORDS] == list(range(1, 11))


def test_frame() -> None:
    records = [record for record, _ in golden.RECORDS]
    expected = block(golden.FRAME_BYTES)
    frame = kvfs1.make_frame(records, **golden.FRAME_PLACE, flags=kvfs1.FrameFlags.CHECKPOINT_END)
    assert frame.pack() == expected
    assert frame.disk_bytes == len(expected)
    parsed = kvfs1.Frame.parse(expected)
    assert parsed == frame
    assert parsed.records() == records


@pytest.mark.parametrize("offset", [0, 7, 8, 12, 40, 63, 100, 300, 2343, 2344, 4095])
def test_a_flipped_bit_is_noticed(offset: int) -> None:
    for good, kind in [
        (block(golden.SUPERBLOCK_BYTES), kvfs1.Superblock),
        (block(golden.SEGMENT_HEADER_BYTES), kvfs1.SegmentHeader),
        (block(golden.HOST_MARK_BYTES), kvfs1.HostMark),
    ]:
        bad = bytearray(good)
        bad[offset] ^= 0x10
        with pytest.raises(kvfs1.BadMagic if offset < 8 else kvfs1.BadChecksum, match=r"expected .*, found "):
            kind.parse(bytes(bad))


def test_newer_superblocks_are_told_from_damaged_ones() -> None:
    with pytest.raises(kvfs1.TooNew, match="expected format version 1 or older, found 2"):
        kvfs1.Superblock.parse(replace(golden.SUPERBLOCK, version=2).pack())
    with pytest.raises(kvfs1.TooNew, match="found bits 40"):
        kvfs1.Superblock.parse(replace(golden.SUPERBLOCK, incompat=0x40).pack())


def test_a_truncated_frame_is_noticed() -> None:
    frame = block(golden.FRAME_BYTES)
    with pytest.raises(kvfs1.BadChecksum, match="expected a frame of 452 bytes, found 451"):
        kvfs1.Frame.parse(frame[:451])
    with pytest.raises(kvfs1.BadMagic):
        kvfs1.Frame.parse(bytes(4096))


@pytest.mark.parametrize(
    "text",
    [
        "0300 0000 1000",  # a header cut short
        "0300 0000 10000000 0100000000000000 0200000000000000",  # no name
        "0300 0000 ff000000 0100000000000000",  # longer than the payload
        "0b00 0000 00000000",  # an unknown type
        "0200 0000 04000000 02000000",  # half an inode number
        "0200 0000 09000000 0200000000000000 00",  # a byte too many
        "0500 0000 0d000000 0200000000000000 02000000 61",  # an attribute's name that is longer than the record
    ],
)
def test_malformed_records_are_refused(text: str) -> None:
    with pytest.raises(kvfs1.FormatError, match=r"expected .*, found "):
        list(kvfs1.parse_records(bytes.fromhex(text)))
