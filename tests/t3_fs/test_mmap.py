"""mmap(2): read, private, populated, and shared writes through the page cache.

Each test runs in a child: a mapping whose page cannot be had ends its process with SIGBUS.
"""

import faulthandler
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.expect import opened, pattern, read_file, write_all, write_file
from support.mount import TestMount
from support.process import Child, all_at_once, in_child

SIZE = (1 << 20) + 1234
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE


def mapped(fd: int, length: int = 0, flags: int = mmap.MAP_SHARED, protection: int = READ) -> mmap.mmap:
    return mmap.mmap(fd, length, flags=flags, prot=protection)


@pytest.mark.parametrize(
    "flags",
    [mmap.MAP_SHARED, mmap.MAP_PRIVATE, mmap.MAP_PRIVATE | mmap.MAP_POPULATE],
    ids=["shared", "private", "populate"],
)
def test_read(tree: Path, kvfs_mount: TestMount, flags: int) -> None:
    data = pattern(SIZE)
    write_file(tree / "file", data)
    kvfs_mount.remount()

    def read() -> None:
        with opened(tree / "file", os.O_RDONLY) as fd, mapped(fd, flags=flags) as view:
            assert len(view) == SIZE
            assert view[700_000:700_100] == data[700_000:700_100]
            assert view[:] == data

    in_child(read)


def test_bytes_after_the_end_are_zeros(tree: Path) -> None:
    write_file(tree / "file", b"\xff" * 8192)
    os.truncate(tree / "file", 5000)

    def read() -> None:
        with opened(tree / "file", os.O_RDONLY) as fd, mapped(fd, 5000) as view:
            view.seek(0)
            assert view.read(8192) == b"\xff" * 5000
        with opened(tree / "file", os.O_RDWR) as fd:
            os.ftruncate(fd, 8192)
            with mapped(fd) as view:
                assert view[5000:] == bytes(3192)

    in_child(read)


def test_private_writes_stay_private(tree: Path) -> None:
    data = pattern(SIZE)
    write_file(tree / "file", data)

    def write() -> None:
        with (
            opened(tree / "file", os.O_RDONLY) as fd,
            mapped(fd, flags=mmap.MAP_PRIVATE, protection=READ | WRITE) as view,
        ):
            view[100:200] = bytes(100)
            assert view[100:200] == bytes(100)

    in_child(write)
    assert read_file(tree / "file") == data


def test_shared_write(tree: Path, kvfs_mount: TestMount) -> None:
    """LMCache's GDS backend writes its pages so: ftruncate, then MAP_SHARED (DESIGN 6)."""
    data = pattern(SIZE)

    def write() -> None:
        with opened(tree / "file", os.O_RDWR | os.O_CREAT) as fd:
            os.ftruncate(fd, SIZE)
            with mapped(fd, protection=READ | WRITE) as view:
                view[:] = data
                assert os.pread(fd, 100, 4090) == data[4090:4190]

    in_child(write)
    assert read_file(tree / "file") == data
    kvfs_mount.remount()
    assert read_file(tree / "file") == data


def test_shared_write_after_the_descriptor_is_closed(tree: Path, kvfs_mount: TestMount) -> None:
    write_file(tree / "file", bytes(SIZE))

    def write() -> None:
        with opened(tree / "file") as fd:
            view = mapped(fd, protection=READ | WRITE)
        view[5000:5005] = b"after"
        view.flush()
        view[SIZE - 3 :] = b"end"
        view.close()

    in_child(write)
    kvfs_mount.remount()
    data = read_file(tree / "file")
    assert (data[5000:5005], data[-3:], data.count(0)) == (b"after", b"end", SIZE - 8)


def test_mapping_and_calls_see_each_other(tree: Path) -> None:
    write_file(tree / "file", bytes(20_000))

    def both() -> None:
        with opened(tree / "file") as fd, mapped(fd, protection=READ | WRITE) as view:
            write_all(fd, b"by write", 4092)
            assert view[4092:4100] == b"by write"
            view[8190:8196] = b"by map"
            assert os.pread(fd, 6, 8190) == b"by map"
            with opened(tree / "file", os.O_RDWR) as second:
                write_all(second, b"other handle", 12_000)
                assert view[12_000:12_012] == b"other handle"
                assert os.pread(second, 6, 8190) == b"by map"

    in_child(both)


def test_shared_mapping_of_two_processes(tree: Path) -> None:
    workers = 4
    write_file(tree / "file", bytes(workers * 8192))

    def worker(number: int) -> Callable[[], None]:
        def run() -> None:
            with opened(tree / "file") as fd, mapped(fd, protection=READ | WRITE) as view:
                for index in range(number, workers * 8192, workers):
                    view[index] = number + 1
                view.flush()

        return run

    all_at_once([worker(number) for number in range(workers)])
    assert read_file(tree / "file") == bytes(range(1, workers + 1)) * 8192


def test_writes_beside_a_mapping_of_the_same_pages(tree: Path) -> None:
    """Neither takes the other's bytes back, also where the page is faulted in while its other part is written."""
    pages = 1024
    for number in range(8):
        with opened(tree / f"file{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            os.ftruncate(fd, pages * 4096)
            with mapped(fd, protection=READ | WRITE) as view:

                def write(fd: int = fd) -> None:
                    for page in range(pages):
                        write_all(fd, b"written!", page * 4096)

                def store(view: mmap.mmap = view) -> None:
                    for page in range(pages):
                        view[page * 4096 + 2048 : page * 4096 + 2056] = b"mapped!!"

                all_at_once([write, store])
        data = read_file(tree / f"file{number}")
        expected = (b"written!" + bytes(2040) + b"mapped!!" + bytes(2040)) * pages
        assert data == expected, f"file {number}: first difference in page {first_difference(data, expected) // 4096}"


def first_difference(one: bytes, other: bytes) -> int:
    return next(index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def test_mapping_keeps_an_unlinked_file(tree: Path) -> None:
    data = pattern(SIZE)
    write_file(tree / "file", data)

    def read() -> None:
        with opened(tree / "file", os.O_RDONLY) as fd:
            view = mapped(fd)
        os.unlink(tree / "file")
        assert view[:] == data
        view.close()

    in_child(read)


def test_touching_a_page_that_truncate_cut_off_is_sigbus(tree: Path) -> None:
    write_file(tree / "file", b"x" * 16_384)

    def touch() -> int:
        faulthandler.disable()  # its report would look like a failure
        with opened(tree / "file", os.O_RDONLY) as fd, mapped(fd) as view:
            os.truncate(tree / "file", 4096)
            assert view[0] == ord("x")
            return view[8192]

    with pytest.raises(AssertionError, match="SIGBUS"):
        Child(touch).result()


def test_program_runs_from_the_mount(tree: Path) -> None:
    with open("/bin/true", "rb") as program:
        write_file(tree / "true", program.read())
    os.chmod(tree / "true", 0o755)
    assert os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(tree / "true", ["true"], {}), 0)[1]) == 0
