"""Bytes: written in any order, read back exactly, never short before the end of the file."""

import errno
import random
import select

import pytest
from client import BLOCK, BLOCKS, CTIME, FILE, INO, MIB, MTIME, ROOT, SIZE, Client, fails

from kvfs import _native

GRANULE = 64 * BLOCK


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, GRANULE, GRANULE + 1, MIB, MIB + 1, 5 * MIB - 3])
def test_a_page_written_front_to_back(client: Client, size: int) -> None:
    data = noise(size, size)
    ino = client.create(ROOT, b"page", data)
    attr = client.store.getattr(ino)
    assert attr[SIZE] == size
    assert attr[BLOCKS] == -(-size // BLOCK) * 8
    assert client.read(ino) == data
    assert client.read(ino, size, 10) == b""
    assert client.read(ino, size + 1, 10) == b""
    if size:
        assert client.read(ino, size - 1, 10) == data[-1:]


@pytest.mark.parametrize("step", [1000, BLOCK, 65536, 300_007])
def test_written_in_small_pieces(client: Client, step: int) -> None:
    data = noise(step, 1_000_000)
    ino = client.store.create(ROOT, b"page", FILE, 0, 0)[INO]
    with client.opened(ino, write=True):
        for at in range(0, len(data), step):
            client.write(ino, at, data[at : at + step])
        assert client.read(ino) == data, "before anything was flushed"
        client.flush(ino)
    assert client.read(ino) == data


def test_unaligned_reads_of_every_kind(client: Client) -> None:
    data = noise(1, 2 * MIB + 777)
    ino = client.create(ROOT, b"page", data)
    edges = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, GRANULE - 1, GRANULE, GRANULE + 1, MIB - 5, MIB, 2 * MIB, 2 * MIB + 776]
    for offset in edges:
        for size in (1, 2, BLOCK, BLOCK + 1, GRANULE, MIB):
            assert client.read(ino, offset, size) == data[offset : offset + size]


def test_written_backwards_and_in_a_random_order(client: Client) -> None:
    data = noise(2, MIB)
    for name, seed in ((b"backwards", None), (b"random", 7)):
        pieces = list(range(0, len(data), 50_000))[::-1]
        if seed is not None:
            random.Random(seed).shuffle(pieces)
        ino = client.store.create(ROOT, name, FILE, 0, 0)[INO]
        with client.opened(ino, write=True):
            for at in pieces:
                client.write(ino, at, data[at : at + 50_000])
        assert client.read(ino) == data


def test_overwrites_within_a_file(client: Client) -> None:
    expected = bytearray(noise(3, MIB + 100))
    ino = client.create(ROOT, b"pool", bytes(expected))
    blocks = client.store.getattr(ino)[BLOCKS]
    chance = random.Random(4)
    with client.opened(ino, write=True):
        for round_number in range(60):
            at = chance.randrange(len(expected) - 1)
            piece = chance.randbytes(min(chance.choice([1, 100, BLOCK, 70_000]), len(expected) - at))
            client.write(ino, at, piece)
            expected[at : at + len(piece)] = piece
            if round_number % 7 == 0:
                client.flush(ino)
            if round_number % 5 == 0:
                assert client.read(ino) == expected
    assert client.read(ino) == expected
    assert client.store.getattr(ino)[BLOCKS] == blocks, "copy-on-write keeps no second copy"


def test_two_handles_see_each_other(client: Client) -> None:
    ino = client.create(ROOT, b"file", b"0123456789")
    with client.opened(ino, write=True), client.opened(ino, write=True), client.opened(ino):
        client.write(ino, 3, b"abc")
        assert client.read(ino) == b"012abc6789"
        client.write(ino, 10, b"tail")
        assert client.read(ino, 4, 8) == b"bc6789ta"
        assert client.store.getattr(ino)[SIZE] == 14


