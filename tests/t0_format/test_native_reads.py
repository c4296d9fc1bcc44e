"""The native side reads what the Python encoder and the golden bytes say."""

import os
import select
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import golden
import pytest
from disk import Disk

from kvfs import _native
from kvfs.store import format as kvfs1

MIB = 1 << 20
BLOCK = kvfs1.BLOCK
SUPERBLOCK = kvfs1.Superblock(
    uuid=golden.UUID, store_uuid=golden.UUID, size=golden.VOLUME_BYTES, segment_size=MIB,
    segment_count=golden.SEGMENTS, created_ns=golden.CREATED_NS, log_generation=1, label="by hand",
)  # fmt: skip
FILE_MODE = stat.S_IFREG | 0o640


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    path = tmp_path / "by-hand.kvfs"
    path.touch()
    os.truncate(path, golden.VOLUME_BYTES)
    return path


def test_golden_superblock(blank: Path) -> None:
    """Only the copy at the end is there."""
    put(blank, golden.VOLUME_BYTES - BLOCK, golden.block(golden.SUPERBLOCK_BYTES))
    found = _native.inspect(os.fspath(blank))
    assert found["device_size"] == golden.VOLUME_BYTES
    assert [copy["copy"] for copy in found["copies"]] == ["A", "B", "end"]
    assert [copy["offset"] for copy in found["copies"]] == [0, 65536, golden.VOLUME_BYTES - BLOCK]
    assert [copy["valid"] for copy in found["copies"]] == [False, False, True]
    assert found["best"] == 2
    expected = {
        "version": 1,
        "compat": golden.SUPERBLOCK.compat,
        "ro_compat": golden.SUPERBLOCK.ro_compat,
        "incompat": 0,
        "uuid": str(UUID(bytes=golden.UUID)),
        "label": golden.LABEL,
        "size": golden.VOLUME_BYTES,
        "segment_size": MIB,
        "segments": golden.SEGMENTS,
        "sequence": golden.SUPERBLOCK.sequence,
        "epoch": golden.SUPERBLOCK.epoch,
        "created_ns": golden.CREATED_NS,
        "clean": True,
        "owner": golden.OWNER,
    }
    superblock = found["copies"][2]["superblock"]
    assert {key: superblock[key] for key in expected} == expected


def test_golden_host_marks(blank: Path) -> None:
    """Those of this volume are told, another's are not."""
    put(blank, 0, golden.block(golden.SUPERBLOCK_BYTES))
    put(blank, kvfs1.HOST_BEAT, golden.block(golden.HOST_MARK_BYTES))
    put(blank, kvfs1.HOST_CLAIM, replace(golden.HOST_MARK, uuid=golden.STORE).pack())
    found = _native.inspect(os.fspath(blank))
    assert found["claim"] is None
    assert found["beat"] == {
        "host": golden.HOST,
        "host_name": golden.LABEL,
        "epoch": golden.HOST_MARK.epoch,
        "count": 9,
        "written_ns": golden.CREATED_NS,
        "yields": True,
        "owner": golden.OWNER,
    }


def test_a_claim_by_native_is_what_python_writes(blank: Path) -> None:
    put(blank, 0, golden.block(golden.SUPERBLOCK_BYTES))
    fd = os.open(blank, os.O_RDWR | os.O_DIRECT)
    try:
        _native.write_claim(fd, golden.UUID, 7, golden.HOST, "b", golden.OWNER)
    finally:
        os.close(fd)
    block = blank.read_bytes()[kvfs1.HOST_CLAIM :][:BLOCK]
    claim = kvfs1.HostMark.parse(block)
    assert claim.pack() == block
    expected = replace(golden.HOST_MARK, epoch=7, count=0, state=kvfs1.HostState.HOLDS, host_name="b")
    assert replace(claim, written_ns=expected.written_ns) == expected


def test_the_epoch_counts_before_the_sequence(blank: Path) -> None:
    """A host that lost the volume may write a superblock once more."""
    for offset, epoch, sequence in ((0, 3, 10), (65536, 2, 99), (golden.VOLUME_BYTES - BLOCK, 3, 9)):
        put(blank, offset, replace(golden.SUPERBLOCK, epoch=epoch, sequence=sequence).pack())
    found = _native.inspect(os.fspath(blank))
    assert [copy["valid"] for copy in found["copies"]] == [True, True, True]
    assert found["best"] == 0


def read(store: _native.Store, ino: int, offset: int, size: int) -> bytes:
    result: Any = store.read(ino, offset, size, 1)
    if result is None:
        assert select.select([store.eventfd], [], [], 30)[0]
        [result] = [value for token, value in store.completions() if token == 1]
    assert not isinstance(result, int), f"read failed: {os.strerror(-result)}"
    return bytes(result)


