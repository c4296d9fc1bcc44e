"""What is in the tier is the file's content; what is not, costs nothing."""

import os
import threading
from pathlib import Path

import pytest
from client import BLOCK, INO, MIB, ROOT, Client, make_volume
from warming import MakeTier, noise, staged

from kvfs._native import WarmPage, WarmTier

KIB = 1024


class TestStaging:
    @pytest.mark.parametrize("size", [64 * KIB, 64 * KIB + 1, MIB - 1, 2 * MIB, 5 * MIB + 12345])
    def test_the_page_is_the_file(self, client: Client, tier: WarmTier, size: int) -> None:
        data = noise(size, size)
        ino = client.create(ROOT, b"page", data)
        page = staged(tier, ino)
        assert (page.ino, len(page), page.backing_id) == (ino, size, 0)
        assert bytes(page) == data
        assert os.pread(page.fd, size + 1, 0) == data
        with pytest.raises(TypeError):
            memoryview(page)[0] = 1
        found = tier.find(ino)
        assert found is not None
        assert bytes(found) == data

    def test_a_sparse_file(self, client: Client, tier: WarmTier) -> None:
        ino = client.create(ROOT, b"sparse")
        client.write(ino, 300 * KIB, b"end")
        client.flush(ino)
        assert bytes(staged(tier, ino)) == bytes(300 * KIB) + b"end"

    def test_bytes_that_no_flush_followed(self, client: Client, tier: WarmTier) -> None:
        ino = client.create(ROOT, b"open")
        with client.opened(ino, write=True):
            client.write(ino, 0, noise("open", 100_000))
            assert bytes(staged(tier, ino)) == noise("open", 100_000)

    def test_what_is_not_taken(self, client: Client, make_tier: MakeTier) -> None:
        tier = make_tier(8 * MIB, least_file=64 * KIB, largest_file=MIB)
        small = client.create(ROOT, b"small", bytes(64 * KIB - 1))
        large = client.create(ROOT, b"large", bytes(MIB + 1))
        link = client.store.symlink(ROOT, b"link", b"small", 0, 0)[INO]
        for ino in (small, large, link, ROOT, 12345):
            assert tier.stage(ino) is None
            assert tier.find(ino) is None
        statistics = tier.statistics()
        assert (statistics["pages"], statistics["bytes"], statistics["stagings_total"]) == (0, 0, 0)

    def test_the_largest_file_is_a_share_of_the_budget(self, client: Client, make_tier: MakeTier) -> None:
        tier = make_tier(4 * MIB)
        assert tier.stage(client.create(ROOT, b"quarter", bytes(MIB))) is not None
        assert tier.stage(client.create(ROOT, b"more", bytes(MIB + 1))) is None

    def test_one_reading_serves_all_who_ask(self, client: Client, tier: WarmTier) -> None:
        data = noise("shared", 8 * MIB)
        ino = client.create(ROOT, b"shared", data)
        start = threading.Barrier(4)
        pages: list[WarmPage | None] = []

        def ask() -> None:
            start.wait()
            pages.append(tier.stage(ino))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [page is not None and bytes(page) == data for page in pages] == [True] * 4
        assert tier.statistics()["stagings_total"] == 1

    def test_a_corrupt_file_does_not_get_in(self, tmp_path: Path) -> None:
        volume = make_volume(tmp_path / "corrupt.kvfs")
        data = noise("corrupt", MIB // 2)
        client = Client(volume)
        ino = client.create(ROOT, b"corrupt", data)
        client.close()
        image = volume.read_bytes()
        with volume.open("r+b") as file:
            file.seek(image.index(data[BLOCK : 2 * BLOCK]))
            file.write(b"!")
        client = Client(volume)
        tier = WarmTier(client.store, 8 * MIB)
        assert tier.stage(ino) is None
        assert tier.find(ino) is None
        statistics = tier.statistics()
        assert (statistics["staging_failures_total"], statistics["bytes"]) == (1, 0)
        assert any("checksum" in line for line in client.warnings())
        tier.close()
        client.close()


class TestChanges:
    def test_a_write_takes_the_page_out(self, client: Client, tier: WarmTier) -> None:
        ino = client.create(ROOT, b"page", bytes(MIB))
        before = staged(tier, ino)
        client.write(ino, 1000, b"new")
        assert tier.drop(ino)
        assert tier.find(ino) is None
        assert bytes(staged(tier, ino))[998:1005] == b"\0\0new\0\0"
        assert bytes(before) == bytes(MIB), "who holds a page keeps what he has"

    def test_truncation(self, client: Client, tier: WarmTier) -> None:
        ino = client.create(ROOT, b"page", noise("page", MIB))
        staged(tier, ino)
        client.truncate(ino, 100_000)
        assert tier.drop(ino)
        assert bytes(staged(tier, ino)) == noise("page", MIB)[:100_000]

    def test_an_inode_number_that_is_used_again(self, client: Client, tier: WarmTier) -> None:
        ino = client.create(ROOT, b"first", bytes(MIB))
        staged(tier, ino)
        client.store.unlink(ROOT, b"first")
        assert tier.find(ino) is None
        second = client.create(ROOT, b"second", noise("second", MIB))
        assert second == ino, "the point of this test"
        assert tier.find(ino) is None
        assert bytes(staged(tier, ino)) == noise("second", MIB)

    def test_stagings_and_writes_at_once(self, client: Client, tier: WarmTier) -> None:
        """After a change is answered nobody finds what was before it, whatever was being read meanwhile."""
        size = 512 * KIB
        ino = client.create(ROOT, b"page", bytes(size))
        over = threading.Event()

        def disturb() -> None:
            while not over.is_set():
                tier.stage(ino)

        threads = [threading.Thread(target=disturb) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for version in range(1, 200):
                client.write(ino, 0, bytes([version % 256]) * size)
                assert tier.drop(ino)
                page = tier.find(ino) or tier.stage(ino)
                while page is None:  # it joined one that was stale
                    page = tier.stage(ino)
                assert bytes(page) == bytes([version % 256]) * size
        finally:
            over.set()
            for thread in threads:
                thread.join()


class TestBudget:
    def pages(self, client: Client, count: int) -> list[int]:
        return [client.create(ROOT, b"page%d" % i, noise(i, MIB)) for i in range(count)]

    def test_it_is_kept(self, client: Client, make_tier: MakeTier) -> None:
        tier = make_tier(4 * MIB)
        for ino in self.pages(client, 10):
            assert tier.stage(ino) is not None
            assert tier.statistics()["bytes"] <= 4 * MIB
        statistics = tier.statistics()
        assert (statistics["pages"], statistics["evictions_total"]) == (4, 6)

    def test_the_oldest_goes_unless_it_was_used(self, client: Client, make_tier: MakeTier) -> None:
        tier = make_tier(4 * MIB)
        inos = self.pages(client, 6)
        for ino in inos[:4]:
            staged(tier, ino)
        assert tier.find(inos[0]) is not None
        staged(tier, inos[4])
        staged(tier, inos[5])
        warm = [ino in {page.ino for page in map(tier.find, inos) if page is not None} for ino in inos]
        assert warm == [True, False, False, True, True, True]

    def test_a_page_that_is_held_is_not_evicted(self, client: Client, make_tier: MakeTier) -> None:
        tier = make_tier(4 * MIB)
        inos = self.pages(client, 5)
        held = [staged(tier, ino) for ino in inos[:4]]
        assert tier.stage(inos[4]) is None
        statistics = tier.statistics()
        assert (statistics["refused_total"], statistics["evictions_total"], statistics["bytes"]) == (1, 0, 4 * MIB)
        held.pop()
        assert tier.stage(inos[4]) is not None
        assert [bytes(page) for page in held] == [noise(i, MIB) for i in range(3)]

    def test_a_page_outlives_its_tier(self, client: Client) -> None:
        ino = client.create(ROOT, b"page", noise("page", MIB))
        tier = WarmTier(client.store, 4 * MIB)
        page = staged(tier, ino)
        tier.close()
        assert bytes(page) == noise("page", MIB)

    def test_nothing_is_left_open(self, client: Client) -> None:
        before = len(os.listdir("/proc/self/fd"))
        inos = self.pages(client, 4)
        tier = WarmTier(client.store, 2 * MIB, largest_file=MIB)
        for _ in range(5):
            for ino in inos:
                staged(tier, ino)
        tier.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_large_pages_lie_in_huge_folios(client: Client, tier: WarmTier) -> None:
    """What makes reads of them as fast as those of the page cache."""
    if tier.statistics()["memory"] != "tmpfs" or not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("NOT TESTED: no memory of our own, or no huge pages, here")
    before = _huge_page_failures()
    page = staged(tier, client.create(ROOT, b"page", bytes(8 * MIB)))
    if _huge_page_failures() != before:
        pytest.skip("NOT TESTED: memory is too fragmented for huge pages")
    inode = os.fstat(page.fd).st_ino
    mapped = 0
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            is_ours = fields[4] == str(inode) and "(deleted)" in line
        elif is_ours and fields[0] == "ShmemPmdMapped:":
            mapped += int(fields[1]) * KIB
    assert mapped == 8 * MIB


def _huge_page_failures() -> list[str]:
    lines = Path("/proc/vmstat").read_text().splitlines()
    return [line for line in lines if line.startswith("thp_file_fallback")]
