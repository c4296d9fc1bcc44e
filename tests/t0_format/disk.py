"""A KVFS1 volume's file, read and written block by block with kvfs.store.format."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from kvfs.store import format as kvfs1


@dataclass(frozen=True)
class Disk:
    """Random access to the volume in the file at ``path``; ``superblock`` gives uuid and geometry."""

    path: Path
    superblock: kvfs1.Superblock

    @classmethod
    def open(cls, path: Path) -> "Disk":
        """Of the newest of the three copies, all of which have to be valid."""
        size = path.stat().st_size
        with path.open("rb") as file:
            copies = []
            for offset in kvfs1.superblock_offsets(size).values():
                file.seek(offset)
                copies.append(kvfs1.Superblock.parse(file.read(kvfs1.BLOCK)))
        return cls(path, max(copies, key=lambda copy: copy.sequence))

    def position(self, segment: int, offset: int) -> int:
        """Where byte ``offset`` of ``segment`` lies."""
        assert segment < self.superblock.segment_count
        return self.superblock.first_segment + segment * self.superblock.segment_size + offset

    def read(self, segment: int, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.position(segment, offset))
            return file.read(size)

    def write(self, segment: int, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.position(segment, offset))
            file.write(data)

    def segment_header(self, segment: int) -> kvfs1.SegmentHeader:
        return kvfs1.SegmentHeader.parse(self.read(segment, 0, kvfs1.BLOCK))

    def checksum(self, data: bytes, segment: int, generation: int, block: int) -> int:
        """Of one granule of file data that starts at ``block``: XXH3-64, seeded with the hash of its place."""
        numbers = (segment, generation, block)
        place = self.superblock.uuid + b"".join(number.to_bytes(8, "little") for number in numbers)
        return xxhash.xxh3_64_intdigest(data, seed=xxhash.xxh3_64_intdigest(place))

    def frames(self, segment: int, generation: int, offset: int, sequence: int) -> Iterator[tuple[int, kvfs1.Frame]]:
        """Each frame of the stream that starts there, with its segment; to the end of the log or the checkpoint."""
        while True:
            size = self.superblock.segment_size
            try:
                frame = kvfs1.Frame.parse(self.read(segment, offset, size - offset))
            except kvfs1.FormatError:
                return
            expected = (self.superblock.uuid, generation, sequence, offset)
            if (frame.uuid, frame.generation, frame.sequence, frame.offset) != expected:
                return
            yield segment, frame
            if frame.flags & kvfs1.FrameFlags.CHECKPOINT_END:
                return
            sequence += 1
            offset += frame.disk_bytes
            jump = [record for record in frame.records() if isinstance(record, kvfs1.Next)]
            if jump:
                segment, generation, offset = jump[-1].segment, jump[-1].generation, kvfs1.BLOCK

    def log(self) -> Iterator[tuple[int, kvfs1.Frame]]:
        sb = self.superblock
        return self.frames(sb.log_segment, sb.log_generation, sb.log_offset, sb.log_sequence)

    def checkpoint(self) -> Iterator[tuple[int, kvfs1.Frame]]:
        sb = self.superblock
        if sb.checkpoint_segment == kvfs1.NO_SEGMENT:
            return iter(())
        return self.frames(sb.checkpoint_segment, sb.checkpoint_generation, kvfs1.BLOCK, 1)

    def records(self) -> list[kvfs1.Record]:
        """All that recovery would replay, in order."""
        frames = [*self.checkpoint(), *self.log()]
        return [record for _, frame in frames for record in frame.records()]

    def extent_data(self, extent: kvfs1.Extent) -> bytes:
        """The blocks that a file sees of ``extent``; AssertionError when a granule does not match its checksum."""
        run = self.read(extent.segment, extent.block * kvfs1.BLOCK, extent.run_blocks * kvfs1.BLOCK)
        granule = kvfs1.GRANULE_BLOCKS * kvfs1.BLOCK
        for index, expected in enumerate(extent.checksums):
            data = run[index * granule : (index + 1) * granule]
            block = extent.block + index * kvfs1.GRANULE_BLOCKS
            assert self.checksum(data, extent.segment, extent.generation, block) == expected
        return run[extent.skip * kvfs1.BLOCK : (extent.skip + extent.blocks) * kvfs1.BLOCK]
