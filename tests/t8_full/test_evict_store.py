"""Eviction in the native store, without a mount: who goes, who stays, what is left."""

import errno
import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from client import (
    ATIME,
    BLOCK,
    CTIME,
    FILE,
    INO,
    MIB,
    ROOT,
    Client,
    check_clean,
    fails,
    make_volume,
    opened_volume,
    still,
)
from support.styles import check_page, page_bytes

from kvfs import _native

PAGE = 256 * 1024
OLD = 3_600 * 10**9  # ns: older than what is spared as just written


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_volume(tmp_path / "store.kvfs", size=64 * MIB)


def put(client: Client, number: int, size: int = PAGE, parent: int = ROOT) -> None:
    client.create(parent, b"page-%d" % number, page_bytes(number, size))


def present(client: Client, count: int, parent: int = ROOT) -> list[int]:
    return [number for number in range(count) if client.find(parent, b"page-%d" % number) is not None]


def check_present(client: Client, numbers: list[int]) -> None:
    for number in numbers:
        content = client.content(ROOT, b"page-%d" % number)
        assert content is not None
        check_page(content, number, number)


def check_whole(client: Client, numbers: Iterable[int]) -> int:
    """What is there is right, and it may go between one look and the next; how many there were."""
    found = 0
    for number in numbers:
        try:
            content = client.content(ROOT, b"page-%d" % number)
        except OSError as error:  # evicted after its name was found
            if error.errno != errno.ESTALE:
                raise
            continue
        if content is not None:
            check_page(content, number, number)
            found += 1
    return found


def evictions(client: Client) -> dict[str, int]:
    """Files, by reason; also the reasons that nothing went for."""
    files: dict[str, int] = client.store.statistics()["eviction"]["files_total"]
    return files


def capacity(client: Client) -> int:
    return client.store.statfs()["blocks"] * BLOCK


def test_fill_three_times(volume: Path) -> None:
    """Nothing is refused, what is left is right, also for the next who opens the store."""
    with opened_volume(volume, evict=True) as client:
        count = 3 * capacity(client) // PAGE
        for number in range(count):
            put(client, number)
        left = present(client, count)
        check_present(client, left)
        assert len(left) * PAGE > 0.85 * capacity(client), "no more is evicted than is needed"
        assert {reason: files for reason, files in evictions(client).items() if files} == {"space": count - len(left)}
    check_clean(volume)
    with opened_volume(volume, evict=True) as client:
        assert present(client, count) == left
        check_present(client, left)


def used_hours_apart(volume: Path, order: list[int]) -> None:
    """Makes pages that were used in this order, an hour between each and the next."""
    with opened_volume(volume, evict=True) as client:
        for number in sorted(order):
            put(client, number)
        for place, number in enumerate(order):
            ino = client.find(ROOT, b"page-%d" % number)
            assert ino is not None
            client.store.setattr(ino, _native.SET_ATIME, atime_ns=(place + 1) * OLD)


