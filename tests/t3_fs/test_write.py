"""write(2) and read(2): any order, any alignment, several handles, several processes; holes are zeros."""

import errno
import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.process import all_at_once, in_child

CREATE = os.O_RDWR | os.O_CREAT
KIB = 1 << 10
MIB = 1 << 20
BORDERS = [4 * KIB, 256 * KIB, 1 * MIB]


def test_chunks_in_any_order_make_the_whole(tree: Path) -> None:
    data = pattern(3 * MIB + 777)
    starts = list(range(0, len(data), 37_411))
    random.Random(1).shuffle(starts)
    with opened(tree / "file", CREATE) as fd:
        for start in starts:
            write_all(fd, data[start : start + 37_411], start)
        assert os.pread(fd, len(data) + 1, 0) == data
    assert read_file(tree / "file") == data


def test_backwards(tree: Path) -> None:
    data = pattern(256 * KIB)
    with opened(tree / "file", CREATE) as fd:
        for start in reversed(range(0, len(data), 4 * KIB)):
            write_all(fd, data[start : start + 4 * KIB], start)
    assert read_file(tree / "file") == data


def test_byte_by_byte(tree: Path) -> None:
    data = pattern(2 * 4 * KIB + 3)
    with opened(tree / "file", CREATE) as fd:
        for value in data:
            assert os.write(fd, bytes([value])) == 1
    assert read_file(tree / "file") == data


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 28 + 57_344, MIB - 1, MIB, MIB + 1, 32 * MIB])
def test_one_write_one_read(tree: Path, size: int) -> None:
    data = os.urandom(size)
    with opened(tree / "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        write_all(fd, data, 0)
    with opened(tree / "file", os.O_RDONLY) as fd:
        assert os.fstat(fd).st_size == size
        assert os.read(fd, size + 10) == data
        assert os.read(fd, 10) == b""


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("durable_first", [False, True])
def test_overwrite_in_place_round_borders(tree: Path, border: int, durable_first: bool) -> None:
    """Every start and length within two bytes of a border, over data that is or is not on the device yet."""
    expected = bytearray(pattern(2 * border + 11))
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, bytes(expected), 0)
        if durable_first:
            os.fsync(fd)
        stamp = 0
        for start in range(border - 2, border + 3):
            for length in (1, 2, 3, border - 1, border, border + 1):
                stamp += 1
                piece = bytes([stamp % 255 + 1]) * length
                write_all(fd, piece, start)
                end = start + length
                expected[start:end] = piece
                assert os.pread(fd, length + 4, start - 2) == expected[start - 2 : end + 2]
        assert os.pread(fd, len(expected) + 1, 0) == expected
        os.fsync(fd)
    assert read_file(tree / "file") == expected


@pytest.mark.parametrize("border", BORDERS)
def test_single_bytes_at_borders_of_a_hole(tree: Path, border: int) -> None:
    places = [border - 1, border, border + 1, 2 * border - 1, 2 * border]
    expected = bytearray(2 * border + 1)
    with opened(tree / "file", CREATE) as fd:
        for value, place in enumerate(places, start=1):
            write_all(fd, bytes([value]), place)
            expected[place] = value
        assert os.fstat(fd).st_size == len(expected)
    assert read_file(tree / "file") == expected


