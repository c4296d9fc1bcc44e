"""What clients write by shared mappings of a page in use reaches the store, although no request tells of it."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client import BLOCK, MIB, ROOT, Client
from connection import fuse_connection
from support.mount import wait_for
from warming import MakeTier, noise, staged

from kvfs._native import WarmPage, WarmTier
from kvfs.cli.probes import fuse

pytestmark = pytest.mark.root

SIZE = MIB + 100


@pytest.fixture
def tier(make_tier: MakeTier, tmp_path: Path) -> Iterator[WarmTier]:
    if not fuse.passthrough().is_ok:
        pytest.skip("NOT TESTED: this kernel has no FUSE passthrough")
    with fuse_connection(tmp_path / "mountpoint") as fd:
        tier = make_tier(8 * MIB, fuse_fd=fd)
        yield tier
        tier.close()


@pytest.fixture
def ino(client: Client) -> int:
    return client.create(ROOT, b"page", noise("page", SIZE))


@pytest.fixture
def page(tier: WarmTier, ino: int) -> WarmPage:
    """Open twice: by somebody who reads it, and by somebody who may write it."""
    staged(tier, ino)
    page = tier.opened(ino)
    assert page is not None
    tier.joined(page, True)
    return page


@contextmanager
def mapped(page: WarmPage) -> Iterator[mmap.mmap]:
    """As the kernel maps it for a client: by an open file of its own, which the mapping keeps."""
    fd = os.open(f"/proc/self/fd/{page.fd}", os.O_RDWR)
    mapping = mmap.mmap(fd, SIZE)
    os.close(fd)
    with mapping:
        yield mapping


def test_it_is_written_back_when_asked(client: Client, tier: WarmTier, ino: int, page: WarmPage) -> None:
    data = bytearray(noise("page", SIZE))
    with mapped(page) as mapping:
        for offset, size in ((0, 1), (5000, 10_000), (SIZE - 3, 3)):
            mapping[offset : offset + size] = noise(offset, size)
            data[offset : offset + size] = noise(offset, size)
        assert client.read(ino) != bytes(data)
        tier.write_back(page)
        assert client.read(ino) == bytes(data)
        # 1, 3 or 4, and the last block, which is short
        assert tier.statistics()["mapped_bytes_written_total"] <= 5 * BLOCK + 100
        before = tier.statistics()["mapped_bytes_written_total"]
        tier.write_back(page)
        assert tier.statistics()["mapped_bytes_written_total"] == before, "there was nothing new"
    tier.released(page)
    tier.released(page)


def test_it_does_not_undo_what_was_written_otherwise(client: Client, tier: WarmTier, ino: int, page: WarmPage) -> None:
    data = bytearray(noise("page", SIZE))
    with mapped(page) as mapping:
        mapping[100:200] = data[100:200] = noise("mapping", 100)
        for offset, size in ((150_000, 4096), (300, 10)):
            client.write(ino, offset, noise(offset, size))
            data[offset : offset + size] = noise(offset, size)
            assert not tier.drop(ino)
            tier.refresh(ino, offset, size)
        assert mapping[:] == bytes(data)
        tier.write_back(page)
        assert client.read(ino) == bytes(data)
        # longer and shorter
        client.write(ino, SIZE + 10_000, b"end")
        tier.refresh(ino, SIZE + 10_000, 3)
        mapping[:10] = data[:10] = b"0123456789"
        tier.write_back(page)
        assert client.read(ino) == bytes(data) + bytes(10_000) + b"end"
        client.truncate(ino, 100_000)
        tier.refresh(ino, 0, 0)
        mapping[50_000:50_010] = data[50_000:50_010] = b"abcdefghij"
        tier.write_back(page)
        assert client.read(ino) == bytes(data[:100_000])
    tier.released(page)
    tier.released(page)


def test_a_mapping_outlives_its_descriptor(client: Client, tier: WarmTier, ino: int, page: WarmPage) -> None:
    data = bytearray(noise("page", SIZE))
    with mapped(page) as mapping:
        tier.released(page)
        tier.released(page)
        mapping[1000:2000] = data[1000:2000] = noise("later", 1000)
        wait_for(lambda: client.read(ino) == bytes(data), "written back")
        assert not tier.drop(ino), "somebody has it mapped"
        mapping[3000:4000] = data[3000:4000] = noise("even later", 1000)
    wait_for(lambda: tier.find(ino) is None, "let go")
    assert client.read(ino) == bytes(data)


def test_an_unlinked_file(client: Client, tier: WarmTier, ino: int, page: WarmPage) -> None:
    with mapped(page) as mapping:
        tier.released(page)
        tier.released(page)
        client.store.unlink(ROOT, b"page")
        other = client.create(ROOT, b"other", noise("other", SIZE))
        mapping[:5] = b"stale"
    wait_for(lambda: tier.find(ino) is None, "let go")
    assert client.content(ROOT, b"other") == noise("other", SIZE)
    assert other != ino, "the number stays taken as long as mappings may write"


def test_the_end_of_the_tier(client: Client, tier: WarmTier, ino: int, page: WarmPage) -> None:
    data = bytearray(noise("page", SIZE))
    with mapped(page) as mapping:
        mapping[7:17] = data[7:17] = b"at the end"
        tier.close()
    assert client.read(ino) == bytes(data)
