"""Whatever is encoded is decoded again, for all values that fit."""

from hypothesis import given
from hypothesis import strategies as st

from kvfs.store import format as kvfs1

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
uuids = st.binary(min_size=16, max_size=16)
names = st.binary(min_size=1, max_size=kvfs1.NAME_MAX)


def text(limit: int) -> st.SearchStrategy[str]:
    """UTF-8 of at most ``limit`` bytes; a label ends at its first zero."""
    alphabet = st.characters(codec="utf-8", exclude_characters="\0")
    return st.text(alphabet, max_size=limit).filter(lambda value: len(value.encode()) <= limit)


superblocks = st.builds(
    kvfs1.Superblock, compat=u64, ro_compat=u64, uuid=uuids, size=u64, segment_size=u64, segment_count=u64,
    sequence=u64, epoch=u64, created_ns=i64, written_ns=i64, flags=u32, copy=u32, checkpoint_segment=u64,
    checkpoint_generation=u64, checkpoint_bytes=u64, log_segment=u64, log_generation=u64, log_offset=u64,
    log_sequence=u64, namespace_index=u32, namespace_count=u32, store_uuid=uuids, host_uuid=uuids,
    label=text(kvfs1.LABEL_MAX), owner=text(kvfs1.OWNER_MAX),
)  # fmt: skip
host_marks = st.builds(
    kvfs1.HostMark, uuid=uuids, host_uuid=uuids, epoch=u64, count=u64, written_ns=i64,
    state=st.sampled_from(kvfs1.HostState), host_name=text(kvfs1.HOST_NAME_MAX), owner=text(kvfs1.OWNER_MAX),
)  # fmt: skip
segment_headers = st.builds(
    kvfs1.SegmentHeader, uuid=uuids, segment=u64, generation=u64, host_uuid=uuids, epoch=u64,
    segment_class=st.sampled_from(kvfs1.SegmentClass), opened_ns=i64,
)  # fmt: skip


@st.composite
def extents(draw: st.DrawFn) -> kvfs1.Extent:
    if draw(st.booleans()):
        return kvfs1.Extent.hole(draw(u64), draw(st.integers(1, 2**32 - 1)))
    run = draw(st.integers(1, 300))
    skip = draw(st.integers(0, run - 1))
    granules = -(-run // kvfs1.GRANULE_BLOCKS)
    return kvfs1.Extent(
        logical=draw(u64), generation=draw(u64), segment=draw(st.integers(0, 2**32 - 2)), block=draw(u32), skip=skip,
        run_blocks=run, blocks=draw(st.integers(1, run - skip)),
        checksums=tuple(draw(st.lists(u64, min_size=granules, max_size=granules))),
    )  # fmt: skip


records: st.SearchStrategy[kvfs1.Record] = st.one_of(
    st.builds(
        kvfs1.Inode, ino=u64, mode=u32, nlink=u32, uid=u32, gid=u32, size=u64, atime_ns=i64, mtime_ns=i64,
        ctime_ns=i64, map_kind=st.sampled_from(kvfs1.MapKind), keep_blocks=u64,
        extents=st.lists(extents(), max_size=4).map(tuple),
    ),
    st.builds(kvfs1.InodeDelete, u64),
    st.builds(kvfs1.NameSet, u64, u64, names),
    st.builds(kvfs1.NameDelete, u64, names),
    st.builds(kvfs1.XattrSet, u64, names, st.binary(max_size=300)),
    st.builds(kvfs1.XattrDelete, u64, names),
    st.builds(kvfs1.Symlink, u64, st.binary(min_size=1, max_size=300)),
    st.builds(kvfs1.SegmentOpen, u64, u64, st.sampled_from(kvfs1.SegmentClass)),
    st.builds(kvfs1.Next, u64, u64),
    st.builds(kvfs1.Atime, u64, i64),
)  # fmt: skip


@given(superblocks)
def test_superblock(superblock: kvfs1.Superblock) -> None:
    block = superblock.pack()
    assert len(block) == kvfs1.BLOCK
    assert kvfs1.Superblock.parse(block) == superblock


@given(host_marks)
def test_host_mark(mark: kvfs1.HostMark) -> None:
    block = mark.pack()
    assert len(block) == kvfs1.BLOCK
    assert kvfs1.HostMark.parse(block) == mark


@given(segment_headers)
def test_segment_header(header: kvfs1.SegmentHeader) -> None:
    block = header.pack()
    assert len(block) == kvfs1.BLOCK
    assert kvfs1.SegmentHeader.parse(block) == header


@given(st.lists(records, max_size=20), uuids, u64, u64, u64, u32, u32)
def test_frame(
    content: list[kvfs1.Record], uuid: bytes, generation: int, sequence: int, offset: int, flags: int, unflushed: int
) -> None:
    frame = kvfs1.make_frame(
        content, uuid=uuid, generation=generation, sequence=sequence, offset=offset, flags=flags, unflushed=unflushed
    )  # fmt: skip
    data = frame.pack()
    assert len(data) == frame.disk_bytes
    assert len(data) % kvfs1.BLOCK == 0
    parsed = kvfs1.Frame.parse(data + b"what follows")
    assert parsed == frame
    assert parsed.records() == content


@given(st.lists(records, max_size=3), st.integers(0, 400), st.binary(max_size=20))
def test_damaged_records_are_parsed_or_refused(content: list[kvfs1.Record], at: int, damage: bytes) -> None:
    payload = b"".join(map(kvfs1.pack_record, content))
    payload = payload[:at] + damage + payload[at + len(damage) :]
    try:
        parsed = list(kvfs1.parse_records(payload))
    except kvfs1.FormatError:
        return
    assert list(kvfs1.parse_records(b"".join(map(kvfs1.pack_record, parsed)))) == parsed
