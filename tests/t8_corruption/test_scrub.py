"""Scrubbing an open store: everything is read, what is damaged goes, work and position are not disturbed."""

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client import BLOCK, INO, MIB, ROOT, Client, check_clean, make_volume, opened_volume, still
from images import files, noise

from kvfs import _native
from kvfs.store import format as kvfs1

PATIENCE = 60  # s
OFFSETS = {"A": 0, "B": 64 * 1024, "end": 64 * MIB - BLOCK}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = make_volume(tmp_path / "store.kvfs", 64 * MIB, MIB)
    with opened_volume(path) as client:
        folder = client.store.mkdir(ROOT, b"dir", 0o40755, 0, 0)[INO]
        for number in range(20):
            client.create(folder if number % 2 else ROOT, b"file %d" % number, content(number))
    return path


def content(number: int) -> bytes:
    return noise(number, 200_000 + 70_000 * number)


TOTAL = sum(-(-len(content(number)) // BLOCK) * BLOCK for number in range(20))


def until(client: Client, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    deadline = time.monotonic() + PATIENCE
    while not condition(status := _native.scrub_status(client.store)):
        assert time.monotonic() < deadline, status
        time.sleep(0.005)
    return status


def scrub(client: Client, rate: int = 0) -> dict[str, int]:
    _native.scrub_start(client.store, rate)
    return until(client, lambda status: not status["running"])


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, at)
        os.fsync(file.fileno())


def find(path: Path, data: bytes) -> int:
    image = path.read_bytes()
    at = image.index(data[:BLOCK])
    assert at % BLOCK == 0
    assert image.count(data[:BLOCK]) == 1
    return at


def errors(client: Client) -> list[str]:
    client.drain()
    return [event[2] for event in client.events if event[0] == "log" and event[1] >= logging.ERROR]


def test_everything_is_read(volume: Path) -> None:
    with opened_volume(volume) as client:
        assert _native.scrub_status(client.store)["passes_total"] == 0
        reads = client.store.statistics()["device"]["read_bytes_total"]
        status = scrub(client)
        assert status["pass_files"] == 20
        assert status["pass_bytes"] == status["expected_bytes"] == TOTAL
        assert status["pass_damaged"] == status["pass_dropped"] == status["pass_unreadable"] == 0
        assert status["passes_total"] == 1
        assert status["next_inode"] == 0
        assert status["finished_ns"] >= status["started_ns"] > 0
        statistics = client.store.statistics()
        assert statistics["device"]["read_bytes_total"] - reads >= TOTAL
        assert statistics["scrub"] == _native.scrub_status(client.store)
        assert statistics["data"]["reads_total"] == 0, "it is not a client"
    with opened_volume(volume) as client:
        assert _native.scrub_status(client.store)["passes_total"] == 1, "and that is remembered"
        assert client.store.listxattr(ROOT) == [], "where no client sees it"
        assert scrub(client)["passes_total"] == 2
    check_clean(volume)


def test_damage_is_found_before_anybody_reads_it(volume: Path) -> None:
    client = Client(volume)
    try:
        bad = [find(volume, content(3)), find(volume, content(8))]
        for at in bad:
            patch(volume, at + 77, b"damage")
        status = scrub(client)
        assert status["pass_damaged"] == status["pass_dropped"] == 2
        client.drain()
        dropped = [event[2] for event in client.events if event[0] == "drop"]
        assert sorted(dropped) == [b"file 3", b"file 8"]
        assert len(errors(client)) == 2
        assert all("expected checksum" in line and "found" in line for line in errors(client))
        assert client.store.lookup(ROOT, b"file 8") is None
        statistics = client.store.statistics()["data"]
        assert statistics["checksum_errors_total"] == statistics["files_dropped_total"] == 2
        assert len(list(files(client))) == 18
        assert scrub(client)["pass_damaged"] == 0
    finally:
        client.close()
    check_clean(volume)


def test_a_read_only_store_is_scrubbed_too(volume: Path) -> None:
    patch(volume, find(volume, content(3)) + 77, b"damage")
    before = volume.read_bytes()
    client = Client(volume, read_only=True)
    try:
        status = scrub(client)
        assert status["pass_damaged"] == 1
        assert status["pass_dropped"] == 0
        assert ["read-only" in line for line in errors(client)] == [True]
    finally:
        client.close()
    assert volume.read_bytes() == before


def test_the_position_outlives_pause_and_mount(volume: Path) -> None:
    rate = TOTAL  # a second for all of it
    with opened_volume(volume) as client:
        _native.scrub_start(client.store, rate)
        until(client, lambda status: status["pass_files"] >= 3)
        _native.scrub_pause(client.store)
        paused = _native.scrub_status(client.store)
        assert not paused["running"]
        assert paused["next_inode"] > 1
        assert 3 <= paused["pass_files"] < 20
        _native.scrub_start(client.store, rate)
        until(client, lambda status: status["pass_files"] > paused["pass_files"])
    with opened_volume(volume) as client:
        resumed = _native.scrub_status(client.store)
        assert not resumed["running"]
        assert resumed["pass_files"] > paused["pass_files"]
        assert resumed["next_inode"] > paused["next_inode"]
        assert resumed["started_ns"] == paused["started_ns"]
        done = scrub(client)
        assert done["pass_files"] == 20
        assert done["pass_bytes"] == TOTAL
        assert done["started_ns"] == paused["started_ns"]
    check_clean(volume)


def test_cancel_begins_anew(volume: Path) -> None:
    with opened_volume(volume) as client:
        _native.scrub_start(client.store, TOTAL)
        until(client, lambda status: status["pass_files"] >= 2)
        _native.scrub_cancel(client.store)
        assert _native.scrub_status(client.store)["next_inode"] == 0
        assert scrub(client)["pass_bytes"] == TOTAL
        assert _native.scrub_status(client.store)["passes_total"] == 1


def test_a_new_rate_counts_at_once(volume: Path) -> None:
    with opened_volume(volume) as client:
        _native.scrub_start(client.store, 1)  # a byte a second: it would not end
        until(client, lambda status: status["pass_bytes"] > 0)
        _native.scrub_start(client.store, 0)
        until(client, lambda status: not status["running"])
        _native.scrub_start(client.store, 1)
        until(client, lambda status: status["pass_bytes"] > 0)
        # and closing does not wait for it


def test_files_that_change_and_go_meanwhile(volume: Path) -> None:
    """No false alarm, whatever is written, replaced and unlinked while it walks; with the cleaner at work."""
    chance = random.Random(3)
    with opened_volume(volume) as client:
        kept: dict[bytes, bytes] = {}
        deadline = time.monotonic() + 3
        passes = 0
        while time.monotonic() < deadline:
            if not _native.scrub_status(client.store)["running"]:
                _native.scrub_start(client.store, 0)
                passes += 1
            name = b"changing %d" % chance.randrange(12)
            match chance.randrange(3):
                case 0 if name in kept:
                    client.store.unlink(ROOT, name)
                    del kept[name]
                case 1 if name in kept:
                    ino = client.find(ROOT, name)
                    assert ino is not None
                    at = chance.randrange(len(kept[name]))
                    piece = chance.randbytes(60_000)
                    with client.opened(ino, write=True):
                        client.write(ino, at, piece)
                        client.flush(ino)
                    kept[name] = kept[name][:at] + piece + kept[name][at + len(piece) :]
                case _:
                    data = chance.randbytes(chance.randrange(1, 900_000))
                    client.create(ROOT, b"tmp", data)
                    client.rename(ROOT, b"tmp", ROOT, name)
                    kept[name] = data
        until(client, lambda status: not status["running"])
        assert passes > 1
        assert client.store.statistics()["data"]["checksum_errors_total"] == 0
        for name, data in kept.items():
            assert client.content(ROOT, name) == data
    check_clean(volume)


class TestMetadata:
    def superblock(self, volume: Path) -> dict[str, Any]:
        found = _native.inspect(os.fspath(volume))
        superblock: dict[str, Any] = found["copies"][found["best"]]["superblock"]
        return superblock

    @pytest.mark.parametrize("copies", [("A",), ("B",), ("end",), ("A", "B", "end")])
    def test_superblocks_are_written_anew(self, volume: Path, copies: tuple[str, ...]) -> None:
        client = Client(volume)
        try:
            for name in copies:
                patch(volume, OFFSETS[name] + 300, b"damage")
            status = scrub(client)
            assert status["pass_damaged"] == len(copies)
            assert sum("superblock" in line for line in errors(client)) == len(copies)
            assert all(copy["valid"] for copy in _native.inspect(os.fspath(volume))["copies"])
            assert scrub(client)["pass_damaged"] == 0
        finally:
            client.close()
        check_clean(volume)

    def test_checkpoint_and_log_are_replaced(self, volume: Path, tmp_path: Path) -> None:
        client = Client(volume)
        try:
            client.create(ROOT, b"new", b"data", durable=True)
            for at in self.frames(volume):
                patch(volume, at + 100, b"damage")
            status = scrub(client)
            assert status["pass_damaged"] == 2
            assert any("checkpoint" in line for line in errors(client))
            assert any("the log's frame" in line for line in errors(client))
            assert scrub(client)["pass_damaged"] == 0
            # as a crash would leave it
            crashed = tmp_path / "crashed.kvfs"
            crashed.write_bytes(still(volume))
        finally:
            client.close()
        with opened_volume(crashed) as again:
            assert again.content(ROOT, b"new") == b"data"
            assert len(list(files(again))) == 21
        check_clean(crashed)

    def frames(self, volume: Path) -> list[int]:
        """The first frames of the checkpoint and of the log."""
        image = volume.read_bytes()
        sb = max(
            (kvfs1.Superblock.parse(image[at : at + BLOCK]) for at in OFFSETS.values()), key=lambda copy: copy.sequence
        )
        return [
            kvfs1.FIRST_SEGMENT + sb.checkpoint_segment * MIB + BLOCK,
            kvfs1.FIRST_SEGMENT + sb.log_segment * MIB + sb.log_offset,
        ]
