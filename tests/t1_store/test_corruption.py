"""Never wrong bytes: what does not match its checksum is counted, logged, dropped, and never returned."""

import errno
import logging
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from client import BLOCK, INO, MIB, ROOT, Client, check_clean, fails, opened_volume

from kvfs import _native
from kvfs.store import format as kvfs1

OFFSETS = {"A": 0, "B": 64 * 1024, "end": 32 * MIB - BLOCK}
GRANULE = 64 * BLOCK


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, data: bytes, at: int) -> None:
    """Flip a bit of byte ``at`` of ``data``, found by its block on the device."""
    block = at // BLOCK * BLOCK
    image = path.read_bytes()
    where = image.index(data[block : block + BLOCK])
    assert where % BLOCK == 0
    assert image.count(data[block : block + BLOCK]) == 1
    patch(path, where + at - block, bytes([data[at] ^ 0x04]))


def events(client: Client, kind: str) -> list[tuple[object, ...]]:
    client.drain()
    return [event[1:] for event in client.events if event[0] == kind]


class TestFileData:
    SIZE = 3 * GRANULE + 100

    @pytest.fixture
    def pages(self, volume: Path) -> dict[bytes, bytes]:
        # the first one fits into one segment, so that its granules lie where its size says
        pages = {b"bad": noise("bad", self.SIZE), b"good": noise("good", self.SIZE)}
        with opened_volume(volume) as client:
            for name, data in pages.items():
                client.create(ROOT, name, data)
        return pages

    @pytest.mark.parametrize("at", [0, 1, GRANULE - 1, GRANULE, 2 * GRANULE + 77, 3 * GRANULE + 99])
    def test_a_flipped_bit(self, volume: Path, pages: dict[bytes, bytes], at: int) -> None:
        flip(volume, pages[b"bad"], at)
        client = Client(volume)
        try:
            used = client.used_blocks()
            ino = client.find(ROOT, b"bad")
            assert ino is not None
            client.store.open(ino, False)
            with fails(errno.EIO):
                client.read(ino, at // GRANULE * GRANULE, 10)
            assert client.store.lookup(ROOT, b"bad") is None, "the next look is a clean miss"
            assert client.names() == [b"good"]
            assert events(client, "drop") == [(ROOT, b"bad")]
            [(level, text)] = events(client, "log")
            assert level == logging.ERROR
            assert "expected" in text
            assert "found" in text
            assert "\n" not in text
            with fails(errno.EIO):
                client.read(ino, at, 1)
            client.store.release(ino, False)
            assert client.content(ROOT, b"good") == pages[b"good"]
            client.sync()
            assert client.used_blocks() == used // 2
        finally:
            client.close()
        check_clean(volume)
        with opened_volume(volume) as client:
            assert client.names() == [b"good"]

    def test_granules_that_are_right_are_still_read(self, volume: Path, pages: dict[bytes, bytes]) -> None:
        flip(volume, pages[b"bad"], 2 * GRANULE)
        client = Client(volume)
        try:
            ino = client.find(ROOT, b"bad")
            assert ino is not None
            assert client.read(ino, 0, 2 * GRANULE) == pages[b"bad"][: 2 * GRANULE]
            with fails(errno.EIO):
                client.read(ino, 0, 3 * GRANULE)
        finally:
            client.close()

    def test_a_block_that_is_intact_but_in_the_wrong_place(self, volume: Path, pages: dict[bytes, bytes]) -> None:
        """What a misdirected or lost write leaves: a block that was right, elsewhere."""
        image = volume.read_bytes()
        good, bad = (image.index(pages[name][:BLOCK]) for name in (b"good", b"bad"))
        patch(volume, bad, image[good : good + GRANULE])
        client = Client(volume)
        try:
            ino = client.find(ROOT, b"bad")
            assert ino is not None
            with fails(errno.EIO):
                client.read(ino)
            assert client.content(ROOT, b"good") == pages[b"good"]
        finally:
            client.close()

    def test_every_name_of_the_file_goes(self, volume: Path, pages: dict[bytes, bytes]) -> None:
        with opened_volume(volume) as client:
            directory = client.store.mkdir(ROOT, b"dir", 0o40755, 0, 0)[INO]
            ino = client.find(ROOT, b"bad")
            assert ino is not None
            client.store.link(ino, directory, b"link")
        flip(volume, pages[b"bad"], 5)
        client = Client(volume)
        try:
            with fails(errno.EIO):
                client.read(ino)
            assert sorted(events(client, "drop")) == [(ROOT, b"bad"), (directory, b"link")]
            assert client.names(directory) == []
        finally:
            client.close()
        check_clean(volume)

    def test_a_partial_overwrite_does_not_launder_it(self, volume: Path, pages: dict[bytes, bytes]) -> None:
        """A write of part of a block reads the rest first; that rest must not get a fresh checksum when it is wrong."""
        flip(volume, pages[b"bad"], 3000)
        client = Client(volume)
        try:
            ino = client.find(ROOT, b"bad")
            assert ino is not None
            client.store.open(ino, True)

            with fails(errno.EIO):
                client.write(ino, 100, b"new")
                client.flush(ino)
            client.store.release(ino, True)
            assert client.content(ROOT, b"bad") is None
        finally:
            client.close()
        check_clean(volume)

    def test_fsck_finds_it_and_changes_nothing(self, volume: Path, pages: dict[bytes, bytes]) -> None:
        flip(volume, pages[b"bad"], GRANULE + 5)
        image = volume.read_bytes()
        told: list[tuple[int, int]] = []
        report = _native.check(os.fspath(volume), True, lambda done, total: told.append((done, total)))
        assert volume.read_bytes() == image
        assert report["problem_count"] == 1
        [problem] = report["problems"]
        assert "bad" in problem["where"]
        assert "expected" in problem["detail"]
        assert told
        assert all(0 <= done <= total for done, total in told)
        assert told[-1][0] == told[-1][1]
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert _native.check(os.fspath(volume), False)["problems"] == []


class TestSuperblocks:
    @pytest.fixture
    def content(self, volume: Path) -> dict[bytes, bytes]:
        files = {b"file": noise("file", 100_000)}
        with opened_volume(volume) as client:
            client.create(ROOT, b"file", files[b"file"])
        return files

    def found(self, volume: Path, *, bad: tuple[str, ...] = ()) -> dict[bytes, bytes | None]:
        """``bad``: copies that the store has to complain of."""
        client = Client(volume)
        try:
            warnings = client.warnings()
            assert [any(f"superblock {name} at byte" in text for text in warnings) for name in bad] == [True] * len(bad)
            assert len(warnings) == len(bad)
            return {name: client.content(ROOT, name) for name in client.names()}
        finally:
            client.close()

    @pytest.mark.parametrize("bad", [("A",), ("B",), ("end",), ("A", "B")])
    @pytest.mark.parametrize("how", ["zeros", "flip", "noise"])
    def test_another_copy_serves(
        self, volume: Path, content: dict[bytes, bytes], bad: tuple[str, ...], how: str
    ) -> None:
        for name in bad:
            if how == "flip":
                offset = OFFSETS[name] + 200
                patch(volume, offset, bytes([volume.read_bytes()[offset] ^ 1]))
            else:
                patch(volume, OFFSETS[name], bytes(BLOCK) if how == "zeros" else noise(name, BLOCK))
        copies = {copy["copy"]: copy for copy in _native.inspect(os.fspath(volume))["copies"]}
        for name, copy in copies.items():
            assert copy["valid"] == (name not in bad)
            assert (copy["problem"] is None) == copy["valid"]
            if name in bad:
                assert "expected" in copy["problem"]
                assert "found" in copy["problem"]
        assert self.found(volume, bad=bad) == content
        assert self.found(volume) == content, "a mount writes them anew"
        check_clean(volume)

    def test_none_is_left(self, volume: Path, content: dict[bytes, bytes]) -> None:
        for offset in OFFSETS.values():
            patch(volume, offset + 300, b"damage")
        with fails(errno.EUCLEAN, r"superblock A at byte 0: expected crc32c \w{8}, found \w{8}"):
            _native.Store(os.fspath(volume))
        found = _native.inspect(os.fspath(volume))
        assert found["best"] is None
        assert "expected crc32c" in found["problem"]
        with pytest.raises(OSError, match="expected crc32c"):
            _native.check(os.fspath(volume))

    def rewrite(self, volume: Path, names: tuple[str, ...], **changes: int) -> None:
        """Change fields of these copies, with a right crc."""
        image = volume.read_bytes()
        for name in names:
            superblock = kvfs1.Superblock.parse(image[OFFSETS[name] :][:BLOCK])
            patch(volume, OFFSETS[name], replace(superblock, **changes).pack())

    @pytest.mark.parametrize("changes", [{"version": 2}, {"incompat": 1 << 40}])
    def test_newer_formats_are_refused(
        self, volume: Path, content: dict[bytes, bytes], changes: dict[str, int]
    ) -> None:
        self.rewrite(volume, ("A", "B", "end"), **changes)
        image = volume.read_bytes()
        for read_only in (False, True):
            with fails(errno.EPROTONOSUPPORT, r"expected .*, found "):
                _native.Store(os.fspath(volume), read_only=read_only)
        assert volume.read_bytes() == image

    def test_a_newer_version_refuses_also_when_an_older_copy_is_left(
        self, volume: Path, content: dict[bytes, bytes]
    ) -> None:
        """A later kvfs rewrites one of A and B at a time: the other one is stale, not a way in."""
        image = volume.read_bytes()
        sequences = {name: kvfs1.Superblock.parse(image[at:][:BLOCK]).sequence for name, at in OFFSETS.items()}
        newest = max(sequences.values())
        stale = min(sequences, key=lambda name: sequences[name])
        others = tuple(name for name in OFFSETS if name != stale)
        self.rewrite(volume, others, incompat=1 << 40, sequence=newest + 1)
        with fails(errno.EPROTONOSUPPORT):
            _native.Store(os.fspath(volume))

    def test_features_that_only_readers_may_ignore(self, volume: Path, content: dict[bytes, bytes]) -> None:
        self.rewrite(volume, ("A", "B", "end"), ro_compat=4, compat=1 << 63)
        with fails(errno.EROFS, "read"):
            _native.Store(os.fspath(volume))
        with opened_volume(volume, read_only=True) as client:
            assert client.content(ROOT, b"file") == content[b"file"]

    @pytest.mark.parametrize("size", [32 * MIB - BLOCK, 32 * MIB - 1, 20 * MIB, 2 * MIB, BLOCK])
    def test_a_truncated_file(self, volume: Path, content: dict[bytes, bytes], size: int) -> None:
        os.truncate(volume, size)
        for read_only in (False, True):
            with fails(errno.EUCLEAN, rf"expected {32 * MIB}.*found {size}"):
                _native.Store(os.fspath(volume), read_only=read_only)
        assert volume.stat().st_size == size

    def test_a_file_that_grew(self, volume: Path, content: dict[bytes, bytes]) -> None:
        """As a device does that was enlarged: the end copy is where the volume ends."""
        os.truncate(volume, 40 * MIB)
        assert self.found(volume) == content
        check_clean(volume)

    @pytest.mark.parametrize(
        "changes",
        [
            {"segment_size": 3 * MIB},
            {"segment_count": 31},
            {"segment_count": 2**40},
            {"log_segment": 30},
            {"size": 32 * MIB - 1},
            {"first_segment": 0},
        ],
    )
    def test_a_geometry_that_cannot_be(
        self, volume: Path, content: dict[bytes, bytes], changes: dict[str, int]
    ) -> None:
        self.rewrite(volume, ("A", "B", "end"), **changes)
        with fails(errno.EUCLEAN, r"expected .*, found "):
            _native.Store(os.fspath(volume))


class TestMetadata:
    def test_a_damaged_checkpoint_is_refused(self, volume: Path) -> None:
        """Without it names would be missing: better no volume than half of one."""
        with opened_volume(volume) as client:
            for number in range(100):
                client.create(ROOT, b"file %d" % number, b"data")
        image = volume.read_bytes()
        superblock = max(
            (kvfs1.Superblock.parse(image[at:][:BLOCK]) for at in OFFSETS.values()), key=lambda copy: copy.sequence
        )
        at = superblock.first_segment + superblock.checkpoint_segment * superblock.segment_size + BLOCK
        assert kvfs1.Frame.parse(image[at : at + MIB]).sequence == 1
        patch(volume, at + 100, bytes([image[at + 100] ^ 1]))
        with fails(errno.EUCLEAN, r"checkpoint.*expected .*found "):
            _native.Store(os.fspath(volume))

    @pytest.mark.parametrize("seed", range(8))
    def test_random_damage_never_crashes_and_never_shows_wrong_bytes(self, volume: Path, seed: int) -> None:
        """Noise over random blocks: opening may fail with an error, files may be gone, none may be different."""
        files = {b"file %d" % number: noise(number, 3000 * number) for number in range(60)}
        with opened_volume(volume) as client:
            for name, data in files.items():
                client.create(ROOT, name, data)
        chance = random.Random(seed)
        image = volume.read_bytes()
        used = [at for at in range(0, len(image), BLOCK) if any(image[at : at + 64])]
        for at in chance.sample(used, 8):
            patch(volume, at + chance.randrange(BLOCK - 16), chance.randbytes(16))
        try:
            client = Client(volume)
        except OSError as exc:
            if exc.errno != errno.EUCLEAN:
                raise
            return
        try:
            for name in client.names():
                assert name in files
                try:
                    content = client.content(ROOT, name)
                except OSError as exc:
                    if exc.errno != errno.EIO:
                        raise
                else:
                    assert content == files[name]
        finally:
            client.close()
