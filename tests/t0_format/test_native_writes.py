"""What the native side writes is KVFS1 as kvfs.store.format has it, down to the checksums of file data."""

import os
import select
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import pytest
from disk import Disk

from kvfs import _native
from kvfs.store import format as kvfs1

MIB = 1 << 20
BLOCK = kvfs1.BLOCK
FILE_MODE = stat.S_IFREG | 0o640
PATTERN = b"".join(number.to_bytes(8, "little") for number in range(200_000))  # 1.6 MB: four granules and a part


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "golden.kvfs"
    path.touch()
    os.truncate(path, golden.VOLUME_BYTES)
    _native.format_store(os.fspath(path), golden.VOLUME_BYTES, MIB, "ein Etikett é", golden.UUID)
    return path


def wait(store: _native.Store, token: int, result: Any) -> Any:
    while result is None:
        assert select.select([store.eventfd], [], [], 30)[0], "no completion within 30 s"
        result = dict(store.completions()).get(token)
    assert not isinstance(result, int) or result >= 0, os.strerror(-result)
    return result


def write_file(store: _native.Store, parent: int, name: bytes, pieces: list[tuple[int, bytes]]) -> int:
    ino = store.create(parent, name, FILE_MODE, 5, 6)[0]
    store.open(ino, True)
    for offset, data in pieces:
        assert wait(store, 1, store.write(ino, offset, data, 1)) == len(data)
    wait(store, 2, store.fsync(ino, 2))
    store.release(ino, True)
    return ino


def test_an_empty_volume(volume: Path) -> None:
    with volume.open("rb") as file:
        for copy, offset in enumerate(kvfs1.superblock_offsets(golden.VOLUME_BYTES).values()):
            file.seek(offset)
            block = file.read(BLOCK)
            found = kvfs1.Superblock.parse(block)
            assert found.pack() == block
            assert found == kvfs1.Superblock(
                uuid=golden.UUID, store_uuid=golden.UUID, size=golden.VOLUME_BYTES, segment_size=MIB,
                segment_count=golden.SEGMENTS, sequence=found.sequence, created_ns=found.created_ns,
                written_ns=found.created_ns, flags=kvfs1.SuperblockFlags.CLEAN, copy=copy,
                log_generation=found.log_generation, label="ein Etikett é",
            )  # fmt: skip
    disk = Disk.open(volume)
    header = disk.segment_header(0)
    assert header == kvfs1.SegmentHeader(
        uuid=golden.UUID, segment=0, generation=disk.superblock.log_generation, segment_class=kvfs1.SegmentClass.LOG,
        opened_ns=disk.superblock.created_ns,
    )  # fmt: skip
    assert header.pack() == disk.read(0, 0, BLOCK)
    assert disk.records() == []


def populate(store: _native.Store) -> dict[str, int]:
    """Something of every record type; the inode numbers by name."""
    directory = store.mkdir(1, b"dir", stat.S_IFDIR | 0o750, 3, 4)[0]
    page = write_file(store, directory, b"page", [(0, PATTERN)])
    sparse = write_file(store, 1, b"sparse", [(3 * BLOCK, b"a" * BLOCK), (50 * BLOCK + 7, b"b" * 100)])
    doomed = write_file(store, 1, b"doomed", [(0, b"x")])
    link = store.symlink(1, b"link", b"dir/page", 7, 8)[0]
    store.setxattr(page, b"user.a", b"\0value")
    store.setxattr(page, b"user.b", b"")
    store.removexattr(page, b"user.b")
    store.unlink(1, b"doomed")
    wait(store, 3, store.rename(directory, b"page", 1, b"page2", 0, 3))
    store.link(page, directory, b"hard")
    wait(store, 4, store.sync(4))
    return {"dir": directory, "page": page, "sparse": sparse, "doomed": doomed, "link": link}


class Replay:
    """What the records add up to; the simplest recovery there can be."""

    def __init__(self, records: list[kvfs1.Record]) -> None:
        self.inodes: dict[int, kvfs1.Inode] = {}
        self.extents: dict[int, list[kvfs1.Extent]] = {}
        self.names: dict[tuple[int, bytes], int] = {}
        self.xattrs: dict[tuple[int, bytes], bytes] = {}
        self.targets: dict[int, bytes] = {}
        self.segments: dict[int, kvfs1.SegmentOpen] = {}
        for record in records:
            self.apply(record)

    def apply(self, record: kvfs1.Record) -> None:
        match record:
            case kvfs1.Inode(ino=ino, map_kind=kind):
                self.inodes[ino] = record
                if kind is not kvfs1.MapKind.NONE:
                    # these tests write every block once, so that what is laid over is never there before
                    kept = [] if kind is kvfs1.MapKind.FULL else self.extents.get(ino, [])
                    kept = [extent for extent in kept if extent.logical < record.keep_blocks]
                    self.extents[ino] = kept + list(record.extents)
            case kvfs1.InodeDelete(ino):
                self.inodes.pop(ino, None)
                self.extents.pop(ino, None)
                self.xattrs = {key: value for key, value in self.xattrs.items() if key[0] != ino}
            case kvfs1.NameSet(parent, ino, name):
                self.names[parent, name] = ino
            case kvfs1.NameDelete(parent, name):
                self.names.pop((parent, name), None)
            case kvfs1.XattrSet(ino, name, value):
                self.xattrs[ino, name] = value
            case kvfs1.XattrDelete(ino, name):
                self.xattrs.pop((ino, name), None)
            case kvfs1.Symlink(ino, target):
                self.targets[ino] = target
            case kvfs1.SegmentOpen(segment):
                self.segments[segment] = record
            case kvfs1.Atime(ino, atime_ns):
                if ino in self.inodes:
                    self.inodes[ino] = replace(self.inodes[ino], atime_ns=atime_ns)


