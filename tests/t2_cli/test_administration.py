"""``kvfsctl format``, ``info``, ``fsck`` and ``status``: answers for people, and JSON for machines."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from place import Done, Place

from kvfs.cli.administration import format_stores
from kvfs.errors import VolumeError
from kvfs.store import volume


def parsed(done: Done) -> Any:
    assert (done.status, done.error) == (0, ""), done
    return json.loads(done.output)


def test_format_answers_with_what_it_made(place: Place) -> None:
    done = place.run(
        "kvfsctl", "format", "--size", "64M", "--segment-size", "2M", "--label", "pages", "--json", place.store
    )
    (made,) = parsed(done)
    assert made == parsed(place.run("kvfsctl", "info", "--json", place.store))
    assert (made["path"], made["kind"], made["label"]) == (str(place.store), "file", "pages")
    assert (made["size"], made["segment_size"], made["clean"]) == (64 << 20, 2 << 20, True)
    assert [copy["valid"] for copy in made["superblocks"]] == [True] * 3
    shown = place.run("kvfsctl", "info", place.store)
    for part in (str(place.store), made["uuid"], "pages", "64 MiB", "2 MiB", "closed in order", "superblock end"):
        assert part in shown.output


def test_several_stores_at_once(place: Place) -> None:
    stores = [place.root / name for name in ("a", "b")]
    made = parsed(place.run("kvfsctl", "format", "--size", "64M", "--json", *stores))
    assert [volume["path"] for volume in made] == [str(store) for store in stores]
    assert made[0]["uuid"] != made[1]["uuid"]


def test_several_stores_are_all_made_or_none(place: Place) -> None:
    (place.root / "b").write_bytes(b"precious" * 1000000)
    done = place.run("kvfsctl", "format", "--size", "64M", place.root / "a", place.root / "b")
    done.says("b: ", "data of an unknown kind")
    assert not (place.root / "a").exists()
    assert (place.root / "b").read_bytes() == b"precious" * 1000000


@pytest.mark.parametrize("second", ["foreign", "small", "in use", "no directory", "no size", "directory"])
def test_what_is_wrong_with_the_second_is_found_before_the_first_is_made(place: Place, second: str) -> None:
    other = place.root / "b"
    options = ["--size", "64M"]
    match second:
        case "foreign":
            other.write_bytes(b"precious" * 1000000)
        case "small":
            other.touch()
            options = ["--size", "1M"]
        case "in use":
            assert place.mount().status == 0
            other, options = place.store, ["--size", "64M", "--force", str(place.store)]
        case "no directory":
            other = place.root / "none" / "b"
        case "no size":
            other.touch()
            options = []
        case "directory":
            other.mkdir()
    first = place.root / "a"
    if not options:
        first.write_bytes(bytes(64 << 20))
    before = first.read_bytes() if first.exists() else None
    done = place.run("kvfsctl", "format", *options, first, other)
    done.says(str(other) if second != "small" else "expected a store of at least")
    assert (first.read_bytes() if first.exists() else None) == before


def test_a_failure_nobody_could_foresee_undoes_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = volume.create

    def fail_at_last(path: str, *arguments: Any, **options: Any) -> volume.VolumeInfo:
        if path.endswith("last"):
            raise VolumeError(f"{path}: input/output error", "see the kernel log")
        return create(path, *arguments, **options)

    monkeypatch.setattr(volume, "create", fail_at_last)
    new, empty, zeros, forced, last = (tmp_path / name for name in ("new", "empty", "zeros", "forced", "last"))
    empty.touch()
    zeros.write_bytes(bytes(20 << 20))
    size = 64 << 20
    with pytest.raises(VolumeError, match=r"last: input/output error; see the kernel log$"):
        format_stores([*map(str, (new, empty, zeros, last))], size=size, segment_size=0, label="", force=[])
    assert not new.exists()
    assert empty.read_bytes() == b""
    assert zeros.read_bytes() == bytes(20 << 20)
    forced.write_bytes(b"x" * 100)
    with pytest.raises(VolumeError, match=rf"; see the kernel log; formatted before that: {forced}$"):
        format_stores([*map(str, (new, forced, last))], size=size, segment_size=0, label="", force=[str(forced)])
    assert not new.exists()


def test_force_by_another_spelling_of_the_same_store(place: Place) -> None:
    place.format()
    assert place.run("kvfsctl", "format", "--force", "./store.kvfs", place.store).status == 0


def test_a_mounted_store_can_be_described(place: Place) -> None:
    assert place.mount().status == 0
    found = parsed(place.run("kvfsctl", "info", "--json", place.store))
    assert found["clean"] is False
    assert found["owner"]["mountpoint"] == str(place.mountpoint)
    assert "mounted, or not closed in order" in place.run("kvfsctl", "info", place.store).output


def test_fsck_counts_what_was_written(place: Place) -> None:
    assert place.mount().status == 0
    (place.mountpoint / "directory").mkdir()
    (place.mountpoint / "directory" / "page").write_bytes(b"k" * 100000)
    assert place.run("kvfs", "umount", place.mountpoint).status == 0
    report = parsed(place.run("kvfsctl", "fsck", "--json", place.store))
    assert (report["clean"], report["files"], report["bytes"], report["problem_count"]) == (True, 1, 100000, 0)
    assert parsed(place.run("kvfsctl", "fsck", "--json", "--no-data", place.store))["clean"] is True
    shown = place.run("kvfsctl", "fsck", place.store)
    assert (shown.status, shown.error) == (0, "")
    assert shown.output.endswith("clean\n")


def test_fsck_finds_a_damaged_page_and_says_so(place: Place) -> None:
    page = os.urandom(100000)
    assert place.mount().status == 0
    (place.mountpoint / "page").write_bytes(page)
    assert place.run("kvfs", "umount", place.mountpoint).status == 0
    _flip(place.store, page[:4096])
    done = place.run("kvfsctl", "fsck", "--json", place.store)
    report = json.loads(done.output)
    assert (done.status, report["clean"]) == (1, False)
    assert report["problem_count"] == len(report["problems"]) >= 1
    shown = place.run("kvfsctl", "fsck", place.store)
    assert shown.status == 1
    assert report["problems"][0]["detail"] in shown.output
    assert shown.output.endswith(f"{report['problem_count']} problem{'s' * (report['problem_count'] > 1)}\n")


def test_status_shows_what_the_mount_counts(place: Place) -> None:
    assert place.mount().status == 0
    (place.mountpoint / "page").write_bytes(b"k" * 8192)
    stats = parsed(place.run("kvfsctl", "status", "--json", place.mountpoint))
    assert stats["store"] == str(place.store)
    assert stats["components"]["fs"]["requests_total"]["create"] == 1
    assert stats == {**json.loads((place.mountpoint / ".kvfs" / "stats").read_text()), **_volatile(stats)}
    shown = place.run("kvfsctl", "status", place.mountpoint)
    for part in (str(place.mountpoint), stats["uuid"], "requests_total.create"):
        assert part in shown.output


def test_a_closed_pipe_is_no_traceback(place: Place) -> None:
    place.format()
    script = f"{place.program('kvfsctl')} info --json {place.store} | true"
    done = place.run("/bin/bash", "-c", script)
    assert "Traceback" not in done.error


def _volatile(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: stats[name] for name in ("uptime_seconds", "components")}


def _flip(store: Path, content: bytes) -> None:
    """Change one byte of where ``content`` lies on the store."""
    data = store.read_bytes()
    at = data.index(content)
    with store.open("r+b") as file:
        file.seek(at + 100)
        file.write(bytes([content[100] ^ 0xFF]))
