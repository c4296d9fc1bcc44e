"""Marks on physical space: a store that evicts lets go of cold files ahead of the last mark, and says so."""

import json
import os
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from client import MIB, ROOT, Client, fails, make_volume, opened_volume
from support.mount import KvfsMount, clean_mount, run_command, wait_for

from kvfs.fabric.physical import Reading
from kvfs.fabric.physical_agent import publish

PAGES = 30


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_volume(tmp_path / "store.kvfs", 64 * MIB)


def fill(client: Client) -> dict[bytes, bytes]:
    contents = {b"page%d" % i: os.urandom(MIB) for i in range(PAGES)}
    for name, data in contents.items():
        client.create(ROOT, name, data)
    client.sync()
    return contents


def evicted(client: Client) -> int:
    """Bytes, for want of physical space."""
    found: int = client.store.statistics()["eviction"]["bytes_total"]["physical"]
    return found


def to_evict(client: Client) -> int:
    found: int = client.store.statistics()["physical"]["to_evict_bytes"]
    return found


@pytest.mark.parametrize(("percent", "expected"), [(12, 4 * MIB), (7, 9 * MIB)])
def test_each_look_makes_so_much_dead_as_is_missing(volume: Path, percent: int, expected: int) -> None:
    """To 16 % of 100 MiB, and no page more than that takes."""
    with opened_volume(volume, evict=True) as client:
        contents = fill(client)
        client.store.set_physical(100 * MIB, 16 * MIB, False)
        assert to_evict(client) == 0
        client.store.set_physical(100 * MIB, percent * MIB, False)
        wait_for(lambda: to_evict(client) == 0, "cold files are gone")
        assert expected <= evicted(client) <= expected + MIB
        left = {name: data for name, data in contents.items() if client.content(ROOT, name) is not None}
        assert len(left) == PAGES - evicted(client) // MIB
        assert all(client.content(ROOT, name) == data for name, data in left.items())


def test_what_is_dead_already_counts_until_only_whole_segments_help(volume: Path) -> None:
    """Every other page is deleted: below the first mark that is enough, below the second it gives nothing back yet."""
    with opened_volume(volume, evict=True) as client:
        names = list(fill(client))
        for name in names[::2]:
            client.store.unlink(ROOT, name)
        client.sync()
        client.store.set_physical(100 * MIB, 9 * MIB, False)
        assert to_evict(client) == 0
        client.store.set_physical(100 * MIB, 7 * MIB, False)
        wait_for(lambda: to_evict(client) == 0, "cold files are gone")
        assert evicted(client) > 0


def test_nothing_goes_in_enospc_mode_nor_without_news(volume: Path) -> None:
    with opened_volume(volume) as client:
        fill(client)
        client.store.set_physical(100 * MIB, 5 * MIB, False)
        assert to_evict(client) == 0
    with opened_volume(volume, evict=True) as client:
        client.store.forget_physical()
        assert (to_evict(client), evicted(client)) == (0, 0)


def components(mount: KvfsMount) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((mount.path / ".kvfs/stats").read_bytes())["components"]["store"]
    return found


@pytest.mark.kvfs_only
def test_a_mount_follows_what_an_agent_publishes(tmp_path: Path) -> None:
    """Mark by mark, and back: `status` says what it does, and data is refused below the last one only."""
    published = tmp_path / "physical"

    def tell(percent: int, level: str) -> str:
        publish(published, Reading(1000 * MIB, percent * 10 * MIB, rewrites_in_place=False), "a drive", 3600)
        wait_for(lambda: components(mount)["physical"]["level"] == level, f"level {level}")
        return run_command("kvfsctl", "status", mount)

    publish(published, Reading(1000 * MIB, 500 * MIB, rewrites_in_place=False), "a drive", 3600)
    with clean_mount("64M", ("--physical-space", os.fspath(published))) as mount:
        page = os.urandom(MIB)
        for i in range(4):
            (mount / f"page{i}").write_bytes(page)
        (mount / "pinned").write_bytes(page)
        run_command("kvfsctl", "pin", mount / "pinned", "--for", "1h")
        assert "physical space is" not in tell(50, "plenty")
        assert "physical space is low: " in tell(12, "low")
        wait_for(lambda: components(mount)["eviction"]["files_total"]["physical"] == 4, "all that may go is gone")
        assert os.listdir(mount) == ["pinned"]
        (mount / "taken").write_bytes(page)
        said = tell(6, "scarce")
        assert "physical space is scarce: " in said
        assert "evicted ahead of need" in said
        assert "nothing is taken but what frees space" in tell(3, "refuse")
        with fails(ENOSPC):
            (mount / "refused").write_bytes(page)
        (mount / "refused").unlink(missing_ok=True)
        assert "physical space is" not in tell(50, "plenty")
        (mount / "again").write_bytes(page)
        assert (mount / "again").read_bytes() == (mount / "pinned").read_bytes() == page


@pytest.mark.kvfs_only
@pytest.mark.root
def test_a_file_system_that_fills_up_costs_cold_files_and_no_write(small_file_system: Path) -> None:
    with clean_mount("128M", ("--warm-size", "0"), small_file_system) as mount:
        contents = {f"page{i}": os.urandom(MIB) for i in range(60)}
        for name, data in contents.items():
            (mount / name).write_bytes(data)
        run_command("kvfsctl", "sync", mount)
        space = os.statvfs(small_file_system)
        with (small_file_system / "other").open("wb") as other:
            other.write(bytes(space.f_bavail * space.f_frsize - 4 * MIB))
        wait_for(lambda: components(mount)["eviction"]["files_total"]["physical"] > 0, "cold files go")
        wait_for(lambda: components(mount)["physical"]["level"] in ("plenty", "low"), "segments are given back")
        for i in range(3):
            contents[f"more{i}"] = os.urandom(MIB)
            (mount / f"more{i}").write_bytes(contents[f"more{i}"])
        left = [name for name in contents if (mount / name).exists()]
        assert len(left) > len(contents) // 2, "no more goes than is needed"
        assert all((mount / name).read_bytes() == contents[name] for name in left)