def check_populated(disk: Disk, numbers: dict[str, int]) -> None:
    state = Replay(disk.records())
    assert state.names == {
        (1, b"dir"): numbers["dir"],
        (1, b"page2"): numbers["page"],
        (numbers["dir"], b"hard"): numbers["page"],
        (1, b"sparse"): numbers["sparse"],
        (1, b"link"): numbers["link"],
    }
    assert numbers["doomed"] not in state.inodes
    assert state.targets == {numbers["link"]: b"dir/page"}
    assert state.xattrs == {(numbers["page"], b"user.a"): b"\0value"}
    directory, page, sparse = (state.inodes[numbers[name]] for name in ("dir", "page", "sparse"))
    assert (directory.mode, directory.uid, directory.gid) == (stat.S_IFDIR | 0o750, 3, 4)
    assert (page.mode, page.uid, page.gid, page.size, page.nlink) == (FILE_MODE, 5, 6, len(PATTERN), 2)
    assert sparse.size == 50 * BLOCK + 107

    content = bytearray(-(-len(PATTERN) // BLOCK) * BLOCK)
    for extent in state.extents[page.ino]:
        content[extent.logical * BLOCK : (extent.logical + extent.blocks) * BLOCK] = disk.extent_data(extent)
    assert content[: len(PATTERN)] == PATTERN
    assert not any(content[len(PATTERN) :]), "the last block is padded with zeros"
    blocks = {
        extent.logical + index: disk.extent_data(extent)[index * BLOCK : (index + 1) * BLOCK]
        for extent in state.extents[sparse.ino]
        for index in range(extent.blocks)
    }
    assert blocks == {3: b"a" * BLOCK, 50: bytes(7) + b"b" * 100 + bytes(BLOCK - 107)}

    for extent in (extent for extents in state.extents.values() for extent in extents):
        header = disk.segment_header(extent.segment)
        assert header.uuid == golden.UUID
        assert header.segment == extent.segment
        assert header.generation == extent.generation == state.segments[extent.segment].generation
        assert header.segment_class == kvfs1.SegmentClass.DATA
        assert header.epoch == extent.generation >> 32, "a generation starts with the epoch of the mount that made it"
        assert header.pack() == disk.read(extent.segment, 0, BLOCK)


def test_the_log(volume: Path, tmp_path: Path) -> None:
    store = _native.Store(os.fspath(volume), owner='{"pid": 1}')
    try:
        numbers = populate(store)
        copy = tmp_path / "crashed.kvfs"
        copy.write_bytes(volume.read_bytes())
    finally:
        store.close()
    disk = Disk.open(copy)
    assert not disk.superblock.flags & kvfs1.SuperblockFlags.CLEAN
    assert disk.superblock.owner == '{"pid": 1}'
    assert disk.superblock.epoch == 1
    assert disk.superblock.checkpoint_segment == kvfs1.NO_SEGMENT
    frames = list(disk.log())
    assert frames
    for segment, frame in frames:
        assert frame.pack() == disk.read(segment, frame.offset, frame.disk_bytes)
        assert disk.segment_header(segment).segment_class == kvfs1.SegmentClass.LOG
        assert disk.segment_header(segment).generation == frame.generation
    check_populated(disk, numbers)


def test_the_checkpoint(volume: Path) -> None:
    store = _native.Store(os.fspath(volume))
    try:
        numbers = populate(store)
    finally:
        store.close()
    disk = Disk.open(volume)
    assert disk.superblock.flags & kvfs1.SuperblockFlags.CLEAN
    frames = list(disk.checkpoint())
    assert frames
    assert frames[-1][1].flags & kvfs1.FrameFlags.CHECKPOINT_END
    assert sum(frame.disk_bytes for _, frame in frames) == disk.superblock.checkpoint_bytes
    for segment, frame in frames:
        assert frame.pack() == disk.read(segment, frame.offset, frame.disk_bytes)
        assert disk.segment_header(segment).segment_class == kvfs1.SegmentClass.CHECKPOINT
    assert not any(frame.records() for _, frame in disk.log()), "nothing is left to replay after a clean close"
    check_populated(disk, numbers)


def test_generations_are_never_repeated(volume: Path) -> None:
    seen: set[int] = set()
    for epoch in range(1, 4):
        store = _native.Store(os.fspath(volume))
        try:
            write_file(store, 1, b"file %d" % epoch, [(0, b"data")])
        finally:
            store.close()
        disk = Disk.open(volume)
        assert disk.superblock.epoch == epoch
        fresh = {
            record.generation
            for record in disk.records()
            if isinstance(record, kvfs1.SegmentOpen) and record.generation >> 32 == epoch
        }
        assert fresh, "each mount opens segments of its own"
        assert not fresh & seen
        seen |= fresh
