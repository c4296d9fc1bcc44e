"""A full store: ENOSPC comes on write, for all of the write, and the space of what goes comes back."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from client import BLOCK, FILE, INO, MIB, ROOT, SIZE, Client, check_clean, fails, opened_volume, still

PAGE = 64 * 1024
CROWD = Path(__file__).with_name("crowd.py")


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def try_create(client: Client, name: bytes, data: bytes) -> bool:
    """False, and nothing left of it, when the store is full."""
    ino = client.store.create(ROOT, name, FILE, 0, 0)[INO]
    try:
        with client.opened(ino, write=True):
            client.write(ino, 0, data)
            client.flush(ino)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        client.store.unlink(ROOT, name)
        return False
    finally:
        client.store.forget(ino, 1)
    return True


def fill(client: Client, prefix: bytes, size: int = PAGE) -> list[bytes]:
    """Pages until no more fit; their names."""
    names: list[bytes] = []
    while True:
        name = prefix + b"-%d" % len(names)
        if not try_create(client, name, noise(name, size)):
            return names
        names.append(name)
        assert len(names) < 10_000


def check_pages(client: Client, names: list[bytes], size: int = PAGE) -> None:
    assert sorted(client.names()) == sorted(names)
    for name in names:
        assert client.content(ROOT, name) == noise(name, size)


def test_all_of_it_can_be_used(client: Client) -> None:
    """statfs is honest: what it calls free takes that much data, and not a block more."""
    free = client.free_blocks()
    assert free >= 0.6 * 32 * MIB / BLOCK, "most of a small store is for data"
    ino = client.store.create(ROOT, b"page", FILE, 0, 0)[INO]
    with client.opened(ino, write=True):
        for block in range(free):
            client.write(ino, block * BLOCK, noise(block, BLOCK))
        assert client.free_blocks() == 0
        with fails(errno.ENOSPC):
            client.write(ino, free * BLOCK, b"x")
        assert client.store.getattr(ino)[SIZE] == free * BLOCK
        client.flush(ino)
    for block in range(0, free, 37):
        assert client.read(ino, block * BLOCK, BLOCK) == noise(block, BLOCK)


def test_a_write_that_does_not_fit_leaves_the_file_as_it_was(client: Client) -> None:
    ino = client.create(ROOT, b"page", noise(1, MIB))
    names = fill(client, b"fill")
    with client.opened(ino, write=True):
        with fails(errno.ENOSPC):
            client.call("write", ino, MIB, noise(2, MIB))
        assert client.store.getattr(ino)[SIZE] == MIB
        assert client.read(ino) == noise(1, MIB)
    client.store.unlink(ROOT, names[0])
    assert client.content(ROOT, b"page") == noise(1, MIB)


def test_the_rename_after_a_write_that_succeeded_succeeds(client: Client) -> None:
    fill(client, b"fill")
    client.store.unlink(ROOT, b"fill-0")
    client.sync()
    assert try_create(client, b"tmp", noise("tmp", PAGE))
    client.rename(ROOT, b"tmp", ROOT, b"page")
    client.fsync(ROOT)
    assert client.content(ROOT, b"page") == noise("tmp", PAGE)


def test_a_full_store_still_takes_what_frees_space(client: Client) -> None:
    names = fill(client, b"fill")
    client.rename(ROOT, names[0], ROOT, names[1])
    ino = client.find(ROOT, names[1])
    assert ino is not None
    client.truncate(ino, 100)
    client.store.setattr(ino, 1, mode=0o600)
    for name in names[1:]:
        client.store.unlink(ROOT, name)
    client.sync()
    assert client.used_blocks() == 0
    assert len(fill(client, b"again")) >= len(names) - 1


@pytest.mark.parametrize("size", [PAGE, 5_000, 700_000])
def test_fill_and_delete_half_many_times(volume: Path, size: int, scale: int) -> None:
    chance = random.Random(size)
    with opened_volume(volume) as client:
        names = fill(client, b"first", size)
        most = len(names)
        for round_number in range(6 * scale):
            chance.shuffle(names)
            gone, names = names[: len(names) // 2], names[len(names) // 2 :]
            for name in gone:
                client.store.unlink(ROOT, name)
            client.sync()
            fresh = fill(client, b"round%d" % round_number, size)
            # a page or two may be lost to the log's own needs, which vary
            assert len(names) + len(fresh) >= most * 0.95, "space that was freed can be used again"
            names += fresh
            check_pages(client, names, size)
    check_clean(volume)
    with opened_volume(volume) as client:
        check_pages(client, names, size)


def test_without_sync_space_comes_back_too(client: Client) -> None:
    """An engine deletes and writes; it does not fsync in between."""
    names = fill(client, b"fill")
    for round_number in range(5 * len(names)):
        victim = names[round_number % len(names)]
        client.store.unlink(ROOT, victim)
        assert try_create(client, victim, noise(victim, PAGE)), f"after {round_number} replacements"
    check_pages(client, names)


def test_replacing_by_rename_for_ever(client: Client) -> None:
    """One page of 4 MiB, a hundred versions: twelve times what the store holds."""
    for version in range(100):
        client.create(ROOT, b"tmp", noise(version, 4 * MIB))
        client.rename(ROOT, b"tmp", ROOT, b"page")
    assert client.content(ROOT, b"page") == noise(99, 4 * MIB)
    assert client.used_blocks() == 4 * 256


def test_overwriting_in_place_for_ever(client: Client) -> None:
    """A pool file that takes half the store; the other half is what copy-on-write works with."""
    size = 10 * MIB
    expected = bytearray(noise("pool", size))
    ino = client.create(ROOT, b"pool", bytes(expected))
    chance = random.Random(5)
    with client.opened(ino, write=True):
        for round_number in range(400):
            at = chance.randrange(size // BLOCK - 64) * BLOCK
            piece = chance.randbytes(chance.choice([1, 16, 64]) * BLOCK)
            client.write(ino, at, piece)
            expected[at : at + len(piece)] = piece
            if round_number % 10 == 9:
                client.flush(ino)
        client.flush(ino)
        assert client.read(ino) == expected
    assert client.used_blocks() == size // BLOCK


def test_overwriting_in_place_on_a_full_store(client: Client) -> None:
    """Nothing is free, but nothing more is asked for either: the file keeps its size."""
    ino = client.create(ROOT, b"pool", noise("pool", 4 * MIB))
    fill(client, b"fill")
    chance = random.Random(6)
    expected = bytearray(noise("pool", 4 * MIB))
    with client.opened(ino, write=True):
        for _ in range(200):
            at = chance.randrange(1024) * BLOCK
            piece = chance.randbytes(BLOCK)
            try:
                client.write(ino, at, piece)
                client.flush(ino)
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                break
            expected[at : at + BLOCK] = piece
        assert client.read(ino) == expected


def test_mixed_sizes_at_seventy_percent(volume: Path, scale: int) -> None:
    """Churn that leaves every segment partly dead: the cleaner has to keep up, and never to lose a byte."""
    chance = random.Random(8)
    live: dict[bytes, int] = {}
    with opened_volume(volume) as client:
        budget = int(client.free_blocks() * 0.7)
        for number in range(1500 * scale):
            size = chance.choice([100, 4096, 20_000, 65_536, 150_000, 600_000])
            while live and sum(-(-held // BLOCK) for held in live.values()) + -(-size // BLOCK) > budget:
                victim = chance.choice(sorted(live))
                client.store.unlink(ROOT, victim)
                del live[victim]
            name = b"%d" % number
            assert try_create(client, name, noise(name, size)), f"full at file {number}"
            live[name] = size
        for name, size in live.items():
            assert client.content(ROOT, name) == noise(name, size)
    check_clean(volume)
    with opened_volume(volume) as client:
        assert sorted(client.names()) == sorted(live)
        for name, size in live.items():
            assert client.content(ROOT, name) == noise(name, size)


def test_a_full_store_can_be_closed_and_opened(volume: Path) -> None:
    with opened_volume(volume) as client:
        names = fill(client, b"fill")
    for _ in range(4):
        check_clean(volume)
        with opened_volume(volume) as client:
            check_pages(client, names)
    with opened_volume(volume) as client:
        for name in names:
            client.store.unlink(ROOT, name)
    with opened_volume(volume) as client:
        assert client.names() == []
        assert len(fill(client, b"again")) >= len(names) * 0.95


def test_a_full_store_that_crashed_can_be_opened(volume: Path) -> None:
    with opened_volume(volume) as client:
        names = fill(client, b"fill")
        client.sync()
        copy = volume.with_name("crashed.kvfs")
        copy.write_bytes(still(volume))
    for _ in range(3):  # recovered, and crashed again at once
        with opened_volume(copy) as again:
            check_pages(again, names)
            successor = volume.with_name("again.kvfs")
            successor.write_bytes(copy.read_bytes())
        successor.replace(copy)
        check_clean(copy)


@pytest.mark.slow
def test_names_alone_cannot_lock_the_store(volume: Path) -> None:
    """In a process of its own: a store that locks up takes the interpreter with it."""
    result = subprocess.run(
        [sys.executable, os.fspath(CROWD), os.fspath(volume)], capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stderr
    check_clean(volume)