def test_the_order_of_use_outlives_the_store(volume: Path) -> None:
    """After an orderly end, in the order of atime; a use since then counts."""
    with opened_volume(volume, evict=True) as client:
        count = capacity(client) // PAGE * 9 // 10
    order = random.Random(4).sample(range(count), count)
    used_hours_apart(volume, order)
    with opened_volume(volume, evict=True) as client:
        hot = order[:10]
        for number in hot:
            ino = client.find(ROOT, b"page-%d" % number)
            assert ino is not None
            with client.opened(ino):
                pass
        for number in range(count, count + count // 4):
            put(client, number)
        left = set(present(client, count))
        assert len(left) < count
        assert set(hot) <= left
        assert left - set(hot) == set(order[-(len(left) - len(hot)) :]), "the coldest went"


def test_open_files_and_unfinished_ones_stay(volume: Path) -> None:
    with opened_volume(volume, evict=True) as client:
        put(client, 0)
        kept = client.find(ROOT, b"page-0")
        assert kept is not None
        unfinished = client.store.create(ROOT, b"page-1", FILE, 0, 0)[INO]
        client.store.open(unfinished, True)
        client.write(unfinished, 0, page_bytes(1, PAGE // 2))
        with client.opened(kept):
            for number in range(2, 2 + 2 * capacity(client) // PAGE):
                put(client, number)
            check_page(client.read(kept), 0, "open")
        client.write(unfinished, PAGE // 2, page_bytes(1, PAGE)[PAGE // 2 :])
        client.flush(unfinished)
        client.store.release(unfinished, True)
        client.rename(ROOT, b"page-1", ROOT, b"final")
        check_page(client.content(ROOT, b"final") or b"", 1, "final")
        assert client.find(ROOT, b"page-0") == kept


def test_directories_links_and_empty_files_stay(volume: Path) -> None:
    with opened_volume(volume, evict=True) as client:
        directory = client.store.mkdir(ROOT, b"directory", 0o755, 0, 0)[INO]
        client.store.symlink(ROOT, b"link", b"target", 0, 0)
        client.create(directory, b"empty")
        put(client, 0, parent=directory)
        for number in range(1, 1 + 2 * capacity(client) // PAGE):
            put(client, number)
        assert client.names(directory) == [b"empty"]
        assert client.find(ROOT, b"link") is not None


def test_all_names_of_a_file_go(volume: Path) -> None:
    with opened_volume(volume, evict=True) as client:
        put(client, 0)
        ino = client.find(ROOT, b"page-0")
        assert ino is not None
        directory = client.store.mkdir(ROOT, b"directory", 0o755, 0, 0)[INO]
        client.store.link(ino, directory, b"other")
        client.store.forget(ino, 1)
        for number in range(1, 1 + 2 * capacity(client) // PAGE):
            put(client, number)
        assert client.find(ROOT, b"page-0") is None
        assert client.names(directory) == []
    check_clean(volume)


def test_a_number_that_the_kernel_knows_turns_stale(volume: Path) -> None:
    """Whoever comes with it is sent to look the name up again, and its space is there at once."""
    with opened_volume(volume, evict=True) as client:
        ino = client.store.create(ROOT, b"page-0", FILE, 0, 0)[INO]  # one reference
        with client.opened(ino, write=True):
            client.write(ino, 0, page_bytes(0, PAGE))
        count = 2 * capacity(client) // PAGE
        for number in range(1, count):
            put(client, number)
        client.drain()
        assert ("drop", ROOT, b"page-0") in client.events
        others = [event for event in client.events if event[0] == "drop" and event[2] != b"page-0"]
        assert others == [], "the kernel is not told about what it does not know"
        assert client.store.lookup(ROOT, b"page-0") is None
        for call in (
            lambda: client.store.getattr(ino),
            lambda: client.store.setattr(ino, _native.SET_MODE, mode=0o600),
            lambda: client.store.open(ino, False),
            lambda: client.store.open(ino, True),
            lambda: client.store.link(ino, ROOT, b"again"),
            lambda: client.store.getxattr(ino, b"user.x"),
            lambda: client.store.setxattr(ino, b"user.x", b"y"),
            lambda: client.truncate(ino, 0),
        ):
            with fails(errno.ESTALE):
                call()
        client.store.forget(ino, 1)
        with fails(errno.ENOENT):
            client.store.getattr(ino)


def test_a_listing_holds_what_it_shows(volume: Path) -> None:
    """Between a directory's listing and the reference that the kernel gets, the number cannot become another file's."""
    with opened_volume(volume, evict=True) as client:
        put(client, 0)
        entries = client.store.opendir(ROOT).read(0, 10, remember=True)
        assert [name for name, _, _ in entries] == [b"page-0"]
        ino = entries[0][1][INO]
        for number in range(1, 2 * capacity(client) // PAGE):
            put(client, number)
        with fails(errno.ESTALE):
            client.store.getattr(ino)
        client.store.forget(ino, 1)


def test_one_open_file_that_fills_the_store(volume: Path) -> None:
    """Nothing may go: ENOSPC, for all of the write, and what was written is there."""
    with opened_volume(volume, evict=True) as client:
        put(client, 0)
        ino = client.store.create(ROOT, b"big", FILE, 0, 0)[INO]
        client.store.open(ino, True)
        size = 0
        with fails(errno.ENOSPC):
            while True:
                client.call("write", ino, size, page_bytes(size, PAGE))
                size += PAGE
        assert size > 0.9 * capacity(client)
        client.flush(ino)
        for at in range(0, size, 16 * PAGE):
            check_page(client.read(ino, at, PAGE), at, at)
        client.store.release(ino, True)
        client.store.forget(ino, 1)
        put(client, 1)  # closed, it is as any other file
        assert client.find(ROOT, b"big") is None
        check_present(client, [1])


def test_nothing_goes_for_a_wish_that_cannot_be_granted(volume: Path) -> None:
    with opened_volume(volume, evict=True) as client:
        count = capacity(client) // PAGE // 2
        for number in range(count):
            put(client, number)
        ino = client.store.create(ROOT, b"pool", FILE, 0, 0)[INO]
        with client.opened(ino, write=True):
            with fails(errno.ENOSPC):
                client.call("fallocate", ino, 0, 0, capacity(client) + MIB)
            assert present(client, count) == list(range(count))
            client.call("fallocate", ino, 0, 0, capacity(client) * 3 // 4)
            assert 0 < len(present(client, count)) < count
        client.store.forget(ino, 1)


def test_names_make_room_for_names(tmp_path: Path) -> None:
    """Metadata alone fills a store: then the coldest files go, empty ones too."""
    volume = make_volume(tmp_path / "small.kvfs", size=16 * MIB)
    count = 60_000
    with opened_volume(volume, evict=True) as client:
        for number in range(count):
            client.store.forget(client.store.mknod(ROOT, b"%0200d" % number, FILE, 0, 0)[INO], 1)
        assert evictions(client)["names"] > 0
        names = client.names()
        assert b"%0200d" % (count - 1) in names
        assert b"%0200d" % 0 not in names
    check_clean(volume)


def test_enospc_mode_drops_nothing(volume: Path) -> None:
    with opened_volume(volume) as client:
        number = 0
        with fails(errno.ENOSPC):
            while True:
                put(client, number)
                number += 1
        client.store.unlink(ROOT, b"page-%d" % number)
        assert present(client, number + 1) == list(range(number))
        statistics = client.store.statistics()["eviction"]
        assert statistics["evicts"] == 0
        assert not any(statistics["files_total"].values())
        check_present(client, list(range(number)))


def test_statfs_tells_what_is_free_of_live_data(volume: Path) -> None:
    with opened_volume(volume, evict=True) as client:
        blocks = capacity(client) // BLOCK
        lowest = blocks
        for number in range(2 * capacity(client) // PAGE):
            put(client, number)
            lowest = min(lowest, client.free_blocks())
        assert client.store.statfs()["blocks"] * BLOCK == capacity(client)
        assert lowest < 0.15 * blocks, "clients' own watermarks are reached"
        live = sum(-(-client.store.lookup(ROOT, name)[7] // BLOCK) for name in client.names())
        assert client.used_blocks() == live


def test_a_pool_file_is_overwritten_while_pages_go(volume: Path) -> None:
    """In place, by copy-on-write, in a store that is full of pages."""
    chance = random.Random(3)
    with opened_volume(volume, evict=True) as client:
        size = capacity(client) // 3 // MIB * MIB
        ino = client.create(ROOT, b"pool", page_bytes(7, size))
        expected = bytearray(page_bytes(7, size))
        with client.opened(ino, write=True):
            for number in range(2 * capacity(client) // PAGE):
                put(client, number)
                at = chance.randrange(size // BLOCK - 16) * BLOCK
                piece = chance.randbytes(16 * BLOCK)
                client.write(ino, at, piece)
                expected[at : at + len(piece)] = piece
            assert client.read(ino) == expected
            client.flush(ino)
        assert client.content(ROOT, b"pool") == expected
    check_clean(volume)


def test_a_crash_at_any_time(volume: Path, tmp_path: Path) -> None:
    """Files are whole or absent, and the store goes on."""
    with opened_volume(volume, evict=True) as client:
        count = 3 * capacity(client) // PAGE
        crashed = tmp_path / "crashed.kvfs"
        for number in range(count):
            put(client, number)
            if number % (count // 8) != count // 8 - 1:
                continue
            crashed.write_bytes(still(volume))
            with opened_volume(crashed, evict=True) as again:  # which may begin to evict at once
                check_whole(again, range(count))
                for fresh in range(count, count + 40):
                    put(again, fresh)
                    check_present(again, [fresh])
                assert check_whole(again, range(count + 40)) >= 40
            check_clean(crashed)


class TestJob:
    """What ``kvfsctl evict`` and ``drain`` run."""

    @staticmethod
    def run(client: Client, **options: object) -> dict[str, object]:
        asked = {"roots": [], "bytes": None, "dry_run": False} | options
        job = _native.EvictionJob(client.store, **asked)
        while job.step() != _native.EVICTION_DONE:
            client.drain()
        return job.progress()

    def test_coldest_first(self, volume: Path) -> None:
        with opened_volume(volume, evict=True) as client:
            for number in range(40):
                put(client, number)
                ino = client.find(ROOT, b"page-%d" % number)
                assert ino is not None
                client.store.setattr(ino, _native.SET_ATIME, atime_ns=(number * 17 % 40 + 1) * OLD)
            tried = self.run(client, bytes=10 * PAGE, dry_run=True)
            assert (tried["files"], tried["bytes"]) == (10, 10 * PAGE)
            assert len(present(client, 40)) == 40
            done = self.run(client, bytes=10 * PAGE)
            assert (done["files"], done["bytes"], done["wanted_bytes"]) == (10, 10 * PAGE, 10 * PAGE)
            assert {number * 17 % 40 for number in present(client, 40)} == set(range(10, 40))
            assert evictions(client)["command"] == 10

    def test_below_a_directory(self, volume: Path) -> None:
        with opened_volume(volume) as client:  # by command, in enospc mode too
            tree = client.store.mkdir(ROOT, b"tree", 0o755, 0, 0)[INO]
            below = client.store.mkdir(tree, b"below", 0o755, 0, 0)[INO]
            put(client, 1)
            put(client, 2, parent=tree)
            put(client, 3, parent=below)
            put(client, 4, parent=below)
            shared = client.find(below, b"page-4")
            assert shared is not None
            client.store.link(shared, ROOT, b"elsewhere")
            client.store.forget(shared, 1)
            opened = client.create(tree, b"open", page_bytes(5, PAGE))
            with client.opened(opened):
                done = self.run(client, roots=[tree])
            assert done["files"] == 2
            assert done["kept"] == {"open": {"files": 1, "bytes": PAGE}}
            assert sorted(client.names()) == [b"elsewhere", b"page-1", b"tree"]
            assert sorted(client.names(tree)) == [b"below", b"open"]
            assert client.names(below) == [b"page-4"]
            assert self.run(client, roots=[opened])["files"] == 1

    def test_everything(self, volume: Path) -> None:
        with opened_volume(volume, evict=True) as client:
            for number in range(100):
                put(client, number)
            assert self.run(client)["files"] == 100
            assert client.names() == []
            assert client.used_blocks() == 0
        check_clean(volume)


def test_atime_and_ctime_do_not_make_a_page_cold(volume: Path) -> None:
    """A time in the past, set by whoever restores a tree, is a use like any other."""
    with opened_volume(volume, evict=True) as client:
        put(client, 0)
        ino = client.find(ROOT, b"page-0")
        assert ino is not None
        attr = client.store.setattr(ino, _native.SET_ATIME, atime_ns=1)
        assert attr[ATIME] == 1
        assert attr[CTIME] > OLD
        assert os.fspath(volume)
