"""``kvfsctl fsck --repair``, ``kvfsctl scrub``, and what ``kvfs mount`` says of a damaged store."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import BLOCK, MIB, ROOT, make_volume, opened_volume
from images import Image, noise
from place import Done, Place
from support.mount import is_mounted

PATIENCE = 60  # s
SIZE = 64 * MIB


def page(number: int) -> bytes:
    return noise(("page", number), 20_000 + 200_000 * number)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a checkpoint and pages."""
    path = make_volume(tmp_path_factory.mktemp("filled") / "store.kvfs", SIZE, MIB)
    with opened_volume(path) as client:
        for number in range(8):
            client.create(ROOT, b"page %d" % number, page(number))
    return path


@pytest.fixture
def place(filled: Path) -> Iterator[Place]:
    """With a copy of that, which is not mounted."""
    place = Place()
    try:
        shutil.copyfile(filled, place.store)
        yield place
    finally:
        place.clear()


def patch(place: Place, at: int, data: bytes) -> None:
    Image(place.store, b"").write(at, data)


def find(place: Place, data: bytes) -> int:
    return place.store.read_bytes().index(data[:BLOCK])


def damage_page(place: Place, number: int) -> None:
    patch(place, find(place, page(number)) + 500, b"damage")


def damage_checkpoint(place: Place) -> None:
    at, _ = Image(place.store, b"").frames(checkpoint=True)[0]
    patch(place, at + 100, b"damage")


def fsck(place: Place, *options: str, status: int) -> Done:
    done = place.run("kvfsctl", "fsck", *options, place.store)
    assert done.status == status, done
    assert done.error == ""
    return done


def test_a_clean_store_needs_no_repair(place: Place) -> None:
    before = place.store.read_bytes()
    assert fsck(place, "--repair", status=0).output.endswith("clean\n")
    assert place.store.read_bytes() == before


def test_a_page_is_dropped(place: Place) -> None:
    damage_page(place, 3)
    before = place.store.read_bytes()
    fsck(place, status=1)
    fsck(place, "--repair", "--dry-run", status=1)
    assert place.store.read_bytes() == before
    output = fsck(place, "--repair", status=1).output
    assert "checksum at /page 3" in output
    assert "  /page 3: dropped, its data does not verify\nrepaired\n" in output
    assert fsck(place, "--repair", status=0).output.endswith("clean\n")
    assert place.mount().status == 0
    assert sorted(os.listdir(place.mountpoint)) == [f"page {number}" for number in range(8) if number != 3]
    assert (place.mountpoint / "page 4").read_bytes() == page(4)


def test_json(place: Place) -> None:
    damage_page(place, 3)
    report: dict[str, Any] = json.loads(fsck(place, "--repair", "--json", status=1).output)
    assert report["before"]["clean"] is False
    assert report["after"]["clean"] is True
    assert report["files_dropped"] == 1
    assert report["done"] == ["/page 3: dropped, its data does not verify"]


def test_a_damaged_checkpoint_is_refused_with_the_way_out(place: Place) -> None:
    damage_checkpoint(place)
    for options in ((), ("--read-only",)):
        done = place.run("kvfs", "mount", *options, place.store, place.mountpoint)
        done.says(
            "the checkpoint is damaged: expected frame 1 ", "found none", f"`kvfsctl fsck --repair {place.store}`"
        )
        assert not is_mounted(place.mountpoint)
    assert "checkpoint at segment" in fsck(place, status=1).output
    assert "a new checkpoint holds what is left" in fsck(place, "--repair", status=1).output
    assert place.mount().status == 0


def test_a_store_in_use_is_not_repaired(place: Place) -> None:
    assert place.mount().status == 0
    place.run("kvfsctl", "fsck", "--repair", place.store).says("pid ", str(place.mountpoint))


def scrub(place: Place, *options: str, status: int = 0) -> dict[str, Any]:
    done = place.run("kvfsctl", "scrub", *options, "--json", place.mountpoint)
    assert done.status == status, done
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_scrub(place: Place) -> None:
    assert place.mount().status == 0
    assert scrub(place, "--status")["started"] is None
    found = scrub(place)
    assert found["state"] == "idle"
    assert found["files"] == 8
    assert found["bytes"] == found["expected_bytes"] >= sum(len(page(number)) for number in range(8))
    assert found["passes"] == 1
    text = place.run("kvfsctl", "scrub", "--status", place.mountpoint)
    assert "scrub finished" in text.output
    assert "in 8 files read, all of it as it was written" in text.output
    stats = json.loads((place.mountpoint / ".kvfs" / "stats").read_bytes())["components"]["store"]["scrub"]
    assert stats["passes_total"] == 1
    assert stats["pass_files"] == 8


def test_scrub_drops_what_is_damaged(place: Place) -> None:
    assert place.mount().status == 0
    assert (place.mountpoint / "page 3").stat().st_size == len(page(3))  # the kernel knows it
    damage_page(place, 3)
    found = scrub(place, status=1)
    assert (found["damaged"], found["dropped"]) == (1, 1)
    deadline = time.monotonic() + PATIENCE
    while (place.mountpoint / "page 3").exists():  # until the daemon has told the kernel
        assert time.monotonic() < deadline
    assert "file dropped: page 3" in place.log.read_text()
    assert "1 file dropped" in place.run("kvfsctl", "scrub", "--status", place.mountpoint).output
    assert scrub(place)["damaged"] == 0


def test_scrub_is_paused_and_goes_on_after_a_remount(place: Place) -> None:
    assert place.mount().status == 0
    assert scrub(place, "--rate", "20K", "--background")["state"] == "running"
    deadline = time.monotonic() + PATIENCE
    while scrub(place, "--status")["files"] < 1:
        assert time.monotonic() < deadline
    paused = scrub(place, "--pause")
    assert paused["state"] == "paused"
    assert 1 <= paused["files"] < 8
    assert place.run("kvfs", "umount", place.mountpoint).status == 0
    assert place.mount().status == 0
    assert scrub(place, "--status")["state"] == "paused"
    done = scrub(place)
    assert done["state"] == "idle"
    assert done["files"] == 8
    assert done["started"] == paused["started"]


def test_an_interrupt_pauses(place: Place) -> None:
    assert place.mount().status == 0
    with place.start("kvfsctl", "scrub", "--rate", "100K", place.mountpoint) as process:
        deadline = time.monotonic() + PATIENCE
        while scrub(place, "--status")["bytes"] == 0:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=PATIENCE)
    assert error == b""
    assert b"scrub paused; `kvfsctl scrub " in output
    assert process.returncode == 0
    assert scrub(place, "--cancel")["state"] == "idle"


def test_bad_calls(place: Place) -> None:
    done = place.run("kvfsctl", "scrub", "--pause", "--cancel", place.mountpoint)
    done.says("expected one of --background, --pause, --cancel and --status")
    assert done.status == 2
    place.run("kvfsctl", "scrub", place.mountpoint).says("kvfs")
