"""Golden bytes of KVFS1, written down by hand from the layout: neither encoder had a part in them.

Each block is a list of (offset, hex); what is not listed is zero. The crc fields alone were computed, once, with a
third implementation (the library google-crc32c; the frame's later by long division, bit by bit).
"""

from kvfs.store import format as kvfs1

MIB = 1 << 20
UUID = bytes.fromhex("00112233445566778899aabbccddeeff")
HOST = bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf")
STORE = bytes.fromhex("505152535455565758595a5b5c5d5e5f")
VOLUME_BYTES = 32 * MIB
SEGMENTS = 30  # (32 MiB - 4 KiB - 1 MiB) / 1 MiB
CREATED_NS = 1_700_000_000_123_456_789
OWNER = '{"pid":4711}'
LABEL = "golden-é"

SUPERBLOCK = kvfs1.Superblock(
    compat=0x0102030405060708,
    ro_compat=0x1112131415161718,
    incompat=0,
    uuid=UUID,
    size=VOLUME_BYTES,
    segment_size=MIB,
    segment_count=SEGMENTS,
    sequence=0x2122232425262728,
    epoch=0x31323334,
    created_ns=CREATED_NS,
    written_ns=-1,
    flags=kvfs1.SuperblockFlags.CLEAN,
    copy=2,
    checkpoint_segment=3,
    checkpoint_generation=0x3132333400000003,
    checkpoint_bytes=0x4142434445464748,
    log_segment=5,
    log_generation=0x3132333400000007,
    log_offset=0x3000,
    log_sequence=0x5152535455565758,
    namespace_index=1,
    namespace_count=4,
    store_uuid=STORE,
    host_uuid=HOST,
    label=LABEL,
    owner=OWNER,
)
SUPERBLOCK_BYTES = [
    (0, "4b56465353423100"),  # magic KVFSSB1
    (8, "01000000"),  # version
    (12, "e7153f70"),  # crc
    (16, "0807060504030201"),  # compat
    (24, "1817161514131211"),  # ro_compat
    (40, "00112233445566778899aabbccddeeff"),  # uuid
    (56, "0000000200000000"),  # size
    (64, "0000100000000000"),  # segment_size
    (72, "1e00000000000000"),  # segment_count
    (80, "0000100000000000"),  # first_segment
    (88, "2827262524232221"),  # sequence
    (96, "3433323100000000"),  # epoch
    (104, "15cd853dfe9c9717"),  # created_ns
    (112, "ffffffffffffffff"),  # written_ns
    (120, "01000000"),  # flags
    (124, "02000000"),  # copy
    (128, "0300000000000000"),  # checkpoint_segment
    (136, "0300000034333231"),  # checkpoint_generation
    (144, "4847464544434241"),  # checkpoint_bytes
    (152, "0500000000000000"),  # log_segment
    (160, "0700000034333231"),  # log_generation
    (168, "0030000000000000"),  # log_offset
    (176, "5857565554535251"),  # log_sequence
    (184, "01000000"),  # namespace_index
    (188, "04000000"),  # namespace_count
    (192, "505152535455565758595a5b5c5d5e5f"),  # store_uuid
    (208, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"),  # host_uuid
    (224, "676f6c64656e2dc3a9"),  # label
    (288, "0c000000"),  # owner_bytes
    (296, "7b22706964223a343731317d"),  # owner
]

HOST_MARK = kvfs1.HostMark(
    uuid=UUID,
    host_uuid=HOST,
    epoch=0x7172737475767778,
    count=9,
    written_ns=CREATED_NS,
    state=kvfs1.HostState.YIELDS,
    host_name=LABEL,
    owner=OWNER,
)
HOST_MARK_BYTES = [
    (0, "4b5646534f574e00"),  # magic KVFSOWN
    (8, "01000000"),  # version
    (12, "2c31bfc6"),  # crc
    (16, "00112233445566778899aabbccddeeff"),  # uuid
    (32, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"),  # host_uuid
    (48, "7877767574737271"),  # epoch
    (56, "0900000000000000"),  # count
    (64, "15cd853dfe9c9717"),  # written_ns
    (72, "02000000"),  # state
    (76, "0c000000"),  # owner_bytes
    (80, "676f6c64656e2dc3a9"),  # host_name
    (144, "7b22706964223a343731317d"),  # owner
]

SEGMENT_HEADER = kvfs1.SegmentHeader(
    uuid=UUID,
    segment=5,
    generation=0x3132333400000007,
    host_uuid=HOST,
    epoch=0x31323334,
    segment_class=kvfs1.SegmentClass.LOG,
    opened_ns=CREATED_NS,
)
SEGMENT_HEADER_BYTES = [
    (0, "4b56465353454700"),  # magic KVFSSEG
    (8, "01000000"),  # version
    (12, "c7b93b84"),  # crc
    (16, "00112233445566778899aabbccddeeff"),  # uuid
    (32, "0500000000000000"),  # segment
    (40, "0700000034333231"),  # generation
    (48, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"),  # host_uuid
    (64, "3433323100000000"),  # epoch
    (72, "02000000"),  # segment_class
    (80, "15cd853dfe9c9717"),  # opened_ns
]

# one record of each type, and their bytes: | type | 0 | body bytes | body |
RECORDS: list[tuple[kvfs1.Record, str]] = [
    (
        kvfs1.Inode(
            ino=2,
            mode=0o100644,
            nlink=1,
            uid=1000,
            gid=100,
            size=300_001,
            atime_ns=-2,
            mtime_ns=3,
            ctime_ns=4,
            map_kind=kvfs1.MapKind.DELTA,
            keep_blocks=65,
            extents=(
                kvfs1.Extent(
                    logical=1,
                    generation=0x3132333400000009,
                    segment=6,
                    block=7,
                    blocks=70,
                    skip=2,
                    run_blocks=74,
                    checksums=(0x6162636465666768, 0x7172737475767778),
                ),
                kvfs1.Extent.hole(logical=80, blocks=9),
            ),
        ),
        "0100 0000 a8000000"
        "0200000000000000 a4810000 01000000 e8030000 64000000 e193040000000000"
        "feffffffffffffff 0300000000000000 0400000000000000 02000000 02000000 4100000000000000"
        "0100000000000000 0900000034333231 06000000 07000000 46000000 02000000 4a000000 00000000"
        "6867666564636261 7877767574737271"
        "5000000000000000 0000000000000000 ffffffff 00000000 09000000 00000000 00000000 00000000",  # a hole
    ),
    (kvfs1.InodeDelete(ino=2), "0200 0000 08000000 0200000000000000"),
    (kvfs1.NameSet(1, 2, b"na\xffme"), "0300 0000 15000000 0100000000000000 0200000000000000 6e61ff6d65"),
    (kvfs1.NameDelete(1, b"x"), "0400 0000 09000000 0100000000000000 78"),
    (kvfs1.XattrSet(2, b"user.a", b"\0v"), "0500 0000 14000000 0200000000000000 06000000 757365722e61 0076"),
    (kvfs1.XattrDelete(2, b"user.a"), "0600 0000 0e000000 0200000000000000 757365722e61"),
    (kvfs1.Symlink(3, b"../t"), "0700 0000 0c000000 0300000000000000 2e2e2f74"),
    (
        kvfs1.SegmentOpen(6, 0x3132333400000009, kvfs1.SegmentClass.DATA),
        "0800 0000 18000000 0600000000000000 0900000034333231 01000000 00000000",
    ),
    (kvfs1.Next(8, 0x313233340000000A), "0900 0000 10000000 0800000000000000 0a00000034333231"),
    (kvfs1.Atime(2, CREATED_NS), "0a00 0000 10000000 0200000000000000 15cd853dfe9c9717"),
]

FRAME_PLACE = {"uuid": UUID, "generation": 0x3132333400000007, "sequence": 0x5152535455565758, "offset": 0x3000}
FRAME_BYTES = [
    (0, "4b564c46"),  # magic KVLF
    (4, "83d1f78f"),  # crc
    (8, "84010000"),  # payload_bytes
    (12, "0a000000"),  # record_count
    (16, "00112233445566778899aabbccddeeff"),  # uuid
    (32, "0700000034333231"),  # generation
    (40, "5857565554535251"),  # sequence
    (48, "0030000000000000"),  # offset
    (56, "01000000"),  # flags: end of a checkpoint
    (64, "".join(text for _, text in RECORDS)),
]


def block(fields: list[tuple[int, str]]) -> bytes:
    out = bytearray(kvfs1.BLOCK)
    for offset, text in fields:
        data = bytes.fromhex(text)
        out[offset : offset + len(data)] = data
    return bytes(out)