def test_a_volume_by_hand(blank: Path) -> None:
    """A checkpoint that spans two segments, a log that goes on in another one, data with checksums: Store reads it."""
    disk = Disk(blank, SUPERBLOCK)
    data = bytes(range(256)) * 16 * 100  # 100 blocks: two granules
    data_segment, data_generation = 7, 9
    granule = kvfs1.GRANULE_BLOCKS * BLOCK

    def run(block: int) -> kvfs1.Extent:
        checksums = tuple(
            disk.checksum(data[at : at + granule], data_segment, data_generation, block + at // BLOCK)
            for at in range(0, len(data), granule)
        )
        disk.write(data_segment, block * BLOCK, data)
        return kvfs1.Extent(
            logical=0, generation=data_generation, segment=data_segment, block=block, blocks=100, run_blocks=100,
            checksums=checksums,
        )  # fmt: skip

    file = kvfs1.Inode(
        ino=3, mode=FILE_MODE, nlink=1, uid=1, gid=2, size=len(data) - 5, atime_ns=10, mtime_ns=20, ctime_ns=30,
        map_kind=kvfs1.MapKind.FULL, extents=(run(3),),
    )  # fmt: skip
    # blocks 60 to 70 of a run whose others were overwritten or cut off, after a hole
    window = replace(run(110), logical=5, skip=60, blocks=10)
    view = replace(file, ino=4, size=15 * BLOCK, extents=(window,))
    directory = kvfs1.Inode(
        ino=2, mode=stat.S_IFDIR | 0o711, nlink=2, uid=0, gid=0, size=0, atime_ns=1, mtime_ns=2, ctime_ns=3,
        map_kind=kvfs1.MapKind.NONE,
    )  # fmt: skip
    link = replace(directory, ino=5, mode=stat.S_IFLNK | 0o777, nlink=1, size=4)
    root = replace(directory, ino=1, mode=stat.S_IFDIR | 0o755)

    headers = [
        (0, 1, kvfs1.SegmentClass.LOG),
        (2, 5, kvfs1.SegmentClass.LOG),
        (4, 6, kvfs1.SegmentClass.CHECKPOINT),
        (9, 7, kvfs1.SegmentClass.CHECKPOINT),
        (data_segment, data_generation, kvfs1.SegmentClass.DATA),
    ]
    for segment, generation, kind in headers:
        header = kvfs1.SegmentHeader(uuid=golden.UUID, segment=segment, generation=generation, segment_class=kind)
        disk.write(segment, 0, header.pack())

    def lay(segment: int, generation: int, sequence: int, contents: list[list[kvfs1.Record]], flags: int = 0) -> None:
        offset = BLOCK
        for index, records in enumerate(contents):
            frame = kvfs1.make_frame(
                records, uuid=golden.UUID, generation=generation, sequence=sequence + index, offset=offset,
                flags=flags if index == len(contents) - 1 else 0,
            )  # fmt: skip
            disk.write(segment, offset, frame.pack())
            offset += frame.disk_bytes

    opened = kvfs1.SegmentOpen(data_segment, data_generation, kvfs1.SegmentClass.DATA)
    lay(4, 6, 1, [[opened, root, directory], [kvfs1.NameSet(1, 2, b"dir")], [kvfs1.Next(9, 7)]])
    lay(9, 7, 4, [[file, kvfs1.NameSet(2, 3, b"old"), kvfs1.Atime(1, 1)]], kvfs1.FrameFlags.CHECKPOINT_END)
    log = [
        [view, kvfs1.NameSet(1, 4, b"view"), kvfs1.XattrSet(4, b"user.k", b"v"), kvfs1.XattrSet(4, b"user.gone", b"")],
        [kvfs1.NameDelete(2, b"old"), kvfs1.NameSet(2, 3, b"new"), kvfs1.XattrDelete(4, b"user.gone")],
        [kvfs1.SegmentOpen(2, 5, kvfs1.SegmentClass.LOG), kvfs1.Next(2, 5)],
    ]
    lay(0, 1, 41, log)
    lay(2, 5, 44, [[link, kvfs1.Symlink(5, b"dir/"), kvfs1.NameSet(1, 5, b"link"), kvfs1.Atime(3, 77)]])
    superblock = replace(
        SUPERBLOCK, checkpoint_segment=4, checkpoint_generation=6, checkpoint_bytes=4 * BLOCK, log_sequence=41
    )
    for copy, offset in enumerate(kvfs1.superblock_offsets(golden.VOLUME_BYTES).values()):
        put(blank, offset, replace(superblock, copy=copy).pack())

    report = _native.check(os.fspath(blank))
    assert report["problems"] == []
    assert (report["files"], report["directories"]) == (3, 2), "what is no directory counts as a file"

    store = _native.Store(os.fspath(blank), read_only=True)
    try:
        inner = store.lookup(1, b"dir")
        assert inner is not None
        assert inner[:6] == (2, inner[1], stat.S_IFDIR | 0o711, 2, 0, 0)
        assert store.lookup(2, b"old") is None
        attr = store.lookup(2, b"new")
        assert attr is not None
        assert (attr[0], *attr[2:6], attr[7]) == (3, FILE_MODE, 1, 1, 2, len(data) - 5)
        assert attr[9:] == (77, 20, 30)
        assert read(store, 3, 0, 1 * MIB) == data[:-5]
        assert read(store, 3, granule - 10, 20) == data[granule - 10 : granule + 10]
        assert read(store, 4, 0, 1 * MIB) == bytes(5 * BLOCK) + data[60 * BLOCK : 70 * BLOCK]
        assert store.listxattr(4) == [b"user.k"]
        assert store.getxattr(4, b"user.k") == b"v"
        assert store.lookup(1, b"link") is not None
        assert store.readlink(5) == b"dir/"
        assert store.completions() == []
    finally:
        store.close()
