"""KVFS1, the on-disk format, for administration and tests: the mirror of ``native/format/format.hpp``.

The data path never comes here. ``tests/t0_format`` holds golden bytes that both sides have to produce and to read::

    0              4 KiB     64 KiB               1 MiB                                 size - 4 KiB
    | superblock A |   ...   | superblock B | ... | segment 0 | segment 1 | ... | slack | superblock end |

    between A and B  | 8 KiB beat | 12 KiB claim |: host marks, or whatever was there before

    superblock      0 magic 8s | 8 version I | 12 crc I | 16 compat Q | 24 ro_compat Q | 32 incompat Q
    (4 KiB)        40 uuid 16s | 56 size Q | 64 segment_size Q | 72 segment_count Q | 80 first_segment Q
                   88 sequence Q | 96 epoch Q | 104 created_ns q | 112 written_ns q | 120 flags I | 124 copy I
                  128 checkpoint_segment Q | 136 checkpoint_generation Q | 144 checkpoint_bytes Q
                  152 log_segment Q | 160 log_generation Q | 168 log_offset Q | 176 log_sequence Q
                  184 namespace_index I | 188 namespace_count I | 192 store_uuid 16s | 208 host_uuid 16s
                  224 label 64s | 288 owner_bytes I | 292 0 I | 296 owner 2048s | 2344 zeros

    host mark       0 magic 8s | 8 version I | 12 crc I | 16 uuid 16s | 32 host_uuid 16s | 48 epoch Q | 56 count Q
    (4 KiB)        64 written_ns q | 72 state I | 76 owner_bytes I | 80 host_name 64s | 144 owner 2048s | 2192 zeros

    segment         | header 4 KiB | payload ...                                                    |
    (header)        0 magic 8s | 8 version I | 12 crc I | 16 uuid 16s | 32 segment Q | 40 generation Q
                   48 host_uuid 16s | 64 epoch Q | 72 segment_class I | 76 0 I | 80 opened_ns q | 88 zeros

    data            payload = 4 KiB blocks of file data, in runs; a run has one checksum per 64 blocks
    log, checkpoint payload = | frame | frame | ...

    frame           | header 64 B | record | record | ... | zeros to the next 4 KiB |
    (header)        0 magic I | 4 crc I | 8 payload_bytes I | 12 record_count I | 16 uuid 16s | 32 generation Q
                   40 sequence Q | 48 offset Q | 56 flags I | 60 unflushed I

    record          | type H | 0 H | body_bytes I | body |

All integers are little-endian, nothing is padded except where zeros are drawn. A crc is crc32c of the 4 KiB block, or
of a frame's header and payload, taken with the crc field zero. Checksums of file data are XXH3-64, seeded with the
XXH3-64 of the packed (uuid, segment Q, generation Q, block Q).
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar, Self, TypeAlias, get_args

VERSION = 1
BLOCK = 4096
SUPERBLOCK_A = 0
HOST_BEAT = 8 * 1024
HOST_CLAIM = 12 * 1024
SUPERBLOCK_B = 64 * 1024
FIRST_SEGMENT = 1024 * 1024
MIN_SEGMENT = 1024 * 1024
MAX_SEGMENT = 256 * 1024 * 1024
MIN_SEGMENTS = 12
MIN_VOLUME = FIRST_SEGMENT + MIN_SEGMENTS * MIN_SEGMENT + BLOCK
GRANULE_BLOCKS = 64
NO_SEGMENT = 2**64 - 1
HOLE_SEGMENT = 2**32 - 1  # of an Extent that unmaps its blocks
INCOMPAT_HOLE_EXTENTS = 1  # such extents may occur; set by the first writable mount
KNOWN_INCOMPAT = INCOMPAT_HOLE_EXTENTS
COMPAT_OWNED_BY_HOST = 1  # host_uuid names a host, and not one mount
OWNER_MAX = 2048
LABEL_MAX = 63  # bytes, and at least one zero
HOST_NAME_MAX = 63
NAME_MAX = 255

SUPERBLOCK_MAGIC = b"KVFSSB1\0"
HOST_MARK_MAGIC = b"KVFSOWN\0"
SEGMENT_MAGIC = b"KVFSSEG\0"
FRAME_MAGIC = 0x464C564B  # "KVLF" on disk

_SUPERBLOCK = struct.Struct("<8sII QQQ 16s QQQQ QQqq II QQQ QQQQ II 16s 16s 64s II 2048s 1752x")
_HOST_MARK = struct.Struct("<8sII 16s 16s QQq II 64s 2048s 1904x")
_SEGMENT_HEADER = struct.Struct("<8sII 16s QQ 16s Q II q 4008x")
_FRAME_HEADER = struct.Struct("<IIII 16s QQQ II")
_RECORD_HEADER = struct.Struct("<HHI")
_INODE = struct.Struct("<Q IIII Q qqq II Q")
_EXTENT = struct.Struct("<QQ IIIIII")
assert _SUPERBLOCK.size == _HOST_MARK.size == _SEGMENT_HEADER.size == BLOCK
assert _FRAME_HEADER.size == 64
assert _RECORD_HEADER.size == 8
assert _INODE.size == 72
assert _EXTENT.size == 40

_BLOCK_CRC = slice(12, 16)
_FRAME_CRC = slice(4, 8)


class FormatError(ValueError):
    """Bytes that are not what KVFS1 has there; the message says what was expected and what was found."""


class BadMagic(FormatError):
    """Not the kind of block that was looked for."""


class BadChecksum(FormatError):
    """The right kind of block, damaged."""


class TooNew(FormatError):
    """Written by a later version of kvfs."""


class SuperblockFlags(IntFlag):
    CLEAN = 1


class HostState(IntEnum):
    HOLDS = 1
    YIELDS = 2  # of a beat: this mount lost the volume, and writes nothing any more


class FrameFlags(IntFlag):
    CHECKPOINT_END = 1


class SegmentClass(IntEnum):
    DATA = 1
    LOG = 2
    CHECKPOINT = 3


class MapKind(IntEnum):
    NONE = 0  # attributes only, the extents stay as they are
    FULL = 1  # these extents are all there are
    DELTA = 2  # what lies at or after keep_blocks goes, then these extents are laid over the rest


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(data: bytes | bytearray | memoryview, previous: int = 0) -> int:
    """Castagnoli's CRC as in RFC 3720 B.4; ``previous`` continues an earlier call. About 10 MB/s."""
    crc = previous ^ 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _sealed(data: bytes, crc_field: slice) -> bytes:
    """``data``, whose crc field is zero, with its crc filled in."""
    out = bytearray(data)
    out[crc_field] = crc32c(out).to_bytes(4, "little")
    return bytes(out)