def test_hole_reads_as_zeros(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        write_all(fd, b"end", 10 * MIB)
        assert os.fstat(fd).st_size == 10 * MIB + 3
        assert os.pread(fd, 10 * MIB, 0) == bytes(10 * MIB)
        write_all(fd, b"middle", 5 * MIB + 1)
        assert os.pread(fd, 8, 5 * MIB) == b"\0middle\0"


def test_two_handles_see_each_other_at_once(tree: Path) -> None:
    with opened(tree / "file", CREATE) as first, opened(tree / "file", os.O_RDWR) as second:
        write_all(first, b"a" * 5000, 0)
        assert os.fstat(second).st_size == 5000
        assert os.pread(second, 6000, 0) == b"a" * 5000
        write_all(second, b"b" * 10, 4995)
        assert os.pread(first, 20, 4990) == b"a" * 5 + b"b" * 10


def test_handles_of_one_process_interleave(tree: Path) -> None:
    """Dirty bytes of several handles in the same blocks, none of them closed or synced in between."""
    count, piece = 8, 100
    expected = bytearray(count * piece * 50)
    handles = [os.open(tree / "file", CREATE) for _ in range(count)]
    try:
        for index in range(len(expected) // piece):
            content = bytes([index % 250 + 1]) * piece
            write_all(handles[index % count], content, index * piece)
            expected[index * piece : (index + 1) * piece] = content
        for fd in handles:
            assert os.pread(fd, len(expected) + 1, 0) == expected
    finally:
        for fd in handles:
            os.close(fd)
    assert read_file(tree / "file") == expected


@pytest.mark.parametrize("piece", [1000, 4096, 65_536])
def test_processes_write_disjoint_parts(tree: Path, piece: int) -> None:
    workers, rounds = 4, 40
    write_file(tree / "file")

    def worker(number: int) -> Callable[[], None]:
        def run() -> None:
            with opened(tree / "file", os.O_WRONLY) as fd:
                for index in range(number, workers * rounds, workers):
                    write_all(fd, bytes([index % 255 + 1]) * piece, index * piece)

        return run

    all_at_once([worker(number) for number in range(workers)])
    data = read_file(tree / "file")
    assert len(data) == workers * rounds * piece
    for index in range(workers * rounds):
        assert data[index * piece : (index + 1) * piece] == bytes([index % 255 + 1]) * piece


def test_processes_append_without_losing_a_record(tree: Path) -> None:
    workers, records, length = 4, 200, 133
    write_file(tree / "file")

    def worker(number: int) -> Callable[[], None]:
        def run() -> None:
            with opened(tree / "file", os.O_WRONLY | os.O_APPEND) as fd:
                for index in range(records):
                    assert os.write(fd, f"{number}:{index}".encode().ljust(length, b".")) == length

        return run

    all_at_once([worker(number) for number in range(workers)])
    data = read_file(tree / "file")
    found = sorted(data[start : start + length].rstrip(b".") for start in range(0, len(data), length))
    assert found == sorted(f"{number}:{index}".encode() for number in range(workers) for index in range(records))


def test_writes_of_one_process_are_seen_by_another(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        for index in range(1, 20):
            data = bytes([index]) * (index * 1000)
            write_all(fd, data, 0)
            assert in_child(lambda: read_file(tree / "file")) == data


def test_vectored(tree: Path) -> None:
    pieces = [pattern(length, length) for length in (1, 4095, 4096, 10_000, 3)]
    whole = b"".join(pieces)
    with opened(tree / "file", CREATE) as fd:
        assert os.pwritev(fd, pieces, 5) == len(whole)
        buffers = [bytearray(len(piece)) for piece in pieces]
        assert os.preadv(fd, buffers, 5) == len(whole)
        assert buffers == pieces
        os.lseek(fd, 5, os.SEEK_SET)
        assert os.writev(fd, [piece[::-1] for piece in pieces]) == len(whole)
        os.lseek(fd, 5, os.SEEK_SET)
        assert os.readv(fd, buffers) == len(whole)
        assert buffers == [piece[::-1] for piece in pieces]


def test_read_at_and_after_the_end(tree: Path) -> None:
    write_file(tree / "file", b"0123456789")
    with opened(tree / "file") as fd:
        assert os.pread(fd, 10, 5) == b"56789"
        assert os.pread(fd, 10, 10) == b""
        assert os.pread(fd, 10, 1 << 40) == b""


def test_seek(tree: Path) -> None:
    write_file(tree / "file", b"0123456789")
    with opened(tree / "file") as fd:
        assert os.lseek(fd, 0, os.SEEK_END) == 10
        assert os.lseek(fd, -3, os.SEEK_END) == 7
        assert os.read(fd, 1) == b"7"
        assert os.lseek(fd, 100, os.SEEK_CUR) == 108
        assert os.read(fd, 1) == b""
        with raises(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 10
        with raises(errno.ENXIO):
            os.lseek(fd, 10, os.SEEK_DATA)


def test_zero_bytes_change_nothing(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        assert os.pwrite(fd, b"", 1000) == 0
        assert os.fstat(fd).st_size == 0


def test_beyond_the_largest_file(tree: Path) -> None:
    with opened(tree / "file", CREATE) as fd:
        with raises(errno.EFBIG, errno.EINVAL):
            os.pwrite(fd, b"x", (1 << 63) - 1)
        with raises(errno.EFBIG):
            os.pwrite(fd, b"x", 1 << 62)
        with raises(errno.EFBIG):
            os.ftruncate(fd, 1 << 62)
        assert os.fstat(fd).st_size == 0
        write_all(fd, b"still usable", 0)
    assert read_file(tree / "file") == b"still usable"


def test_file_size_limit_of_the_process(tree: Path) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with opened(tree / "file", CREATE) as fd:
            assert os.pwrite(fd, b"x" * 8192, 5000) == 5000
            with raises(errno.EFBIG):
                os.pwrite(fd, b"x", 10_000)
            with raises(errno.EFBIG):
                os.ftruncate(fd, 10_001)

    in_child(limited)
    assert os.stat(tree / "file").st_size == 10_000
