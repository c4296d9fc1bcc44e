"""The daemon is killed while four styles of client write, again and again on one store.

Each client says through a pipe what it is about to do and what it has been promised, so that what it was told lies
outside of the store; the parent kills the daemon after a drawn number of such records, mounts again and checks:

- every page is one whole version that its client wrote, or absent: never torn, never another page's bytes;
- no page is older than the last version that was made durable by fsync of file and directory.

The styles are those of DESIGN 6: vLLM's file tier, LMCache's local disk, a pool file, llm-d's offloading.
"""

import contextlib
import os
import random
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.direct import aligned
from support.expect import opened, read_file
from support.mount import KvfsMount, clean_mount
from support.pages import make_page, page_version
from support.process import Child

PAGES = 8  # of each client
SLOT = 1 << 16  # bytes, of the pool file's pages
STRIDE = 1 << 24  # bytes from one to the next
RECORD = struct.Struct("<BBHQ")  # kind, client, page, version
BEGUN, DURABLE = 1, 2
SIZES = (4096, 57_344, 256 * 1024, 1 << 20, (2 << 20) + 8192)

pytestmark = pytest.mark.kvfs_only

Report = Callable[[int, int, int], None]  # kind, page, version


def sync_directory(tree: Path) -> None:
    with opened(tree, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def write_vllm(tree: Path, page: int, version: int, draw: random.Random, report: Report) -> None:
    """tmp by O_DIRECT in one write, rename."""
    name = f"vllm-{page}"
    durable = draw.random() < 0.3
    with opened(tree / f"{name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT) as fd:
        data = aligned(make_page(name, version, draw.choice([size for size in SIZES if size % 4096 == 0])))
        assert os.write(fd, data) == len(data), "short write"
        if durable:
            os.fsync(fd)
    report(BEGUN, page, version)
    os.rename(tree / f"{name}.tmp", tree / name)
    if durable:
        sync_directory(tree)
        report(DURABLE, page, version)


def write_lmcache(tree: Path, page: int, version: int, draw: random.Random, report: Report) -> None:
    """Under the final name at once, one write, no rename."""
    name = f"lmcache-{page}"
    durable = draw.random() < 0.3
    report(BEGUN, page, version)
    with open(tree / name, "wb") as file:
        file.write(make_page(name, version, draw.choice(SIZES) + draw.randrange(4096)))
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync_directory(tree)
        report(DURABLE, page, version)


def write_pool(tree: Path, page: int, version: int, draw: random.Random, report: Report) -> None:
    """Slots of one sparse file, in place."""
    direct = os.O_DIRECT if draw.random() < 0.5 else 0
    report(BEGUN, page, version)
    with opened(tree / "pool", os.O_RDWR | os.O_CREAT | direct) as fd:
        data = aligned(make_page(f"pool-{page}", version, SLOT))
        assert os.pwrite(fd, data, page * STRIDE) == SLOT, "short write"
        if draw.random() < 0.3:
            os.fsync(fd)
            sync_directory(tree)
            report(DURABLE, page, version)


def write_llmd(tree: Path, page: int, version: int, draw: random.Random, report: Report) -> None:
    """A buffered stream in pieces of 1 MiB to a tmp file, rename."""
    name = f"llmd-{page}"
    durable = draw.random() < 0.3
    with open(tree / f"{name}.tmp", "wb", buffering=1 << 20) as file:
        data = make_page(name, version, draw.choice(SIZES) + draw.randrange(1 << 20))
        for at in range(0, len(data), 300_000):
            file.write(data[at : at + 300_000])
        if durable:
            file.flush()
            os.fsync(file.fileno())
    report(BEGUN, page, version)
    os.rename(tree / f"{name}.tmp", tree / name)
    if durable:
        sync_directory(tree)
        report(DURABLE, page, version)


STYLES = {"vllm": write_vllm, "lmcache": write_lmcache, "pool": write_pool, "llmd": write_llmd}


def run_client(tree: Path, reports: int, client: int, style: str, first_version: int, seed: str) -> None:
    """Write versions, higher and higher ones, until the mount dies under it."""

    def report(kind: int, page: int, version: int) -> None:
        os.write(reports, RECORD.pack(kind, client, page, version))

    draw = random.Random(seed)
    version = first_version
    with contextlib.suppress(OSError):  # the mount's death; another reason shows as too few records
        while True:
            version += 1
            STYLES[style](tree, draw.randrange(PAGES), version, draw, report)


def read_records(pipe: int, wanted: int = sys.maxsize) -> Iterator[tuple[int, int, int, int]]:
    """So many records, or all until the clients are gone."""
    for _ in range(wanted):
        data = os.read(pipe, RECORD.size)
        if not data:
            return
        yield RECORD.unpack(data)


def found_versions(tree: Path) -> dict[tuple[str, int], int]:
    """The version of each page that is there; AssertionError for one that is not whole."""
    found = {}
    for name in os.listdir(tree):
        style, _, page = name.partition("-")
        if name.endswith(".tmp"):
            os.unlink(tree / name)
        elif name != "pool":
            found[style, int(page)] = page_version(name, read_file(tree / name))
    if (tree / "pool").exists():
        with opened(tree / "pool", os.O_RDONLY) as fd:
            for page in range(PAGES):
                data = os.pread(fd, SLOT, page * STRIDE)
                if any(data):
                    found["pool", page] = page_version(f"pool-{page}", data)
    return found


def one_round(tree: Path, mount: KvfsMount, number: int, durable: dict[tuple[str, int], int]) -> None:
    draw = random.Random(f"kill-{number}")
    reading, writing = os.pipe()
    clients = [
        Child(partial(run_client, tree, writing, client, style, number * 1_000_000, f"{number}-{style}"))
        for client, style in enumerate(STYLES)
    ]
    os.close(writing)
    wanted = draw.randrange(20, 200)
    records = list(read_records(reading, wanted))
    assert len(records) == wanted, f"the clients stopped by themselves after {len(records)} of {wanted} records"
    mount.abort()
    records += read_records(reading)
    os.close(reading)
    for child in clients:
        child.result()
    mount.kill9()
    newest = dict(durable)
    names = list(STYLES)
    for kind, client, page, version in records:
        known = newest if kind == BEGUN else durable
        known[names[client], page] = version
    found = found_versions(tree)
    for page, version in found.items():
        assert version <= newest.get(page, 0), f"{page}: version {version} was not written yet"
    for page, version in durable.items():
        assert found.get(page, 0) >= version, f"{page}: version {version} was durable, found {found.get(page)}"
    durable |= found  # what is there now has been mounted from the device


@pytest.fixture
def small_mount() -> Iterator[KvfsMount]:
    """Small enough for its segments to be used again in every round."""
    with clean_mount("512M") as mount:
        yield mount


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.expects_log("recover|clean")
def test_four_styles_of_client(small_mount: KvfsMount, rounds: int) -> None:
    durable: dict[tuple[str, int], int] = {}
    for number in range(1, 1 + rounds):
        one_round(small_mount.path, small_mount, number, durable)
