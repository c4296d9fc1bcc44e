"""Stores with a known history, and what may be found in them after damage.

``History`` has every content that each name ever had, in order. An undamaged image shows the last of each; a damaged
one may show less, and after a repair that gave up the end of the log an older one, but never anything else.
"""

import errno
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import BLOCK, INO, MIB, ROOT, Client, make_volume, still

from kvfs import _native
from kvfs.store import format as kvfs1

SIZE = 24 * MIB
COPIES = {"A": 0, "B": 64 * 1024, "end": SIZE - BLOCK}
GONE = None  # as a content: the name is not there
Contents = dict[str, list[bytes | None]]


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


@dataclass
class Image:
    """``path``: the store's file; ``old``: what it held in the middle of its history."""

    path: Path
    old: bytes
    history: Contents = field(default_factory=dict)

    @property
    def newest(self) -> dict[str, bytes | None]:
        return {name: contents[-1] for name, contents in self.history.items()}

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), data, offset)
            os.fsync(file.fileno())  # what is opened next reads past the page cache

    def copy(self, name: str) -> "Image":
        path = self.path.with_name(name)
        shutil.copyfile(self.path, path)
        return Image(path, self.old, self.history)

    # where things are ---------------------------------------------------------------------------

    def superblock(self) -> kvfs1.Superblock:
        end = self.path.stat().st_size - BLOCK
        found = [kvfs1.Superblock.parse(self.read(offset, BLOCK)) for offset in (0, COPIES["B"], end)]
        return max(found, key=lambda copy: copy.sequence)

    def offset(self, segment: int, byte: int = 0) -> int:
        return kvfs1.FIRST_SEGMENT + segment * MIB + byte

    def frames(self, *, checkpoint: bool) -> list[tuple[int, kvfs1.Frame]]:
        """(byte of the store, frame) of the log that follows the newest checkpoint, or of that."""
        sb = self.superblock()
        segment, generation, byte, sequence = (
            (sb.checkpoint_segment, sb.checkpoint_generation, BLOCK, 1)
            if checkpoint
            else (sb.log_segment, sb.log_generation, sb.log_offset, sb.log_sequence)
        )
        found: list[tuple[int, kvfs1.Frame]] = []
        while segment != kvfs1.NO_SEGMENT:
            at = self.offset(segment, byte)
            try:
                frame = kvfs1.Frame.parse(self.read(at, MIB - byte))
            except kvfs1.FormatError:
                break
            if (frame.generation, frame.sequence, frame.offset) != (generation, sequence, byte):
                break
            found.append((at, frame))
            if frame.flags & kvfs1.FrameFlags.CHECKPOINT_END:
                break
            sequence += 1
            byte += frame.disk_bytes
            for record in frame.records():
                if isinstance(record, kvfs1.Next):
                    segment, generation, byte = record.segment, record.generation, BLOCK
        return found

    def used_blocks(self) -> list[int]:
        """Bytes of the store at which a block lies that is not all zeros."""
        image = self.path.read_bytes()
        zeros = bytes(BLOCK)
        return [at for at in range(0, len(image), BLOCK) if image[at : at + BLOCK] != zeros]


def build(directory: Path) -> tuple[Image, Image]:
    """An image of a store that was closed in order, and one of a store that was killed after its last fsync.

    Both have a checkpoint and files of several kinds; the killed one also has a log of many frames, each of which was
    durable before the next one was written.
    """
    path = make_volume(directory / "building.kvfs", SIZE, MIB)
    history: Contents = {}

    def note(name: str, content: bytes | None) -> None:
        history.setdefault(name, [GONE]).append(content)

    client = Client(path)
    folder = client.store.mkdir(ROOT, b"dir", 0o40755, 0, 0)[INO]
    for number in range(12):
        data = noise(("first", number), 3000 + 40_000 * (number % 4))
        client.create(folder if number % 2 else ROOT, b"file %d" % number, data)
        note(f"{'dir/' if number % 2 else ''}file {number}", data)
    pool = client.create(ROOT, b"pool", noise("pool", 300_000))
    note("pool", noise("pool", 300_000))
    client.store.symlink(ROOT, b"link", b"dir/file 1", 0, 0)
    client.close()
    old = path.read_bytes()

    client = Client(path)
    for number in range(12, 24):
        data = noise(("second", number), 5000 + 30_000 * (number % 3))
        client.create(ROOT, b"tmp", data, durable=True)
        client.rename(ROOT, b"tmp", ROOT, b"file %d" % number)
        note(f"file {number}", data)
    for number in range(0, 12, 4):  # renamed over
        data = noise(("replaced", number), 20_000)
        client.create(ROOT, b"tmp", data, durable=True)
        client.rename(ROOT, b"tmp", ROOT, b"file %d" % number)
        note(f"file {number}", data)
    client.store.unlink(ROOT, b"file 6")
    note("file 6", GONE)
    pooled = bytearray(noise("pool", 300_000))
    for turn in range(4):
        piece = noise(("piece", turn), 3 * BLOCK)
        pooled[turn * 50_000 : turn * 50_000 + len(piece)] = piece
        with client.opened(pool, write=True):
            client.write(pool, turn * 50_000, piece)
            client.fsync(pool)
        note("pool", bytes(pooled))
    client.sync()
    killed = Image(directory / "killed.kvfs", old, history)
    killed.path.write_bytes(still(path))
    client.close()
    closed = Image(directory / "closed.kvfs", old, history)
    path.rename(closed.path)
    return closed, killed