def _check_crc(data: bytes, crc_field: slice) -> None:
    blank = bytearray(data)
    blank[crc_field] = bytes(4)
    expected, found = crc32c(blank), int.from_bytes(data[crc_field], "little")
    if expected != found:
        raise BadChecksum(f"expected crc32c {expected:08x}, found {found:08x}")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def round_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def superblock_offsets(volume_bytes: int) -> dict[str, int]:
    """Where the three copies lie, by name."""
    return {"A": SUPERBLOCK_A, "B": SUPERBLOCK_B, "end": max(0, volume_bytes // BLOCK * BLOCK - BLOCK)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """One of three copies; of the valid ones that with the highest ``(epoch, sequence)`` counts."""

    version: int = VERSION
    compat: int = 0
    ro_compat: int = 0
    incompat: int = 0
    uuid: bytes
    size: int
    segment_size: int
    segment_count: int
    first_segment: int = FIRST_SEGMENT
    sequence: int = 1
    epoch: int = 0
    created_ns: int = 0
    written_ns: int = 0
    flags: int = 0  # SuperblockFlags
    copy: int = 0
    checkpoint_segment: int = NO_SEGMENT
    checkpoint_generation: int = 0
    checkpoint_bytes: int = 0
    log_segment: int = 0
    log_generation: int = 0
    log_offset: int = BLOCK
    log_sequence: int = 1
    namespace_index: int = 0
    namespace_count: int = 1
    store_uuid: bytes
    host_uuid: bytes = bytes(16)
    label: str = ""
    owner: str = ""

    def pack(self) -> bytes:
        """The 4 KiB block. ValueError when label or owner are too long."""
        label, owner = self.label.encode(), self.owner.encode()
        if len(label) > LABEL_MAX or len(owner) > OWNER_MAX:
            raise ValueError(f"expected at most {LABEL_MAX} B of label, {OWNER_MAX} B of owner")
        # fmt: off
        return _sealed(_SUPERBLOCK.pack(
            SUPERBLOCK_MAGIC, self.version, 0, self.compat, self.ro_compat, self.incompat, self.uuid,
            self.size, self.segment_size, self.segment_count, self.first_segment,
            self.sequence, self.epoch, self.created_ns, self.written_ns, self.flags, self.copy,
            self.checkpoint_segment, self.checkpoint_generation, self.checkpoint_bytes,
            self.log_segment, self.log_generation, self.log_offset, self.log_sequence,
            self.namespace_index, self.namespace_count, self.store_uuid, self.host_uuid,
            label, len(owner), 0, owner), _BLOCK_CRC)
        # fmt: on

    @classmethod
    def parse(cls, block: bytes) -> Self:
        """From 4 KiB. BadMagic, BadChecksum or TooNew, each with what was expected and found."""
        if block[:8] != SUPERBLOCK_MAGIC:
            raise BadMagic(f"expected the magic {SUPERBLOCK_MAGIC[:7].decode()}, found {block[:8].hex()}")
        _check_crc(block, _BLOCK_CRC)
        _, version, _, *middle, label, owner_bytes, _, owner = _SUPERBLOCK.unpack(block)
        values = [version, *middle, _text(label.rstrip(b"\0")), _text(owner[:owner_bytes])]
        superblock = cls(**dict(zip(cls.__slots__, values, strict=True)))
        if version > VERSION:
            raise TooNew(f"expected format version {VERSION} or older, found {version}")
        if superblock.incompat & ~KNOWN_INCOMPAT:
            raise TooNew(
                f"expected no incompatible features beyond {KNOWN_INCOMPAT:x}, found bits {superblock.incompat:x}"
            )
        return superblock


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMark:
    """A host's word about itself: the owner's beat, or the claim of one that takes the volume over."""

    version: int = VERSION
    uuid: bytes
    host_uuid: bytes
    epoch: int
    count: int = 0
    written_ns: int = 0
    state: HostState = HostState.HOLDS
    host_name: str = ""
    owner: str = ""

    def pack(self) -> bytes:
        """The 4 KiB block. ValueError when name or owner are too long."""
        name, owner = self.host_name.encode(), self.owner.encode()
        if len(name) > HOST_NAME_MAX or len(owner) > OWNER_MAX:
            raise ValueError(f"expected at most {HOST_NAME_MAX} B of host name, {OWNER_MAX} B of owner")
        # fmt: off
        return _sealed(_HOST_MARK.pack(
            HOST_MARK_MAGIC, self.version, 0, self.uuid, self.host_uuid, self.epoch, self.count, self.written_ns,
            self.state, len(owner), name, owner), _BLOCK_CRC)
        # fmt: on

    @classmethod
    def parse(cls, block: bytes) -> Self:
        """From 4 KiB. BadMagic, BadChecksum; FormatError for a state that there is not."""
        # fmt: off
        magic, version, _, uuid, host, epoch, count, written_ns, state, owner_bytes, name, owner = (
            _HOST_MARK.unpack(block))
        # fmt: on
        if magic != HOST_MARK_MAGIC:
            raise BadMagic(f"expected the magic {HOST_MARK_MAGIC[:7].decode()}, found {magic.hex()}")
        _check_crc(block, _BLOCK_CRC)
        if state not in HostState._value2member_map_:
            raise FormatError(f"expected a host state from 1 to {max(HostState)}, found {state}")
        # fmt: off
        return cls(version=version, uuid=uuid, host_uuid=host, epoch=epoch, count=count, written_ns=written_ns,
                   state=HostState(state), host_name=_text(name.rstrip(b"\0")), owner=_text(owner[:owner_bytes]))
        # fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """The first block of every segment in use. A generation is never repeated: mount epoch << 32 | counter."""

    version: int = VERSION
    uuid: bytes
    segment: int
    generation: int
    host_uuid: bytes = bytes(16)
    epoch: int = 0
    segment_class: SegmentClass
    opened_ns: int = 0

    def pack(self) -> bytes:
        # fmt: off
        return _sealed(_SEGMENT_HEADER.pack(
            SEGMENT_MAGIC, self.version, 0, self.uuid, self.segment, self.generation,
            self.host_uuid, self.epoch, self.segment_class, 0, self.opened_ns), _BLOCK_CRC)
        # fmt: on

    @classmethod
    def parse(cls, block: bytes) -> Self:
        """From 4 KiB. BadMagic, BadChecksum; FormatError for a class that there is not."""
        magic, version, _, uuid, segment, generation, host, epoch, kind, _, opened_ns = _SEGMENT_HEADER.unpack(block)
        if magic != SEGMENT_MAGIC:
            raise BadMagic(f"expected the magic {SEGMENT_MAGIC[:7].decode()}, found {magic.hex()}")
        _check_crc(block, _BLOCK_CRC)
        if kind not in SegmentClass._value2member_map_:
            raise FormatError(f"expected a segment class from 1 to {max(SegmentClass)}, found {kind}")
        # fmt: off
        return cls(version=version, uuid=uuid, segment=segment, generation=generation, host_uuid=host, epoch=epoch,
                   segment_class=SegmentClass(kind), opened_ns=opened_ns)
        # fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The atom of the log, replayed whole or not at all. Its place inside makes a stale or misplaced one invalid."""

    uuid: bytes
    generation: int  # of the segment that it lies in
    sequence: int  # one more than the frame before it, across segments
    offset: int  # bytes from the start of the segment
    flags: int = 0  # FrameFlags
    unflushed: int = 0  # 1 + how many frames right before it were not known to be on the medium; 0: not said
    record_count: int
    payload: bytes

    @property
    def disk_bytes(self) -> int:
        return round_up(_FRAME_HEADER.size + len(self.payload), BLOCK)

    def pack(self) -> bytes:
        """Whole blocks, zero-padded."""
        # fmt: off
        header = _FRAME_HEADER.pack(FRAME_MAGIC, 0, len(self.payload), self.record_count, self.uuid, self.generation,
                                    self.sequence, self.offset, self.flags, self.unflushed)
        # fmt: on
        return _sealed(header + self.payload, _FRAME_CRC).ljust(self.disk_bytes, b"\0")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that start with a frame. BadMagic; BadChecksum also when ``data`` ends before the frame does.

        Whether this is the frame that belongs here (uuid, generation, sequence, offset) is the caller's to compare.
        """
        if len(data) < _FRAME_HEADER.size or int.from_bytes(data[:4], "little") != FRAME_MAGIC:
            raise BadMagic(f"expected the magic {FRAME_MAGIC.to_bytes(4, 'little').decode()}, found {data[:4].hex()}")
        _, _, size, count, uuid, generation, sequence, offset, flags, unflushed = _FRAME_HEADER.unpack_from(data)
        end = _FRAME_HEADER.size + size
        if len(data) < end:
            raise BadChecksum(f"expected a frame of {end} bytes, found {len(data)}")
        _check_crc(data[:end], _FRAME_CRC)
        # fmt: off
        return cls(uuid=uuid, generation=generation, sequence=sequence, offset=offset, flags=flags,
                   unflushed=unflushed, record_count=count, payload=data[_FRAME_HEADER.size:end])
        # fmt: on

    def records(self) -> list["Record"]:
        """FormatError when the payload is not ``record_count`` well-formed records."""
        records = list(parse_records(self.payload))
        if len(records) != self.record_count:
            raise FormatError(f"expected {self.record_count} records, found {len(records)}")
        return records


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """``blocks`` blocks of a file from ``logical`` on lie ``skip`` blocks into a run of ``run_blocks`` blocks that
    starts at ``block`` of ``segment``. The run is what the checksums cover, one per 64 blocks of it. In a hole (see
    :meth:`hole`) the blocks lie nowhere."""

    logical: int
    generation: int
    segment: int
    block: int
    blocks: int
    skip: int = 0
    run_blocks: int
    checksums: tuple[int, ...]

    @classmethod
    def hole(cls, logical: int, blocks: int) -> Self:
        """Unmaps ``blocks`` blocks from ``logical`` on: what was punched out of a map that is written as a delta."""
        return cls(
            logical=logical, generation=0, segment=HOLE_SEGMENT, block=0, blocks=blocks, run_blocks=0, checksums=()
        )

    @property
    def is_hole(self) -> bool:
        return self.segment == HOLE_SEGMENT

    def pack(self) -> bytes:
        # fmt: off
        body = _EXTENT.pack(self.logical, self.generation, self.segment, self.block, self.blocks, self.skip,
                            self.run_blocks, 0)
        # fmt: on
        return body + struct.pack(f"<{len(self.checksums)}Q", *self.checksums)

    @classmethod
    def parse(cls, body: bytes, at: int) -> tuple[Self, int]:
        """The extent at ``body[at:]`` and where the next one starts."""
        logical, generation, segment, block, blocks, skip, run_blocks, _ = _EXTENT.unpack_from(body, at)
        is_hole = segment == HOLE_SEGMENT
        if is_hole and (blocks == 0 or generation or block or skip or run_blocks):
            raise FormatError(f"expected a hole to have a place in the file only, found a run of {run_blocks} blocks")
        if not is_hole and (blocks == 0 or skip + blocks > run_blocks):
            raise FormatError(f"expected a view of {run_blocks} blocks, found {blocks} from {skip} on")
        granules = round_up(run_blocks, GRANULE_BLOCKS) // GRANULE_BLOCKS
        checksums = struct.unpack_from(f"<{granules}Q", body, at + _EXTENT.size)
        # fmt: off
        extent = cls(logical=logical, generation=generation, segment=segment, block=block, blocks=blocks, skip=skip,
                     run_blocks=run_blocks, checksums=checksums)
        # fmt: on
        return extent, at + _EXTENT.size + granules * 8


class _PlainRecord:
    """A record whose body is ``HEAD``, then, when the last field is bytes, those up to its end."""

    __slots__: ClassVar[tuple[str, ...]] = ()
    HEAD: ClassVar[struct.Struct]

    def body(self) -> bytes:
        values = [getattr(self, name) for name in self.__slots__]
        tail = values.pop() if isinstance(values[-1], bytes) else b""
        return self.HEAD.pack(*values) + tail

    @classmethod
    def parse(cls, body: bytes) -> Self:
        make: Callable[..., Self] = cls
        head = cls.HEAD.unpack_from(body)
        tail = body[cls.HEAD.size :]
        if len(head) < len(cls.__slots__):
            return make(*head, tail)
        if tail:
            raise FormatError(f"expected a record of {cls.HEAD.size} bytes, found {len(body)}")
        return make(*head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    TYPE: ClassVar = 1
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    map_kind: MapKind
    keep_blocks: int = 0
    extents: tuple[Extent, ...] = ()

    def body(self) -> bytes:
        # fmt: off
        head = _INODE.pack(self.ino, self.mode, self.nlink, self.uid, self.gid, self.size, self.atime_ns,
                           self.mtime_ns, self.ctime_ns, self.map_kind, len(self.extents), self.keep_blocks)
        # fmt: on
        return head + b"".join(extent.pack() for extent in self.extents)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        ino, mode, nlink, uid, gid, size, atime, mtime, ctime, kind, extent_count, keep = _INODE.unpack_from(body)
        extents, at = [], _INODE.size
        for _ in range(extent_count):
            extent, at = Extent.parse(body, at)
            extents.append(extent)
        if at != len(body):
            raise FormatError(f"expected an inode record of {at} bytes, found {len(body)}")
        # fmt: off
        return cls(ino=ino, mode=mode, nlink=nlink, uid=uid, gid=gid, size=size, atime_ns=atime, mtime_ns=mtime,
                   ctime_ns=ctime, map_kind=MapKind(kind), keep_blocks=keep, extents=tuple(extents))
        # fmt: on


@dataclass(frozen=True, slots=True)
class InodeDelete(_PlainRecord):
    TYPE: ClassVar = 2
    HEAD: ClassVar = struct.Struct("<Q")
    ino: int


@dataclass(frozen=True, slots=True)
class NameSet(_PlainRecord):
    TYPE: ClassVar = 3
    HEAD: ClassVar = struct.Struct("<QQ")
    parent: int
    ino: int
    name: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, slots=True)
class NameDelete(_PlainRecord):
    TYPE: ClassVar = 4
    HEAD: ClassVar = struct.Struct("<Q")
    parent: int
    name: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, slots=True)
class XattrSet:
    """Body: | ino Q | name bytes I | name | value |."""

    TYPE: ClassVar = 5
    HEAD: ClassVar = struct.Struct("<QI")
    ino: int
    name: bytes
    value: bytes

    def body(self) -> bytes:
        return self.HEAD.pack(self.ino, len(self.name)) + self.name + self.value

    @classmethod
    def parse(cls, body: bytes) -> Self:
        ino, size = cls.HEAD.unpack_from(body)
        rest = body[cls.HEAD.size :]
        if size > len(rest):
            raise FormatError(f"expected an attribute name of {size} bytes, found {len(rest)}")
        return cls(ino, rest[:size], rest[size:])


@dataclass(frozen=True, slots=True)
class XattrDelete(_PlainRecord):
    TYPE: ClassVar = 6
    HEAD: ClassVar = struct.Struct("<Q")
    ino: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Symlink(_PlainRecord):
    TYPE: ClassVar = 7
    HEAD: ClassVar = struct.Struct("<Q")
    ino: int
    target: bytes


@dataclass(frozen=True, slots=True)
class SegmentOpen(_PlainRecord):
    TYPE: ClassVar = 8
    HEAD: ClassVar = struct.Struct("<QQI4x")
    assert HEAD.size == 24
    segment: int
    generation: int
    segment_class: int  # SegmentClass


@dataclass(frozen=True, slots=True)
class Next(_PlainRecord):
    """The stream goes on in that segment."""

    TYPE: ClassVar = 9
    HEAD: ClassVar = struct.Struct("<QQ")
    segment: int
    generation: int


@dataclass(frozen=True, slots=True)
class Atime(_PlainRecord):
    TYPE: ClassVar = 10
    HEAD: ClassVar = struct.Struct("<Qq")
    ino: int
    atime_ns: int


Record: TypeAlias = (
    Inode | InodeDelete | NameSet | NameDelete | XattrSet | XattrDelete | Symlink | SegmentOpen | Next | Atime
)
_RECORDS: dict[int, type[Record]] = {kind.TYPE: kind for kind in get_args(Record)}


def pack_record(record: Record) -> bytes:
    body = record.body()
    return _RECORD_HEADER.pack(record.TYPE, 0, len(body)) + body


def parse_records(payload: bytes) -> Iterator[Record]:
    """FormatError at the first record that is not well formed."""
    at = 0
    while at < len(payload):
        if at + _RECORD_HEADER.size > len(payload):
            raise FormatError(f"expected a record, found {len(payload) - at} bytes")
        kind, _, size = _RECORD_HEADER.unpack_from(payload, at)
        at += _RECORD_HEADER.size
        if kind not in _RECORDS:
            raise FormatError(f"expected a record type from 1 to {max(_RECORDS)}, found {kind}")
        if at + size > len(payload):
            raise FormatError(f"expected a record of {size} bytes, found {len(payload) - at}")
        try:
            yield _RECORDS[kind].parse(payload[at : at + size])
        except FormatError:
            raise
        except (struct.error, ValueError) as exc:
            raise FormatError(f"expected a whole {_RECORDS[kind].__name__} record, found {size} bytes: {exc}") from exc
        at += size


def make_frame(records: Sequence[Record], *, uuid: bytes, generation: int, sequence: int, offset: int,
               flags: int = 0, unflushed: int = 0) -> Frame:  # fmt: skip
    payload = b"".join(map(pack_record, records))
    return Frame(uuid=uuid, generation=generation, sequence=sequence, offset=offset, flags=flags, unflushed=unflushed,
                 record_count=len(records), payload=payload)  # fmt: skip


def _check_name(name: bytes) -> None:
    if not 0 < len(name) <= NAME_MAX:
        raise FormatError(f"expected a name of 1 to {NAME_MAX} bytes, found {len(name)}")
