"""`kvfsctl warm` and warm files, on every way that a mount can serve them."""

import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.direct import direct_read
from support.mount import COMMAND_TIMEOUT, KvfsMount, clean_mount, page_cache_lock, wait_for
from warming import noise

from kvfs.cli.probes import fuse

pytestmark = pytest.mark.kvfs_only

MIB = 1 << 20
SIZES = {"tiny": 100, "small": 65535, "page": 2 * MIB, "odd": 3 * MIB + 12345}
WAYS = {
    "passthrough": ("--warm-size", "32M"),
    "loop": ("--warm-size", "32M", "--no-passthrough"),
    "no tier": ("--warm-size", "0"),
    "pyfuse3": ("--data-path", "pyfuse3"),
}


def kvfsctl(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("kvfsctl"))
    return subprocess.run(
        [program, *map(os.fspath, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT,
        check=False,
    )


def warm(*arguments: str | os.PathLike[str]) -> dict[str, Any]:
    done = kvfsctl("warm", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def component(mount: KvfsMount, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((mount.path / ".kvfs/stats").read_bytes())["components"][name]
    return found


@pytest.fixture(scope="module", params=WAYS)
def mount(request: pytest.FixtureRequest) -> Iterator[KvfsMount]:
    if request.param == "passthrough" and not fuse.passthrough().is_ok:
        pytest.skip("NOT TESTED: no FUSE passthrough here")
    with clean_mount("256M", WAYS[request.param]) as mount:
        yield mount


@pytest.fixture(autouse=True)
def _page_cache_stays() -> Iterator[None]:
    with page_cache_lock(shared=True):
        yield


@pytest.fixture
def has_tier(mount: KvfsMount) -> bool:
    return mount.options not in (WAYS["no tier"], WAYS["pyfuse3"])


@pytest.fixture
def files(mount: KvfsMount, request: pytest.FixtureRequest) -> dict[Path, bytes]:
    """In a directory and one below it."""
    directory = mount / re.sub(r"\W+", "_", request.node.name) / "below"
    directory.mkdir(parents=True)
    files = {}
    for index, (name, size) in enumerate(SIZES.items()):
        path = (directory if index % 2 else directory.parent) / name
        files[path] = noise(name, size)
        path.write_bytes(files[path])
    (directory / "link").symlink_to(path)
    return files


def top_of(files: dict[Path, bytes]) -> Path:
    return next(path.parent for path in files if path.name == "tiny")


def test_warm_check_evict(mount: KvfsMount, files: dict[Path, bytes], has_tier: bool) -> None:
    top = top_of(files)
    total = sum(SIZES.values())
    cold = {"files": 4, "bytes": total, "warm_files": 0, "warm_bytes": 0, "failed_files": 0, "unknown_files": 0}
    hot = {**cold, "warm_files": 4, "warm_bytes": total}

    def check() -> dict[str, Any]:
        summary = warm("--check", top)
        return {name: summary[name] for name in cold}

    warm("--evict", top)  # what writing has left in the page cache
    wait_for(lambda: check() == cold, "evicted")

    def stays_warm() -> bool:
        assert {**cold, **warm(top)} == {**hot, "action": "warm", "failures": []}
        if check() != hot:
            return False
        reads = component(mount, "store")["device"]["reads_total"]
        for path, data in files.items():
            assert path.read_bytes() == data
        return bool(component(mount, "store")["device"]["reads_total"] == reads)

    if has_tier:
        assert stays_warm()
        assert component(mount, "warm")["bytes"] >= SIZES["page"] + SIZES["odd"]
    else:  # the page cache's pages are the kernel's to take, at any time, and on some machines it does (DAMON)
        wait_for(stays_warm, "files that stay warm while they are looked at")
    assert {**cold, **warm("--evict", top)} == {**cold, "action": "evict", "failures": []}
    wait_for(lambda: check() == cold, "evicted")
    if has_tier:
        wait_for(lambda: component(mount, "warm")["bytes"] == 0, "memory given back")


def test_check_and_evict_bring_nothing_in(mount: KvfsMount, files: dict[Path, bytes]) -> None:
    top = top_of(files)
    warm("--evict", top)
    before = component(mount, "store")["data"]["reads_total"]
    for _ in range(2):
        warm("--check", top)
        warm("--evict", top)
    assert component(mount, "store")["data"]["reads_total"] == before


def test_atime_stays(mount: KvfsMount, files: dict[Path, bytes]) -> None:
    before = [path.stat().st_atime_ns for path in files]
    for options in ((), ("--check",), ("--evict",)):
        warm(*options, top_of(files))
    assert [path.stat().st_atime_ns for path in files] == before


def test_every_way_of_reading_a_warm_file(files: dict[Path, bytes]) -> None:
    warm(*files)
    for path, data in files.items():
        fd = os.open(path, os.O_RDONLY)
        with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            assert mapped[:] == data
        assert os.pread(fd, len(data) + 1, 0) == data
        os.close(fd)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        assert direct_read(fd, 4 * MIB, 0) == data
        os.close(fd)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            assert mapped[:] == data
            mapped[:8] = b"modified"
        assert path.read_bytes() == b"modified" + data[8:]


@pytest.mark.parametrize("name", ["page", "odd"])
def test_readers_see_changes(files: dict[Path, bytes], name: str) -> None:
    """Whatever the reader's descriptor is, and whatever changes the file meanwhile."""
    path, data = next((path, bytearray(data)) for path, data in files.items() if path.name == name)
    warm(path)
    reader = os.open(path, os.O_RDONLY)

    def check() -> None:
        assert os.pread(reader, 8 * MIB, 0) == bytes(data)
        assert path.read_bytes() == bytes(data)
        assert os.fstat(reader).st_size == len(data)

    check()
    with path.open("r+b", buffering=0) as file:
        for offset, size in ((0, 10), (4000, 5000), (MIB - 1, MIB + 2), (len(data) - 5, 5)):
            patch = noise(offset, size)
            assert os.pwrite(file.fileno(), patch, offset) == size
            data[offset : offset + size] = patch
            check()
        assert os.pwrite(file.fileno(), b"beyond the end", len(data) + 10_000) == 14
        data += bytes(10_000) + b"beyond the end"
        check()
        file.truncate(MIB + 77)
        del data[MIB + 77 :]
        check()
        file.truncate(2 * MIB)
        data += bytes(2 * MIB - len(data))
        check()
    os.close(reader)
    warm(path)
    assert path.read_bytes() == bytes(data)
    with path.open("wb") as file:  # O_TRUNC
        file.write(b"short")
    assert path.read_bytes() == b"short"
    path.unlink()
    path.write_bytes(noise("another", MIB))
    assert path.read_bytes() == noise("another", MIB)


def test_a_shared_mapping_beside_a_reader(files: dict[Path, bytes]) -> None:
    path, data = next((path, bytearray(data)) for path, data in files.items() if path.name == "odd")
    warm(path)
    with path.open("rb", buffering=0) as reader:
        with path.open("r+b", buffering=0) as file:
            mapping = mmap.mmap(file.fileno(), 0)
            mapping[5000:5010] = data[5000:5010] = b"before sync"[:10]
            os.fsync(file.fileno())
        with mapping:  # which outlives its descriptor
            mapping[MIB : MIB + 5] = data[MIB : MIB + 5] = b"later"
        assert os.pread(reader.fileno(), 8 * MIB, 0) == bytes(data)

    def in_the_store() -> bool:
        warm("--evict", path)
        return path.read_bytes() == bytes(data)

    wait_for(in_the_store, "what the mapping wrote in the store")


def test_what_cannot_be_warmed_is_told(mount: KvfsMount, files: dict[Path, bytes]) -> None:
    if mount.options != WAYS["passthrough"]:
        pytest.skip("only passthrough keeps pages from being evicted")
    directory = top_of(files)
    held = []
    for number in range(4):
        path = directory / f"held{number}"
        path.write_bytes(bytes(8 * MIB))
        warm(path)
        held.append(os.open(path, os.O_RDONLY))
    done = kvfsctl("warm", directory / "page")
    for fd in held:
        os.close(fd)
    assert done.returncode == 1
    assert "0 of 1 file" in done.stdout
    assert f"{directory / 'page'}: no room in the warm tier" in done.stdout
    wait_for(lambda: component(mount, "warm")["passthrough_handles"] == 0, "handles released")
    assert warm(directory / "page")["warm_files"] == 1


def test_bad_input(mount: KvfsMount, tmp_path: Path) -> None:
    for arguments, status, says in (
        ((), 2, "Missing argument"),
        (("--check", "--evict", mount.path), 2, "found both"),
        (("--jobs", "0", mount.path), 2, "--jobs"),
        ((mount / "absent",), 1, "no such file"),
        ((tmp_path,), 1, "expected a path in a kvfs mount"),
    ):
        done = kvfsctl("warm", *arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_an_empty_directory(mount: KvfsMount, request: pytest.FixtureRequest) -> None:
    directory = mount / re.sub(r"\W+", "_", request.node.name)
    directory.mkdir()
    done = kvfsctl("warm", directory)
    assert (done.returncode, done.stdout) == (0, "0 of 0 files, 0 B of 0 B in memory\n")
