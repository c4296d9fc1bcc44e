"""What a million files of 4 KiB cost: memory of the daemon, recovery after a kill, a listing.

The bound is the requirement of DESIGN 4, 160 B of memory per file with a 64-character name for names and index, and
16 B for what the eviction policy knows of it. Times are printed, so run
with ``-s``; what they must be (recovery under 5 s, ``ls`` of 100,000 names under 2 s) is for ``tools/bench --scale`` to
say, on a machine that does nothing else.

Memory is VmRSS of the daemon, measured when its pools are warm and the store is empty, then with the files in it;
after the recovery it is compared with a fresh mount, whose pools are as cold.
"""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.mount import KvfsMount, close_test_mount, make_test_mount
from support.process import all_at_once

BYTES_PER_FILE = 160 + 16  # names and index; what the eviction policy knows of a file (native/policy/policy.hpp)
# what heaps and request buffers move by, whatever the number of files, and the eviction policy's sample of 1 MiB: it
# says nothing about a file, and of a million it may be 2 B each
HEAP_NOISE = {50_000: 4 << 20, 1_000_000: 2 << 20}
WORKERS = 4
DIRECTORIES = 10
PAGE = 4096

pytestmark = pytest.mark.kvfs_only


@pytest.fixture
def mount() -> Iterator[KvfsMount]:
    mount = make_test_mount(size="16G")
    try:
        assert isinstance(mount, KvfsMount)
        yield mount
    finally:
        close_test_mount(mount)


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of process {pid}")


def settled_bytes(pid: int) -> int:
    """Resident memory once the daemon has let go of what a burst took: the same for two seconds, or after 30."""
    seen = [resident_bytes(pid)]
    while len(seen) < 60 and (len(seen) < 5 or min(seen[-4:]) < seen[-5]):
        time.sleep(0.5)
        seen.append(resident_bytes(pid))
    return seen[-1]


def file_name(index: int) -> str:
    """64 characters, as a hash of tokens is."""
    return f"{index:064x}"


def page(index: int) -> bytes:
    return index.to_bytes(8, "little") * (PAGE // 8)


def make_durable(root: Path) -> None:
    """Everything so far: sync(2) does not reach a FUSE daemon, fsync of a directory does."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def warm_up(root: Path) -> None:
    """Fill the daemon's pools: what they keep is the mount's, not the files'."""

    def work(number: int) -> None:
        directory = root / f"warm{number}"
        os.mkdir(directory)
        for index in range(500):
            path = directory / file_name(index)
            with open(path, "wb", buffering=0) as file:
                file.write(os.urandom(1 << 20) if index < 50 else page(index))
            path.read_bytes()
        for index in range(500):
            os.unlink(directory / file_name(index))
        os.rmdir(directory)

    all_at_once([partial(work, number) for number in range(WORKERS)])
    make_durable(root)


def fill(root: Path, count: int) -> float:
    """Files per second."""
    for number in range(DIRECTORIES):
        os.mkdir(root / f"d{number}")

    def work(worker: int) -> None:
        handles = [os.open(root / f"d{number}", os.O_RDONLY | os.O_DIRECTORY) for number in range(DIRECTORIES)]
        for index in range(worker, count, WORKERS):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            fd = os.open(file_name(index), flags, 0o644, dir_fd=handles[index % DIRECTORIES])
            assert os.write(fd, page(index)) == PAGE
            os.close(fd)

    begin = time.monotonic()
    all_at_once([partial(work, worker) for worker in range(WORKERS)], timeout=1500)
    make_durable(root)
    return count / (time.monotonic() - begin)


def check_sample(root: Path, count: int) -> None:
    draw = random.Random(count)
    for index in draw.sample(range(count), 300):
        assert (root / f"d{index % DIRECTORIES}" / file_name(index)).read_bytes() == page(index)


def seconds_of_others(pid: int) -> float:
    """How long the process's main thread, which recovers, was ready to run while others had the processors."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def seconds_to_list(directory: Path, expected: int) -> float:
    begin = time.monotonic()
    listed = subprocess.run(["ls", directory], stdout=subprocess.PIPE, check=True, timeout=120).stdout
    seconds = time.monotonic() - begin
    assert listed.count(b"\n") == expected
    return seconds


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.expects_log("recover|clean")
@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=pytest.mark.ci)])
def test_memory_recovery_and_listing(mount: KvfsMount, count: int) -> None:
    """Everything is measured and printed before the first bound is asserted: a run takes minutes."""
    fresh = resident_bytes(mount.pid)
    warm_up(mount.path)
    empty = settled_bytes(mount.pid)
    rate = fill(mount.path, count)
    per_file = (settled_bytes(mount.pid) - empty) / count
    check_sample(mount.path, count)
    recovery = mount.kill9() - seconds_of_others(mount.pid)
    recovered = (settled_bytes(mount.pid) - fresh) / count
    check_sample(mount.path, count)
    assert sum(len(os.listdir(mount / f"d{number}")) for number in range(DIRECTORIES)) == count
    mount.remount(drop_caches=os.geteuid() == 0)
    listing = seconds_to_list(mount / "d0", count // DIRECTORIES)

    print(f"\n{count} files of {PAGE} B: {rate:.0f} files/s; {empty / 2**20:.1f} MiB resident when empty")
    print(f"memory per file: {per_file:.1f} B, after recovery {recovered:.1f} B")
    print(f"recovery after a kill: {recovery:.2f} s; ls of {count // DIRECTORIES} names: {listing:.2f} s")
    assert per_file <= BYTES_PER_FILE + HEAP_NOISE[count] / count
    assert recovered <= BYTES_PER_FILE + HEAP_NOISE[count] / count