def test_holes_read_as_zeros_and_cost_nothing(client: Client) -> None:
    ino = client.store.create(ROOT, b"sparse", FILE, 0, 0)[INO]
    tebibyte = 1 << 40
    with client.opened(ino, write=True):
        client.write(ino, 10 * BLOCK + 5, b"middle")
        client.write(ino, tebibyte - 6, b"theend")
        client.flush(ino)
        assert client.store.getattr(ino)[SIZE] == tebibyte
        assert client.store.getattr(ino)[BLOCKS] == 2 * 8
        assert client.read(ino, 10 * BLOCK, 20) == bytes(5) + b"middle" + bytes(9)
        assert client.read(ino, 0, 10 * BLOCK) == bytes(10 * BLOCK)
        assert client.read(ino, tebibyte // 2, MIB) == bytes(MIB)
        assert client.read(ino, tebibyte - BLOCK, 2 * BLOCK) == bytes(BLOCK - 6) + b"theend"


def test_files_that_would_be_too_large(client: Client) -> None:
    ino = client.create(ROOT, b"file")
    with client.opened(ino, write=True):
        with fails(errno.EFBIG):
            client.call("write", ino, (1 << 62) - 1, b"xx")
        with fails(errno.EFBIG):
            client.call("truncate", ino, 1 << 62)
        assert client.store.getattr(ino)[SIZE] == 0


class TestTruncate:
    def test_shorter_and_longer_again_reads_zeros(self, client: Client) -> None:
        data = noise(5, 3 * BLOCK)
        ino = client.create(ROOT, b"file", data)
        with client.opened(ino, write=True):
            for size in (2 * BLOCK + 100, BLOCK, 77):
                client.truncate(ino, size)
                assert client.store.getattr(ino)[SIZE] == size
                client.truncate(ino, 3 * BLOCK)
                assert client.read(ino) == data[:size] + bytes(3 * BLOCK - size)
                client.write(ino, 0, data)
        assert client.read(ino) == data

    def test_to_nothing_frees_the_space(self, client: Client) -> None:
        free = client.free_blocks()
        ino = client.create(ROOT, b"file", noise(6, 4 * MIB))
        assert client.free_blocks() == free - 4 * 256
        client.truncate(ino, 0)
        client.sync()
        assert client.free_blocks() == free
        assert client.store.getattr(ino)[SIZE] == 0
        assert client.store.getattr(ino)[BLOCKS] == 0

    def test_of_a_file_that_is_being_written(self, client: Client) -> None:
        ino = client.store.create(ROOT, b"file", FILE, 0, 0)[INO]
        with client.opened(ino, write=True):
            client.write(ino, 0, b"a" * 10_000)
            client.truncate(ino, 5_000)
            client.write(ino, 6_000, b"b" * 10)
            assert client.read(ino) == b"a" * 5_000 + bytes(1_000) + b"b" * 10
        assert client.read(ino) == b"a" * 5_000 + bytes(1_000) + b"b" * 10

    def test_ahead_of_the_data(self, client: Client) -> None:
        """vLLM's disk backend: ftruncate to the size, then pwrite the parts in any order."""
        data = noise(7, 8 * BLOCK)
        ino = client.store.create(ROOT, b"file", FILE, 0, 0)[INO]
        with client.opened(ino, write=True):
            client.truncate(ino, len(data))
            for part in (5, 1, 7, 0, 3, 6, 2, 4):
                client.write(ino, part * BLOCK, data[part * BLOCK : (part + 1) * BLOCK])
        assert client.read(ino) == data

    def test_without_a_handle(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", b"x" * 10)
        client.truncate(ino, 4)
        assert client.read(ino) == b"xxxx"


def test_writes_change_times_and_reads_do_not(client: Client) -> None:
    ino = client.create(ROOT, b"file", b"x")
    client.store.setattr(ino, _native.SET_MTIME | _native.SET_ATIME, atime_ns=1, mtime_ns=1)
    before = client.store.getattr(ino)
    client.read(ino)
    assert client.store.getattr(ino) == before
    with client.opened(ino, write=True):
        client.write(ino, 0, b"y")
        after = client.store.getattr(ino)
    assert after[MTIME] > 1
    assert after[CTIME] >= before[CTIME]
    assert after[9] == 1


def test_calls_on_what_is_not_a_file(client: Client) -> None:
    directory = client.store.mkdir(ROOT, b"dir", 0o755, 0, 0)[INO]
    for method, arguments in (("read", (0, 1)), ("write", (0, b"x")), ("truncate", (0,))):
        with fails(errno.EISDIR):
            client.call(method, directory, *arguments)
        with fails(errno.ENOENT):
            client.call(method, 999_999, *arguments)
    client.fsync(directory)


class TestTokens:
    def test_many_calls_at_once(self, client: Client) -> None:
        """Every token is answered once, whatever the order, and each with its own data."""
        count, size = 12, MIB
        files = [client.store.create(ROOT, b"file %d" % number, FILE, 0, 0)[INO] for number in range(count)]
        for ino in files:
            client.store.open(ino, True)
        writes = [client.start("write", ino, 0, noise(ino, size)) for ino in files]
        assert [client.finish(token) for token in writes] == [size] * count
        syncs = [client.start("fsync", ino) for ino in files]
        assert [client.finish(token) for token in reversed(syncs)] == [0] * count
        for ino in files:
            client.store.release(ino, True)
        offsets = range(0, size, 100_000)
        reads = {(ino, at): client.start("read", ino, at, 100_000) for ino in files for at in offsets}
        for (ino, at), token in reads.items():
            assert bytes(client.finish(token)) == noise(ino, size)[at : at + 100_000]

    def test_the_eventfd_is_quiet_when_there_is_nothing(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", noise(1, MIB))
        client.drain()
        assert client.store.completions() == []
        assert select.select([client.store.eventfd], [], [], 0)[0] == []
        token = client.start("read", ino, 0, 100)
        client.finish(token)
        assert client.store.completions() == []
        assert select.select([client.store.eventfd], [], [], 0)[0] == []

    def test_writes_of_one_file_keep_their_order(self, client: Client) -> None:
        ino = client.store.create(ROOT, b"file", FILE, 0, 0)[INO]
        with client.opened(ino, write=True):
            tokens = [client.start("write", ino, 0, bytes([number]) * 200_000) for number in range(50)]
            tokens.append(client.start("flush", ino))
            for token in tokens:
                client.finish(token)
            assert client.read(ino) == bytes([49]) * 200_000


def test_a_read_buffer_outlives_its_file(client: Client) -> None:
    data = noise(8, MIB)
    ino = client.create(ROOT, b"file", data)
    buffer = client.call("read", ino, 0, MIB)
    client.store.unlink(ROOT, b"file")
    client.sync()
    for number in range(8):
        client.create(ROOT, b"other %d" % number, noise(number, MIB))
    assert len(buffer) == MIB
    view = memoryview(buffer)
    assert view.readonly
    assert bytes(view) == data
