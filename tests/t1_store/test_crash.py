"""A crash at any instant: every file is its old version, its new version, or absent; what was fsynced is there.

Crashes are made in three ways: the store's file is copied while the store is open and idle; the process that has
it open is killed; and the metadata log is cut off after each of its frames, which is what a power cut leaves.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client import BLOCK, DIRECTORY, FILE, INO, MIB, ROOT, Client, check_clean, make_volume, opened_volume, still
from victim import NAMES, page

from kvfs.store import format as kvfs1

VICTIM = Path(__file__).with_name("victim.py")


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


@contextmanager
def crashed(volume: Path) -> Iterator[Client]:
    """A client on a copy of ``volume`` as it is now; the copy passes fsck before and after."""
    copy = volume.with_name("crashed.kvfs")
    copy.write_bytes(still(volume))
    check_clean(copy)
    with opened_volume(copy) as client:
        yield client
    check_clean(copy)
    copy.unlink()


class TestFsync:
    def test_data_and_name_survive(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            for size in (0, 1, BLOCK, 3 * MIB + 1):
                client.create(ROOT, b"page %d" % size, noise(size, size), durable=True)
                with crashed(volume) as after:
                    assert after.content(ROOT, b"page %d" % size) == noise(size, size)

    def test_of_a_directory_makes_its_names_durable(self, volume: Path) -> None:
        """tmp, write, fsync, rename, fsync of the directory: what careful programs do."""
        with opened_volume(volume) as client:
            directory = client.store.mkdir(ROOT, b"dir", DIRECTORY, 0, 0)[INO]
            client.create(directory, b"tmp", noise(1, 100_000), durable=True)
            client.rename(directory, b"tmp", directory, b"page")
            client.fsync(directory)
            with crashed(volume) as after:
                found = after.find(ROOT, b"dir")
                assert found is not None
                assert after.names(found) == [b"page"]
                assert after.content(found, b"page") == noise(1, 100_000)

    def test_makes_what_came_before_durable_too(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            for number in range(30):
                client.create(ROOT, b"before %d" % number, noise(number, 20_000))
            client.store.setxattr(ROOT, b"user.x", b"1")
            client.store.symlink(ROOT, b"link", b"before 1", 0, 0)
            client.store.unlink(ROOT, b"before 3")
            client.create(ROOT, b"last", b"last", durable=True)
            with crashed(volume) as after:
                for number in range(30):
                    expected = None if number == 3 else noise(number, 20_000)
                    assert after.content(ROOT, b"before %d" % number) == expected
                assert after.store.getxattr(ROOT, b"user.x") == b"1"
                assert after.find(ROOT, b"link") is not None

    def test_of_an_overwrite_in_place(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            ino = client.create(ROOT, b"pool", noise("old", MIB), durable=True)
            expected = bytearray(noise("old", MIB))
            with client.opened(ino, write=True):
                for at in (0, 5, BLOCK - 1, 300_000, MIB - 10):
                    piece = noise(at, 10_000)[: MIB - at]
                    client.write(ino, at, piece)
                    expected[at : at + len(piece)] = piece
                    client.fsync(ino)
                    with crashed(volume) as after:
                        assert after.content(ROOT, b"pool") == expected

    def test_of_a_truncation(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            ino = client.create(ROOT, b"file", noise(1, 100_000), durable=True)
            with client.opened(ino, write=True):
                for size in (50_001, 4096, 100, 200_000, 0):
                    client.truncate(ino, size)
                    client.fsync(ino)
                    expected = client.read(ino)
                    assert len(expected) == size
                    with crashed(volume) as after:
                        assert after.content(ROOT, b"file") == expected

    def test_of_a_file_without_a_name_brings_nothing_back(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            ino = client.create(ROOT, b"file", b"data", durable=True)
            with client.opened(ino, write=True):
                client.store.unlink(ROOT, b"file")
                client.write(ino, 0, b"DATA")
                client.fsync(ino)
                client.fsync(ROOT)
                with crashed(volume) as after:
                    assert after.names() == []

    def test_after_sync_everything_is_there(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            for number in range(20):
                client.create(ROOT, b"%d" % number, noise(number, 50_000))
            client.sync()
            with crashed(volume) as after:
                assert sorted(after.names()) == sorted(b"%d" % number for number in range(20))


def test_a_file_that_was_never_complete_is_absent(volume: Path) -> None:
    """Half a page under its name would be taken for a page."""
    with opened_volume(volume) as client:
        ino = client.store.create(ROOT, b"page", FILE, 0, 0)[INO]
        with client.opened(ino, write=True):
            client.write(ino, 0, noise(1, 3 * MIB))  # more than a buffer: part of it is on the device
            client.create(ROOT, b"other", b"x", durable=True)
            with crashed(volume) as after:
                assert after.names() == [b"other"]
            client.flush(ino)
        client.sync()
        with crashed(volume) as after:
            assert after.content(ROOT, b"page") == noise(1, 3 * MIB)


def test_crash_after_crash(volume: Path) -> None:
    """Each recovery starts from what the last one left; nothing fsynced is lost on the way."""
    image, expected = volume, {}
    for round_number in range(6):
        with opened_volume(image) as client:
            assert {name: client.content(ROOT, name) for name in client.names()} == expected
            name = b"round %d" % round_number
            expected[name] = noise(round_number, 200_000)
            client.create(ROOT, name, expected[name], durable=True)
            if round_number % 2:
                gone = b"round %d" % (round_number - 1)
                client.store.unlink(ROOT, gone)
                del expected[gone]
                client.fsync(ROOT)
            successor = image.with_name(f"after-{round_number}.kvfs")
            successor.write_bytes(still(image))
        check_clean(successor)
        image = successor


# --- the log, cut off after each frame --------------------------------------------------------------------------------

Contents = dict[bytes, bytes | None]


def contents(client: Client) -> Contents:
    return {name: client.content(ROOT, name) for name in client.names()}


def scenario_pages(client: Client) -> Iterator[None]:
    for number in range(4):
        client.create(ROOT, b"tmp", noise(number, 30_000 * (number + 1)), durable=True)
        yield
        client.rename(ROOT, b"tmp", ROOT, b"page")  # each over the one before
        client.fsync(ROOT)
        yield
    client.store.unlink(ROOT, b"page")
    client.fsync(ROOT)
    yield


def scenario_pool_file(client: Client) -> Iterator[None]:
    ino = client.create(ROOT, b"pool", noise("pool", 500_000), durable=True)
    yield
    chance = random.Random(3)
    with client.opened(ino, write=True):
        for number in range(12):
            for _ in range(chance.randrange(1, 5)):  # several writes, one commit: seen all or not at all
                client.write(ino, chance.randrange(490_000), noise(number, chance.choice([10, 5_000, 70_000])))
            if number % 4 == 3:
                client.truncate(ino, chance.randrange(400_000, 500_000))
            client.fsync(ino)
            yield


def scenario_ranges(client: Client) -> Iterator[None]:
    """An extent per block, so that changes are logged by themselves, holes among them."""
    chance = random.Random(9)
    ino = client.store.create(ROOT, b"pool", FILE, 0, 0)[INO]
    with client.opened(ino, write=True):
        client.truncate(ino, 200 * BLOCK)
        for block in chance.sample(range(200), 100):
            client.write(ino, block * BLOCK, noise(block, BLOCK))
        client.fsync(ino)
        yield
        for number in range(16):
            offset, length = chance.randrange(180 * BLOCK), chance.choice([10, 5_000, 70_000])
            match number % 4:
                case 0:
                    client.call("fallocate", ino, 3, offset, length)  # punches
                case 1:
                    client.call("fallocate", ino, 16, offset, length)  # zeroes
                case 2:
                    client.call("fallocate", ino, 0, (200 + number) * BLOCK, length)
                case 3:
                    client.call("copy_range", ino, 150 * BLOCK, ino, offset // 2, length)
            client.fsync(ino)
            yield


def scenario_names(client: Client) -> Iterator[None]:
    steps: list[Callable[[], object]] = [
        lambda: client.create(ROOT, b"a", b"A"),
        lambda: client.create(ROOT, b"b", b"B"),
        lambda: client.rename(ROOT, b"a", ROOT, b"b", 2),
        lambda: client.store.link(client.find(ROOT, b"a") or 0, ROOT, b"c"),
        lambda: client.rename(ROOT, b"c", ROOT, b"b"),
        lambda: client.store.unlink(ROOT, b"a"),
        lambda: client.rename(ROOT, b"b", ROOT, b"d"),
    ]
    for step in steps:
        step()
        client.fsync(ROOT)
        yield


def log_frames(image: bytes) -> list[tuple[int, kvfs1.Frame]]:
    """Position and frame, in the order of the log, of a volume that has no checkpoint yet."""
    superblock = kvfs1.Superblock.parse(image[:BLOCK])
    assert superblock.checkpoint_segment == kvfs1.NO_SEGMENT
    magic = kvfs1.FRAME_MAGIC.to_bytes(4, "little")
    places = [at for at in range(superblock.first_segment, len(image), BLOCK) if image[at : at + 4] == magic]
    found = [(at, kvfs1.Frame.parse(image[at : at + superblock.segment_size])) for at in places]
    found.sort(key=lambda item: item[1].sequence)
    assert [frame.sequence for _, frame in found] == list(range(1, len(found) + 1))
    return found


@pytest.mark.parametrize("scenario", [scenario_pages, scenario_pool_file, scenario_ranges, scenario_names])
@pytest.mark.parametrize("damage", ["cut", "torn"])
def test_every_prefix_of_the_log_is_a_state_that_was(
    volume: Path, scenario: Callable[[Client], Iterator[None]], damage: str
) -> None:
    with opened_volume(volume) as client:
        states = [contents(client), *(contents(client) for _ in scenario(client))]
        image = still(volume)
    frames = log_frames(image)
    reached = 0
    copy = volume.with_name("cut.kvfs")
    for count in range(1, len(frames) + 1):
        cut = bytearray(image)
        for position, frame in frames[count:]:
            if damage == "torn" and position == frames[count][0]:
                cut[position + 64] ^= 1  # its header made it, its first record did not
            else:
                cut[position : position + frame.disk_bytes] = bytes(frame.disk_bytes)
        copy.write_bytes(cut)
        check_clean(copy)
        with opened_volume(copy) as client:
            found = contents(client)
            later = states[reached:]
            # a step may take several frames: what is seen in between is the state before
            assert found in later, f"after frame {count} of {len(frames)}"
            reached += later.index(found)
    assert states[reached] == states[-1]


# --- a killed process -------------------------------------------------------------------------------------------------


def run_victim(path: Path, seed: int, changes: int) -> list[tuple[str, str, int]]:
    """Kill the victim soon after it has finished so many changes; what it had said by then: (word, name, version)."""
    command = [sys.executable, os.fspath(VICTIM), os.fspath(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2 * changes + seed % 2)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL, "the victim ended before it was killed"
    words = [line.split() for line in lines if line.endswith("\n")]
    return [(word, name, int(version)) for word, name, version in words]


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_process(tmp_path: Path, seed: int, scale: int) -> None:
    """Again and again on one store, a small one, so that segments are reused all the time."""
    path = make_volume(tmp_path / "store.kvfs", 20 * MIB)
    durable = dict.fromkeys((f"page{number}" for number in range(NAMES)), 0)  # versions; 0: absent
    for round_number in range(5 * scale):
        under_way: dict[str, int] = {}
        changes = random.Random(f"{seed} {round_number}").randrange(1, 60)
        for word, name, version in run_victim(path, 1000 * seed + round_number, changes):
            if word == "begin":
                under_way = {name: version}
            else:
                durable |= under_way
                under_way = {}
        check_clean(path)
        with opened_volume(path) as client:
            for name in durable:
                content = client.content(ROOT, name.encode())
                found = 0 if content is None else int.from_bytes(content[:8], "little")
                assert content is None or content == page(name, found), f"{name} is not as it was written"
                assert found in (durable[name], under_way.get(name, durable[name])), f"{name}: {found}"
                durable[name] = found
