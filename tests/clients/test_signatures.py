"""Clients that cannot be installed here, by their signature: the same calls in the same order with the same flags.

What each does was read from its sources. These tests need nothing but the mount.
"""

import errno
import fcntl
import functools
import mmap
import os
import stat
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from drivers.common import KIB, MIB, page_bytes
from support import libc
from support.mount import TestMount, wait_for

BLOCK = 4 * KIB
THREADS = 8
PAGE = 2 * MIB  # 16 tokens of an 8B model
POOL_SIZE = 1 << 40
O_NOATIME = 0o1000000


def aligned(content: np.ndarray | int) -> mmap.mmap:
    """A page-aligned buffer, as O_DIRECT wants it: with this content, or of this size and zero."""
    size = content if isinstance(content, int) else content.size
    buffer = mmap.mmap(-1, size)
    if not isinstance(content, int):
        buffer[:] = content.tobytes()
    return buffer


def assert_page(found: bytes | mmap.mmap | memoryview, seed: int, size: int) -> None:
    got = np.frombuffer(found, dtype=np.uint8)
    assert got.size == size
    assert np.array_equal(got, page_bytes(seed, size)), f"page of seed {seed} is not what was written"


def in_threads(function: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for result in [pool.submit(function, number) for number in range(count)]:
            result.result()


def write_pages(fd: int, slots: list[int], seed: int) -> None:
    in_threads(
        lambda n: _exactly(os.pwritev(fd, [aligned(page_bytes(seed + n, PAGE))], slots[n] * PAGE), PAGE), len(slots)
    )


def read_pages(fd: int, slots: list[int], seed: int) -> None:
    def read(number: int) -> None:
        buffer = aligned(PAGE)
        _exactly(os.preadv(fd, [buffer], slots[number] * PAGE), PAGE)
        assert_page(buffer, seed + number, PAGE)

    in_threads(read, len(slots))


def _exactly(count: int, wanted: int) -> None:
    assert count == wanted, f"{count} bytes moved, {wanted} asked for"


# vLLM disk backend -----------------------------------------------------------------


def test_vllm_disk_backend(workdir: Path) -> None:
    """One file of slots, created exclusively and unlinked while open; its slots are written and read by threads."""
    path = workdir / "vllm-offload.bin"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_DIRECT
    fd = os.open(path, flags, 0o600)
    with pytest.raises(FileExistsError):
        os.open(path, flags, 0o600)
    os.symlink(path, workdir / "link")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        os.open(workdir / "link", os.O_RDWR | os.O_NOFOLLOW | os.O_DIRECT)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.ftruncate(fd, 64 * PAGE)
    os.unlink(path)
    assert os.fstat(fd).st_nlink == 0
    slots = [(7 * number) % 64 for number in range(32)]
    write_pages(fd, slots, seed=100)
    read_pages(fd, slots, seed=100)
    write_pages(fd, slots[:8], seed=200)  # a slot is used again
    read_pages(fd, slots[:8], seed=200)
    read_pages(fd, slots[8:], seed=108)
    empty = aligned(PAGE)
    hole = next(slot for slot in range(64) if slot not in slots)
    _exactly(os.preadv(fd, [empty], hole * PAGE), PAGE)
    assert not any(empty[:])
    assert os.fstat(fd).st_size == 64 * PAGE
    os.close(fd)
    assert sorted(os.listdir(workdir)) == ["link"]


# llm-d file-system backend -----------------------------------------------------------


def ofstream_write(path: Path, content: np.ndarray) -> None:
    """As a C++ ofstream with a buffer of 1 MiB writes: header and body, temporary file, rename."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for begin in range(0, content.size, MIB):
        part = content[begin : begin + MIB]
        _exactly(os.write(fd, part.data), part.size)
    os.close(fd)
    os.rename(temporary, path)


def test_llmd_write_and_tail_read(workdir: Path, kvfs_mount: TestMount) -> None:
    """A file of 16 blocks; a request that needs the last three seeks to the end and reads the tail."""
    block = 98 * 57_344
    path = workdir / "aa" / "bb" / f"{42:016x}.bin"
    with pytest.raises(FileNotFoundError):
        os.open(path, os.O_RDONLY)
    path.parent.mkdir(parents=True)
    content = page_bytes(42, 16 * block)
    ofstream_write(path, content)
    for remounted in (False, True):
        if remounted:
            kvfs_mount.remount()
        fd = os.open(path, os.O_RDONLY)
        size = os.lseek(fd, 0, os.SEEK_END)
        assert size == content.size
        os.lseek(fd, size - 3 * block, os.SEEK_SET)
        tail = b"".join(iter(functools.partial(os.read, fd, MIB), b""))
        os.close(fd)
        assert tail == content[-3 * block :].tobytes()
    assert os.listdir(path.parent) == [path.name]


def test_llmd_evictor(workdir: Path, kvfs_mount: TestMount) -> None:
    """Another process walks the tree, takes st_atime for the last use, and unlinks the oldest.

    A use is ``utimensat(atime=NOW, mtime=OMIT)``: nobody can tell from the reads, which relatime hides.
    """
    day = 86_400 * 10**9
    paths = [workdir / f"{number % 4:x}" / f"{number:016x}.bin" for number in range(16)]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        ofstream_write(path, page_bytes(number, 256 * KIB))
        now = path.stat().st_mtime_ns
        os.utime(path, ns=(now - (20 - number) * day, now - 30 * day))
    used = {3, 7, 8}
    for number in used:
        before = paths[number].stat()
        libc.utimensat(paths[number], libc.UTIME_NOW, libc.UTIME_OMIT)
        after = paths[number].stat()
        assert after.st_atime_ns > before.st_atime_ns
        assert after.st_mtime_ns == before.st_mtime_ns
    kvfs_mount.remount()

    def walk(directory: Path) -> list[tuple[int, Path]]:
        found = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found += walk(Path(entry.path))
                else:
                    found.append((entry.stat().st_atime_ns, Path(entry.path)))
        return found

    by_age = [path for _, path in sorted(walk(workdir))]
    assert by_age[:13] == [path for number, path in enumerate(paths) if number not in used]
    for path in by_age[:10]:
        path.unlink()
    assert {path for _, path in walk(workdir)} == set(by_age[10:])
    for number in used:
        assert_page(paths[number].read_bytes(), number, 256 * KIB)


@pytest.mark.kvfs_only
def test_llmd_watermarks(workdir: Path) -> None:
    """The evictor's watermarks are of statvfs: what is written shows, and what is unlinked comes back."""

    def available() -> int:
        usage = os.statvfs(workdir)
        assert usage.f_bsize == 4096
        assert usage.f_bavail <= usage.f_bfree <= usage.f_blocks
        return usage.f_bavail * usage.f_frsize

    before = available()
    for number in range(4):
        ofstream_write(workdir / f"{number}.bin", page_bytes(number, 32 * MIB))
    written = before - available()
    assert 128 * MIB <= written <= 136 * MIB
    for number in range(4):
        os.unlink(workdir / f"{number}.bin")
    # the kernel tells a FUSE file system in its own time that it has let go of an inode
    wait_for(lambda: before - available() <= 8 * MIB, "the space of four unlinked files free again")


# LMCache GDS backend -----------------------------------------------------------------


def test_lmcache_gds(workdir: Path, kvfs_mount: TestMount) -> None:
    """A header of 4 KiB, then the body at 4096 through a shared mapping (its way without cuFile), then a rename.

    A sidecar file carries the header once more, for the scan at the start, which opens with O_NOATIME.
    """
    body = 98 * 57_344
    for number in range(4):
        directory = workdir / f"{number:02x}" / "00"
        directory.mkdir(parents=True)
        path = directory / f"{number:016x}.kvcache.safetensors"
        temporary = path.with_name(path.name + ".tmp")
        header = page_bytes(1000 + number, BLOCK).tobytes()
        temporary.write_bytes(header)
        fd = os.open(temporary, os.O_RDWR)
        os.ftruncate(fd, BLOCK + body)
        with mmap.mmap(fd, BLOCK + body, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE) as mapping:
            os.close(fd)
            mapping[BLOCK:] = page_bytes(number, body).tobytes()
        os.rename(temporary, path)
        sidecar = path.with_name(path.name + ".metadata")
        sidecar.with_name("sidecar.tmp").write_bytes(header)
        os.rename(sidecar.with_name("sidecar.tmp"), sidecar)
    for remounted in (False, True):
        if remounted:
            kvfs_mount.remount()
        with os.scandir(workdir) as tops:
            found = sorted(Path(entry.path) for top in tops for entry in os.scandir(Path(top.path) / "00"))
        assert len(found) == 8
        for path in found:
            number = int(path.name[:16], 16)
            if path.suffix == ".metadata":
                fd = os.open(path, os.O_RDONLY | O_NOATIME)
                assert_page(os.read(fd, BLOCK), 1000 + number, BLOCK)
                os.close(fd)
                continue
            fd = os.open(path, os.O_RDONLY)
            flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE
            with mmap.mmap(fd, BLOCK + body, flags=flags, prot=mmap.PROT_READ) as mapping:
                os.close(fd)
                assert_page(mapping[:BLOCK], 1000 + number, BLOCK)
                assert_page(mapping[BLOCK:], number, body)


# SGLang hf3fs, FlexKV ------------------------------------------------------------------


def test_pool_file(workdir: Path, kvfs_mount: TestMount) -> None:
    """One sparse file of 1 TiB, opened twice, buffered and with O_DIRECT; each handle sees what the other wrote."""
    path = workdir / "rank-0.pool"
    slots = [0, 1, 2, 77, 4096, POOL_SIZE // PAGE // 2, POOL_SIZE // PAGE - 2, POOL_SIZE // PAGE - 1]
    buffered = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(buffered, POOL_SIZE)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    write_pages(direct, slots, seed=10)
    read_pages(buffered, slots, seed=10)
    write_pages(buffered, slots, seed=20)
    read_pages(direct, slots, seed=20)
    write_pages(direct, slots[::2], seed=30)
    read_pages(buffered, slots[::2], seed=30)
    _exactly(len(os.pread(buffered, PAGE, 100 * PAGE)), PAGE)
    assert not any(os.pread(buffered, PAGE, 100 * PAGE))
    os.fsync(buffered)
    usage = os.stat(path)
    assert usage.st_size == POOL_SIZE
    assert len(slots) * PAGE <= usage.st_blocks * 512 <= 2 * len(slots) * PAGE
    os.close(direct)
    os.close(buffered)
    kvfs_mount.remount()
    for flags in (os.O_RDWR, os.O_RDWR | os.O_DIRECT):
        fd = os.open(path, flags | os.O_CREAT, 0o644)
        os.ftruncate(fd, POOL_SIZE)  # at every start
        read_pages(fd, slots[::2], seed=30)
        for number, slot in enumerate(slots):
            if number % 2:
                buffer = aligned(PAGE)
                _exactly(os.preadv(fd, [buffer], slot * PAGE), PAGE)
                assert_page(buffer, 20 + number, PAGE)
        os.close(fd)


# Dynamo KVBM -----------------------------------------------------------------------------


def test_dynamo_kvbm(workdir: Path) -> None:
    """mkostemp, O_DIRECT set afterwards by fcntl, space reserved, unlinked while open."""
    path = workdir / f"dynamo-kvbm-disk-cache-{uuid.uuid4().hex[:6]}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    size = 32 * PAGE
    try:
        libc.fallocate(fd, 0, 0, size)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017 - both outcomes are right, no other is
        os.ftruncate(fd, size)  # what Dynamo falls back to writes zeros; either leaves a file of this size
    assert os.fstat(fd).st_size == size
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
    os.unlink(path)
    slots = list(range(0, 32, 2))
    write_pages(fd, slots, seed=300)
    read_pages(fd, slots, seed=300)
    os.fsync(fd)
    read_pages(fd, slots, seed=300)
    os.close(fd)
    assert os.listdir(workdir) == []


# UCM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
def test_ucm(workdir: Path, kvfs_mount: TestMount, direct: bool) -> None:
    """A block is one file; threads write its disjoint parts, each by a handle of its own, then it is renamed."""
    shard, shards = 256 * KIB, 128  # 32 MiB
    flag = os.O_DIRECT if direct else 0
    path, temporary = workdir / "block", workdir / "block.act"

    def write_shard(number: int) -> None:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | flag, 0o644)
        _exactly(os.pwrite(fd, aligned(page_bytes(number, shard)), number * shard), shard)
        os.close(fd)

    def read_shard(number: int) -> None:
        fd = os.open(path, os.O_RDONLY | flag)
        buffer = aligned(shard)
        _exactly(os.preadv(fd, [buffer], number * shard), shard)
        os.close(fd)
        assert_page(buffer, number, shard)

    assert not os.access(path, os.F_OK | os.R_OK | os.W_OK)
    in_threads(write_shard, shards)
    os.rename(temporary, path)
    assert os.access(path, os.F_OK | os.R_OK | os.W_OK)
    assert not os.access(temporary, os.F_OK)
    assert path.stat().st_size == shard * shards
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns + 10**9, before.st_mtime_ns + 10**9))
    assert path.stat().st_mtime_ns == before.st_mtime_ns + 10**9
    in_threads(read_shard, shards)
    kvfs_mount.remount()
    assert os.access(path, os.F_OK | os.R_OK | os.W_OK)
    assert path.stat().st_mtime_ns == before.st_mtime_ns + 10**9
    in_threads(read_shard, shards)


# AIBrix ----------------------------------------------------------------------------------------


def test_aibrix(workdir: Path) -> None:
    """Temporary file, replace, stat at once; another thread that looks sees a whole old or a whole new file."""
    sizes = [PAGE, 98 * 57_344, 22_500, 1]
    path = workdir / "object"
    done = threading.Event()
    failures: list[str] = []

    def look() -> None:
        while not done.is_set():
            try:
                with open(path, "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    content = file.read()
            except FileNotFoundError:
                continue
            if size not in sizes or len(content) != size:
                failures.append(f"a file of {size} bytes, {len(content)} of them read")
            elif content != page_bytes(size, size).tobytes():
                failures.append(f"a file of {size} bytes with other content")

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for round_ in range(40):
            size = sizes[round_ % len(sizes)]
            temporary = workdir / f"{uuid.uuid4().hex}.tmp"
            with open(temporary, "wb") as file:
                file.write(page_bytes(size, size).data)
            os.replace(temporary, path)
            assert os.path.exists(path)
            assert os.stat(path).st_size == size
    finally:
        done.set()
        reader.join()
    assert not failures, failures[:3]
    assert os.listdir(workdir) == ["object"]