# what is found ----------------------------------------------------------------------------------------


@dataclass
class Found:
    """``refused``: the text of the error; else what was read: ``contents`` has no name that could not be."""

    refused: str | None = None
    contents: dict[str, bytes | None] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    lines: list[tuple[int, str]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        return [text for level, text in self.lines if level >= 40]


def look(image: Image, *, read_only: bool) -> Found:
    """Open the store and read everything that it has. OSError of an errno that no damage should lead to."""
    found = Found()
    client = failure = None
    try:
        client = Client(image.path, read_only=read_only, buffer_bytes=8 * MIB, cache_bytes=MIB)
    except OSError as error:
        failure = error
    if client is None:
        assert failure is not None
        assert failure.errno in (errno.EUCLEAN, errno.EMEDIUMTYPE), failure
        assert re.search(r"expected .*found ", str(failure)), failure
        assert "\n" not in str(failure)
        found.refused = str(failure)
        return found
    try:
        for name, ino in files(client):
            try:
                found.contents[name] = client.read(ino)
                continue
            except OSError as error:
                failure = error
            assert failure.errno == errno.EIO, failure
            found.unreadable.add(name)
            if not read_only:
                parent, _, last = name.rpartition("/")
                folder = client.find(ROOT, os.fsencode(parent)) if parent else ROOT
                assert folder is not None
                assert client.store.lookup(folder, os.fsencode(last)) is None, "the next look is a clean miss"
        client.drain()
        found.lines = [(event[1], event[2]) for event in client.events if event[0] == "log"]
        found.statistics = client.store.statistics()
    finally:
        client.close()
    return found


def files(client: Client, folder: int = ROOT, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Path and inode of every regular file."""
    for name in client.names(folder):
        attr = client.store.lookup(folder, name)
        assert attr is not None
        client.store.forget(attr[INO], 1)
        if attr[2] & 0o170000 == 0o040000:
            yield from files(client, attr[INO], f"{prefix}{os.fsdecode(name)}/")
        elif attr[2] & 0o170000 == 0o100000:
            yield prefix + os.fsdecode(name), attr[INO]


def check_found(found: Found, image: Image, *, may_be_older: bool = False) -> None:
    """What was found is right: newest contents, whatever is missing accounted for.

    ``may_be_older``: the damage gave up, or hit, the end of the log; then contents of the past are right too.
    """
    if found.refused is not None:
        return
    for name, content in found.contents.items():
        if name.startswith("lost+found/") or name == "tmp":
            continue
        assert name in image.history, f"{name} never was"
        allowed = image.history[name] if may_be_older else [image.newest[name]]
        assert content in allowed, f"{name}: wrong bytes"
    missing = {name for name, content in image.newest.items() if content is not None} - set(found.contents)
    if found.unreadable:
        assert found.statistics["data"]["checksum_errors_total"] >= 1
        assert any("expected checksum" in text and "found" in text for text in found.errors)
    if not may_be_older:
        assert missing == found.unreadable, "a file is missing that nobody complained of"


@contextmanager
def damaged(image: Image, *changes: tuple[int, bytes]) -> Iterator[None]:
    """With these bytes at these places, and what was there afterwards; for stores that are opened read-only."""
    before = [(at, image.read(at, len(data))) for at, data in changes]
    for at, data in changes:
        image.write(at, data)
    try:
        yield
    finally:
        for at, data in reversed(before):
            image.write(at, data)


Damage = Callable[[Image, int, random.Random], list[tuple[int, bytes]]]


def flipped(image: Image, at: int, chance: random.Random) -> list[tuple[int, bytes]]:
    block = bytearray(image.read(at, BLOCK))
    # where there is something, for padding is not covered by any checksum and means nothing
    places = [n for n, byte in enumerate(block) if byte]
    block[chance.choice(places)] ^= 1 << chance.randrange(8)
    return [(at, bytes(block))]


def zeroed(image: Image, at: int, chance: random.Random) -> list[tuple[int, bytes]]:
    return [(at, bytes(BLOCK))]


def swapped(image: Image, at: int, chance: random.Random) -> list[tuple[int, bytes]]:
    other = chance.choice([block for block in image.used_blocks() if block != at])
    return [(at, image.read(other, BLOCK)), (other, image.read(at, BLOCK))]


def stale(image: Image, at: int, chance: random.Random) -> list[tuple[int, bytes]]:
    return [(at, image.old[at : at + BLOCK])]


DAMAGES: dict[str, Damage] = {"flipped": flipped, "zeroed": zeroed, "swapped": swapped, "stale": stale}


def repair(image: Image) -> dict[str, Any]:
    return _native.repair(os.fspath(image.path))
