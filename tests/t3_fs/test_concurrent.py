"""Several processes on the same files: no short reads, no torn blocks, no lost updates."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.direct import aligned
from support.expect import opened, pattern, read_file, write_all, write_file
from support.mount import wait_for
from support.process import Child, all_at_once

CREATE = os.O_RDWR | os.O_CREAT
MIB = 1 << 20


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_never_short_before_the_end_while_the_file_grows(tree: Path, flags: int) -> None:
    """A reader that saw size N gets all of its first N bytes, however fast a writer extends the file."""
    step, steps = 65_536, 120
    data = pattern(step)
    write_file(tree / "file")

    def extend() -> None:
        with opened(tree / "file", os.O_WRONLY | flags) as fd:
            for index in range(steps):
                write_all(fd, aligned(data), index * step)

    def read() -> int:
        checks = 0
        with opened(tree / "file", os.O_RDONLY | flags) as fd:
            while True:
                size = os.fstat(fd).st_size
                assert size % step == 0
                if size:
                    offset = max(0, size - 3 * step)
                    memory = aligned(size - offset)
                    count = os.preadv(fd, [memory], offset)
                    assert count == size - offset, f"short read: {count} of {size - offset} at {offset}, size {size}"
                    assert bytes(memory) == data * ((size - offset) // step)
                checks += 1
                if size == step * steps:
                    return checks

    results = all_at_once([extend, read, read])
    assert min(results[1:]) > 0


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_never_short_while_the_same_bytes_are_overwritten(tree: Path, flags: int) -> None:
    size = MIB
    write_file(tree / "file", b"\0" * size)

    def overwrite(number: int) -> Callable[[], None]:
        def run() -> None:
            with opened(tree / "file", os.O_WRONLY | flags) as fd:
                for index in range(40):
                    length = 4096 * (1 + (index * 7 + number) % 60)
                    write_all(fd, aligned(bytes([number]) * length), 4096 * ((index * 13 + number * 5) % 190))

        return run

    def read() -> None:
        with opened(tree / "file", os.O_RDONLY | flags) as fd:
            for _ in range(60):
                memory = aligned(size)
                assert os.preadv(fd, [memory], 0) == size
                for start in range(0, size, 4096):
                    block = bytes(memory[start : start + 4096])
                    assert block == block[:1] * 4096, f"torn block at {start}"

    all_at_once([overwrite(1), overwrite(2), read, read])
    assert os.stat(tree / "file").st_size == size


def test_never_short_while_pages_are_made_anew_and_read(tree: Path) -> None:
    """Readers poll for pages as engines do: a page that open() finds under its final name is whole."""
    pages, size = 60, 200_000

    def write() -> None:
        for index in range(pages):
            write_file(tree / f".tmp{index}", pattern(size, index))
            os.rename(tree / f".tmp{index}", tree / f"page{index}")

    def read() -> int:
        for index in range(pages):
            wait_for(lambda path=tree / f"page{index}": path.exists(), f"page {index} published", 60)
            assert read_file(tree / f"page{index}") == pattern(size, index)
        return pages

    writer = Child(write)
    assert all_at_once([read, read]) == [pages, pages]
    writer.result()


def test_readers_keep_what_evictors_unlink(tree: Path) -> None:
    """An external evictor (llm-d) unlinks pages that readers are in the middle of."""
    count, size = 50, 300_000
    for index in range(count):
        write_file(tree / f"page{index}", pattern(size, index))

    def read() -> int:
        whole = 0
        for index in range(count):
            try:
                fd = os.open(tree / f"page{index}", os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                parts = [os.pread(fd, 10_000, offset) for offset in range(0, size, 10_000)]
                assert b"".join(parts) == pattern(size, index)
                whole += 1
            finally:
                os.close(fd)
        return whole

    def evict() -> None:
        for index in range(count):
            os.unlink(tree / f"page{index}")

    all_at_once([read, read, evict])
    assert os.listdir(tree) == []


def test_truncate_races_with_writers_and_readers(tree: Path) -> None:
    """Whatever the order, every byte read is zero or was written at that place."""
    size = 400_000
    data = pattern(size)
    write_file(tree / "file", data)

    def truncate() -> None:
        with opened(tree / "file") as fd:
            for index in range(80):
                os.ftruncate(fd, (index * 37_411) % size)

    def write() -> None:
        with opened(tree / "file") as fd:
            for index in range(80):
                start = (index * 91_813) % (size - 50_000)
                write_all(fd, data[start : start + 50_000], start)

    def read() -> None:
        with opened(tree / "file", os.O_RDONLY) as fd:
            for index in range(150):
                start = (index * 53_777) % size
                for offset, value in enumerate(os.pread(fd, 20_000, start), start=start):
                    assert value in (0, data[offset]), f"foreign byte at {offset}"

    all_at_once([truncate, write, read])
    with opened(tree / "file") as fd:
        write_all(fd, data, 0)
    assert read_file(tree / "file") == data


def test_threads_of_one_process(tree: Path) -> None:
    """vLLM writes pages from 16 threads (DESIGN 6)."""
    from concurrent.futures import ThreadPoolExecutor

    def page(index: int) -> None:
        data = os.urandom(256 * 1024)
        with opened(tree / f"tmp{index}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT) as fd:
            write_all(fd, aligned(data), 0)
        os.rename(tree / f"tmp{index}", tree / f"page{index}")
        memory = aligned(len(data))
        with opened(tree / f"page{index}", os.O_RDONLY | os.O_DIRECT) as fd:
            assert os.readv(fd, [memory]) == len(data)
        assert memory == data

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(page, range(160)))
    assert len(os.listdir(tree)) == 160
