"""A tenant over its quota in a store that evicts: its own cold pages go, nobody else's, and its writes succeed."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import DIRECTORY, FILE, INO, ROOT, Client, check_clean, fails, make_volume, opened_volume

from kvfs import _native

MIB = 1 << 20
PAGE = 64 * 1024
FAR = b"2100-01-01T00:00:00Z"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_volume(tmp_path / "store.kvfs", 64 * MIB)


@pytest.fixture
def client(volume: Path) -> Iterator[Client]:
    with opened_volume(volume, evict=True) as opened:
        yield opened
        for quota in _native.quotas(opened.store, recount=True):
            assert (quota["bytes"], quota["files"]) == (quota["counted_bytes"], quota["counted_files"]), quota
    check_clean(volume)


def make_tenant(client: Client, name: bytes, most: bytes, files: bytes = b"0") -> int:
    directory = int(client.store.mkdir(ROOT, name, DIRECTORY, 0, 0)[INO])
    client.store.setxattr(directory, b"user.kvfs.quota.bytes", most)
    client.store.setxattr(directory, b"user.kvfs.quota.files", files)
    return directory


def usage(client: Client, directory: int) -> tuple[int, int]:
    """Bytes and files."""
    return (
        int(client.store.getxattr(directory, b"user.kvfs.usage.bytes")),
        int(client.store.getxattr(directory, b"user.kvfs.usage.files")),
    )


def noise(name: bytes, size: int = PAGE) -> bytes:
    return random.Random(name).randbytes(size)


def test_only_its_own_pages_go(client: Client) -> None:
    tenant, other = make_tenant(client, b"tenant", b"2M"), make_tenant(client, b"other", b"8M")
    for number in range(30):
        for directory in (other, ROOT):
            client.create(directory, b"%d" % number, noise(b"%d" % number))
    for number in range(200):
        client.create(tenant, b"%d" % number, noise(b"%d" % number))
        assert usage(client, tenant)[0] <= 2 * MIB
    left = client.names(tenant)
    assert len(left) >= 24, "a quarter more went than had to"
    for name in left:
        assert client.content(tenant, name) == noise(name)
    for number in range(30):
        for directory in (other, ROOT):
            assert client.content(directory, b"%d" % number) == noise(b"%d" % number)
    assert client.store.statistics()["settings"]["quota_refusals_total"] == 0
    assert client.store.statistics()["eviction"]["files_total"]["quota"] == 200 - len(left)


def test_files_go_for_files(client: Client) -> None:
    tenant = make_tenant(client, b"tenant", b"0", b"50")
    client.create(ROOT, b"elsewhere")
    for number in range(300):
        client.create(tenant, b"%d" % number)
        assert usage(client, tenant)[1] <= 50
    assert client.find(ROOT, b"elsewhere") is not None
    client.store.mkdir(tenant, b"directory", DIRECTORY, 0, 0)
    client.store.symlink(tenant, b"link", b"target", 0, 0)
    assert usage(client, tenant)[1] <= 50


def test_a_rename_makes_room_where_it_goes(client: Client) -> None:
    tenant = make_tenant(client, b"tenant", b"1M")
    for number in range(100):
        client.create(ROOT, b"tmp", noise(b"%d" % number))
        client.rename(ROOT, b"tmp", tenant, b"%d" % (number % 40))  # some replace one that may have been evicted
        assert usage(client, tenant)[0] <= MIB
        assert client.content(tenant, b"%d" % (number % 40)) == noise(b"%d" % number)
    assert client.names() == [b"tenant"]


def test_what_is_kept_is_not_given_up(client: Client) -> None:
    """Pinned, open and being written: then EDQUOT, and nothing is gone."""
    tenant = make_tenant(client, b"tenant", b"1M")
    for number in range(16):
        ino = client.create(tenant, b"%d" % number, noise(b"%d" % number))
        client.store.setxattr(ino, b"user.kvfs.pin", FAR)
    with fails(errno.EDQUOT):
        client.create(tenant, b"page", noise(b"page"))
    client.store.unlink(tenant, b"page")
    assert len(client.names(tenant)) == 16
    ino = client.find(tenant, b"7")
    assert ino is not None
    client.store.removexattr(ino, b"user.kvfs.pin")
    with client.opened(ino), fails(errno.EDQUOT):
        client.create(tenant, b"page", noise(b"page"))
    client.store.unlink(tenant, b"page")
    client.create(tenant, b"page", noise(b"page"))
    assert client.find(tenant, b"7") is None
    assert len(client.names(tenant)) == 16
    fresh = client.store.create(tenant, b"fresh", FILE, 0, 0)[INO]
    client.store.open(fresh, True)
    client.write(fresh, 0, noise(b"fresh"))  # for which the unpinned page goes, and never this one itself
    with fails(errno.EDQUOT):
        client.write(fresh, PAGE, noise(b"more"))
    assert client.read(fresh) == noise(b"fresh")
    client.store.release(fresh, True)
    client.store.forget(fresh, 1)


def test_what_can_never_fit_costs_nothing(client: Client) -> None:
    tenant = make_tenant(client, b"tenant", b"512K")
    for number in range(4):
        client.create(tenant, b"%d" % number, noise(b"%d" % number))
    ino = client.store.create(tenant, b"big", FILE, 0, 0)[INO]
    with client.opened(ino, write=True), fails(errno.EDQUOT):
        client.write(ino, 0, os.urandom(MIB))
    client.store.forget(ino, 1)
    assert sorted(client.names(tenant)) == [b"0", b"1", b"2", b"3", b"big"]


def test_a_full_store_spares_what_is_kept(client: Client) -> None:
    """Room for everybody is made of anybody's pages, within their quotas or not; of pinned ones never."""
    tenant = make_tenant(client, b"tenant", b"1G")
    for number in range(20):
        client.create(tenant, b"%d" % number, noise(b"%d" % number))
    client.store.setxattr(tenant, b"user.kvfs.pin", FAR)
    loose = make_tenant(client, b"loose", b"1G")
    for number in range(1500):
        client.create(loose, b"%d" % number, noise(b"%d" % number))
    assert len(client.names(loose)) < 1200
    for number in range(20):
        assert client.content(tenant, b"%d" % number) == noise(b"%d" % number)
