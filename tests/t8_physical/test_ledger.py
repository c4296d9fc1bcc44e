"""The store's second ledger, by the binding and end to end: a store on a file system that fills up."""

import json
import os
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from client import BLOCK, MIB, ROOT, Client, fails, make_volume, opened_volume
from support.mount import KvfsMount, clean_mount, run_command, wait_for


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with opened_volume(make_volume(tmp_path / "store.kvfs", 64 * MIB)) as opened:
        yield opened


def physical(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.store.statistics()["physical"]
    return found


def test_unknown_limits_nothing(client: Client) -> None:
    assert physical(client)["known"] == 0
    assert physical(client)["level"] == "plenty"


@pytest.mark.parametrize(("percent", "level"), [(15.5, "plenty"), (14, "low"), (7, "scarce"), (3, "refuse")])
def test_levels(client: Client, percent: float, level: str) -> None:
    client.store.set_physical(100 * MIB, int(percent * MIB), False)
    assert physical(client)["level"] == level


def test_admission_by_the_smaller_ledger(client: Client) -> None:
    """Segments for 64 MiB, space for 10 less 4 %: data gets that and no more, and a new look gives more."""
    client.store.set_physical(10 * MIB, 10 * MIB, False)
    assert client.free_blocks() * BLOCK < 10 * MIB
    written = 0
    with fails(ENOSPC):
        while written < 64:
            client.create(ROOT, b"%d" % written, os.urandom(MIB))
            written += 1
    assert 7 <= written <= 9
    assert physical(client)["refusals_total"] > 0
    assert all(len(client.content(ROOT, b"%d" % i) or b"") == MIB for i in range(written))
    client.store.unlink(ROOT, b"0")  # what frees space is never refused
    client.store.set_physical(10 * MIB, 8 * MIB, False)
    client.create(ROOT, b"more", os.urandom(MIB))
    client.store.forget_physical()
    for i in range(20):
        client.create(ROOT, b"free%d" % i, os.urandom(MIB))


def test_what_keeps_its_space_can_be_written_again(client: Client) -> None:
    """On a file, segments that are free and not trimmed cost nothing to use again."""
    for i in range(20):
        client.create(ROOT, b"%d" % i, os.urandom(MIB))
    client.sync()
    client.store.set_physical(60 * MIB, 12 * MIB, True)
    before = physical(client)["usable_bytes"]
    for i in range(20):
        client.store.unlink(ROOT, b"%d" % i)
    client.sync()
    wait_for(lambda: physical(client)["usable_bytes"] > before + 4 * MIB, "dead segments count again")


@pytest.mark.kvfs_only
@pytest.mark.root
def test_store_on_a_file_system_that_fills_up(small_file_system: Path) -> None:
    """Somebody else takes the space under the store's holes: writers get ENOSPC, nothing is lost, and TRIM helps."""
    with clean_mount("128M", ("--warm-size", "0", *_enospc()), small_file_system) as mount:
        contents: dict[str, bytes] = {}
        for i in range(20):
            contents[f"page{i}"] = os.urandom(MIB)
            (mount / f"page{i}").write_bytes(contents[f"page{i}"])
        assert _space(mount)["known"] == 0
        with (small_file_system / "other").open("wb") as other:
            other.write(bytes(100 * MIB))
        # a look may come while the other is still written
        wait_for(lambda: os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize < 50 * MIB, "the second ledger")
        assert _space(mount)["known"] == 1
        written = 0
        code = 0
        while not code:
            name, data = f"more{written}", os.urandom(MIB)
            code = _write(mount / name, data)
            if not code:
                contents[name] = data
                written += 1
        assert code == ENOSPC
        assert written > 5
        left = os.statvfs(small_file_system)
        assert left.f_bavail > 0, "the log has what is below the last mark"
        stats = json.loads(run_command("kvfsctl", "status", "--json", mount))["components"]
        assert stats["store"]["health"]["state"] == "healthy"
        assert stats["store"]["physical"]["refusals_total"] > 0
        assert "file system of" in stats["physical"]["source"]
        for name, data in contents.items():
            assert (mount / name).read_bytes() == data
        for name in list(contents)[:10]:
            (mount / name).unlink()
            del contents[name]
        run_command("kvfsctl", "sync", mount)
        before = left.f_bavail
        wait_for(lambda: os.statvfs(small_file_system).f_bavail > before + 1000, "trimmed segments", 30)
        mount.remount()
        for name, data in contents.items():
            assert (mount / name).read_bytes() == data


@pytest.mark.root
def test_command(small_file_system: Path, tmp_path: Path) -> None:
    store = small_file_system / "store"
    with store.open("wb") as file:
        file.truncate(128 * MIB)
    assert "limits nothing" in run_command("kvfsctl", "physical", store)
    (small_file_system / "other").write_bytes(bytes(100 * MIB))
    found = json.loads(run_command("kvfsctl", "physical", "--json", store))
    assert found["limits"]
    assert 0 < found["free_bytes"] < 100 * MIB


def _write(path: Path, data: bytes) -> int:
    """0, or the errno that it fails with."""
    try:
        path.write_bytes(data)
    except OSError as error:
        return error.errno or -1
    return 0


def _space(mount: KvfsMount) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((mount.path / ".kvfs/stats").read_bytes())["components"]["store"]["physical"]
    return found


def _enospc() -> tuple[str, ...]:
    """In evict mode a full store makes room instead."""
    return ("--on-full", "enospc") if "--on-full" in run_command("kvfs", "mount", "--help") else ()
