"""Pages that clients read by passthrough cannot be taken from them: they stay, and stay right."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import MIB, ROOT, Client
from connection import fuse_connection
from warming import MakeTier, noise, staged

from kvfs._native import WarmPage, WarmTier
from kvfs.cli.probes import fuse

pytestmark = pytest.mark.root


@pytest.fixture
def fuse_fd(tmp_path: Path) -> Iterator[int]:
    if not fuse.passthrough().is_ok:
        pytest.skip("NOT TESTED: this kernel has no FUSE passthrough")
    with fuse_connection(tmp_path / "mountpoint") as fd:
        yield fd


@pytest.fixture
def tier(make_tier: MakeTier, fuse_fd: int) -> WarmTier:
    return make_tier(4 * MIB, fuse_fd=fuse_fd, largest_file=2 * MIB)


def opened(tier: WarmTier, ino: int) -> WarmPage:
    page = tier.opened(ino)
    assert page is not None
    return page


def as_clients_see(page: WarmPage) -> bytes:
    return os.pread(page.fd, 1 << 30, 0)


def test_it_is_registered_once(client: Client, tier: WarmTier) -> None:
    ino = client.create(ROOT, b"page", bytes(MIB))
    assert tier.opened(ino) is None, "it is cold"
    staged(tier, ino)
    first, second = opened(tier, ino), opened(tier, ino)
    assert first.backing_id > 0
    assert first.backing_id == second.backing_id
    assert tier.statistics()["passthrough_handles"] == 2
    tier.released(first)
    tier.released(second)
    assert tier.statistics()["passthrough_handles"] == 0


def test_it_is_not_evicted(client: Client, tier: WarmTier) -> None:
    inos = [client.create(ROOT, b"page%d" % i, noise(i, MIB)) for i in range(8)]
    staged(tier, inos[0])
    opened(tier, inos[0])
    for ino in inos[1:]:
        staged(tier, ino)
    page = tier.find(inos[0])
    assert page is not None
    assert tier.statistics()["bytes"] == 4 * MIB
    tier.released(page)
    del page
    for ino in inos[1:]:
        staged(tier, ino)
    assert tier.find(inos[0]) is None


def test_it_is_brought_up_to_date(client: Client, tier: WarmTier) -> None:
    data = bytearray(noise("page", MIB))
    ino = client.create(ROOT, b"page", bytes(data))
    staged(tier, ino)
    page = opened(tier, ino)
    for offset, size in ((0, 1), (4095, 2), (100_000, 50_000), (MIB - 7, 7)):
        client.write(ino, offset, noise(offset, size))
        data[offset : offset + size] = noise(offset, size)
        assert not tier.drop(ino)
        tier.refresh(ino, offset, size)
        assert as_clients_see(page) == bytes(data)
        assert bytes(page) == bytes(data)
    assert tier.find(ino) is not None
    tier.released(page)
    assert tier.find(ino) is None, "a page that was changed goes with its last user"
    assert bytes(staged(tier, ino)) == bytes(data)


def test_it_becomes_longer(client: Client, tier: WarmTier) -> None:
    ino = client.create(ROOT, b"page", noise("page", 100_000))
    staged(tier, ino)
    page = opened(tier, ino)
    client.write(ino, 300_000, b"end")
    assert not tier.drop(ino)
    tier.refresh(ino, 300_000, 3)
    assert as_clients_see(page) == noise("page", 100_000) + bytes(200_000) + b"end"
    assert tier.find(ino) is None, "its size is not the file's"
    assert tier.opened(ino) is None
    assert tier.stage(ino) is None, "no second page under the same inode"
    tier.released(page)
    assert len(staged(tier, ino)) == 300_003


def test_it_becomes_shorter(client: Client, tier: WarmTier) -> None:
    ino = client.create(ROOT, b"page", noise("page", MIB))
    staged(tier, ino)
    page = opened(tier, ino)
    client.truncate(ino, 10_000)
    assert not tier.drop(ino)
    tier.refresh(ino, 0, 0)
    assert as_clients_see(page) == noise("page", MIB)[:10_000]
    # who still copies from the mapping gets zeros there, not SIGBUS
    assert bytes(page)[12288:] == bytes(MIB - 12288)
    client.write(ino, 20_000, b"again")
    tier.refresh(ino, 20_000, 5)
    assert as_clients_see(page) == noise("page", MIB)[:10_000] + bytes(10_000) + b"again"
    tier.released(page)


def test_an_unlinked_file_stays_readable(client: Client, tier: WarmTier) -> None:
    ino = client.create(ROOT, b"page", noise("page", MIB))
    with client.opened(ino):
        staged(tier, ino)
        page = opened(tier, ino)
        client.store.unlink(ROOT, b"page")
        assert as_clients_see(page) == noise("page", MIB)
        tier.released(page)


def test_without_the_right_connection_nothing_is_offered(client: Client, make_tier: MakeTier) -> None:
    with open("/dev/null") as other:
        tier = make_tier(4 * MIB, fuse_fd=other.fileno())
        ino = client.create(ROOT, b"page", bytes(MIB))
        staged(tier, ino)
        assert tier.opened(ino) is None
        assert tier.statistics()["passthrough"] == 0
        assert tier.find(ino) is not None
