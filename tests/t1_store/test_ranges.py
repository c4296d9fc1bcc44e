"""fallocate, SEEK_DATA and SEEK_HOLE, copy_range: against a model in bytes, with reopens, crashes and a full store."""

import errno
import os
import random
from pathlib import Path

import pytest
from client import BLOCK, BLOCKS, FILE, INO, MIB, ROOT, SIZE, Client, check_clean, fails, opened_volume, still

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
PUNCH = PUNCH_HOLE | KEEP_SIZE
LARGEST = 200 * BLOCK  # of the model's files


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def new_file(client: Client, name: bytes = b"file") -> int:
    return int(client.store.create(ROOT, name, FILE, 0, 0)[INO])


def fallocate(client: Client, ino: int, mode: int, offset: int, length: int) -> None:
    assert client.call("fallocate", ino, mode, offset, length) == 0


def copy(client: Client, ino_in: int, offset_in: int, ino_out: int, offset_out: int, length: int) -> int:
    return int(client.call("copy_range", ino_in, offset_in, ino_out, offset_out, length))


def data_ranges(client: Client, ino: int) -> list[tuple[int, int]]:
    """Found as a program does: SEEK_DATA and SEEK_HOLE by turns."""
    found: list[tuple[int, int]] = []
    at = 0
    size = client.store.getattr(ino)[SIZE]
    while at < size:
        try:
            start = int(client.call("seek", ino, at, os.SEEK_DATA))
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            break
        at = int(client.call("seek", ino, start, os.SEEK_HOLE))
        found.append((start, at))
    return found


class TestPromise:
    def test_extends_the_file_with_zeros(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", b"abc")
        with client.opened(ino, write=True):
            fallocate(client, ino, 0, 1, 10_000)
            assert client.store.getattr(ino)[SIZE] == 10_001
            assert client.read(ino) == b"abc" + bytes(9_998)
            fallocate(client, ino, 0, 0, 5)
            assert client.store.getattr(ino)[SIZE] == 10_001
            client.flush(ino)

    def test_keep_size_keeps_it(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", b"abc")
        with client.opened(ino, write=True):
            fallocate(client, ino, KEEP_SIZE, 0, MIB)
            assert client.store.getattr(ino)[SIZE] == 3
            assert client.store.getattr(ino)[BLOCKS] == MIB // 512
            assert client.read(ino) == b"abc"

    def test_the_space_is_counted_once(self, client: Client) -> None:
        ino = new_file(client)
        with client.opened(ino, write=True):
            fallocate(client, ino, 0, 0, 100 * BLOCK)
            fallocate(client, ino, 0, 50 * BLOCK, 100 * BLOCK)
            assert client.used_blocks() == 150
            assert client.store.getattr(ino)[BLOCKS] == 150 * 8
            for at in (3, 70, 149, 3):
                client.write(ino, at * BLOCK, noise(at, BLOCK))
                client.flush(ino)
                assert client.used_blocks() == 150
                assert client.store.getattr(ino)[BLOCKS] == 150 * 8
            client.write(ino, 150 * BLOCK - 5, b"0123456789")
            client.flush(ino)
            assert client.used_blocks() == 151
            client.flush(ino)
        assert client.used_blocks() == 4, "what is not written when the last handle goes is not kept"
        assert client.store.getattr(ino)[BLOCKS] == 4 * 8

    def test_another_handle_keeps_it(self, client: Client) -> None:
        ino = new_file(client)
        with client.opened(ino):
            with client.opened(ino, write=True):
                fallocate(client, ino, 0, 0, MIB)
            assert client.used_blocks() == 256
        assert client.used_blocks() == 0

    def test_a_full_store_refuses_now_and_keeps_its_word(self, client: Client) -> None:
        free = client.free_blocks()
        ino = new_file(client)
        with client.opened(ino, write=True):
            with fails(errno.ENOSPC):
                fallocate(client, ino, 0, 0, (free + 1) * BLOCK)
            assert client.store.getattr(ino)[SIZE] == 0
            assert client.used_blocks() == 0
            fallocate(client, ino, 0, 0, free * BLOCK)
            assert client.free_blocks() == 0
            other = new_file(client, b"other")
            with client.opened(other, write=True), fails(errno.ENOSPC):
                client.call("write", other, 0, b"x")
            client.store.unlink(ROOT, b"other")
            chance = random.Random(1)
            order = list(range(free))
            chance.shuffle(order)
            for block in order:  # one by one, in no order, half of them in two halves
                content = noise(block, BLOCK)
                at = block * BLOCK
                if block % 2:
                    client.write(ino, at, content[:1000])
                    client.write(ino, at + 1000, content[1000:])
                else:
                    client.write(ino, at, content)
            client.fsync(ino)
            for block in range(0, free, 41):
                assert client.read(ino, block * BLOCK, BLOCK) == noise(block, BLOCK)

    def test_names_do_not_take_what_is_promised(self, client: Client) -> None:
        ino = new_file(client)
        with client.opened(ino, write=True):
            fallocate(client, ino, 0, 0, client.free_blocks() * BLOCK)
            blocks = client.used_blocks()
            name = 0
            try:
                for name in range(200_000):
                    client.store.forget(client.store.mknod(ROOT, b"%0200d" % name, FILE, 0, 0)[INO], 1)
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
            assert name > 0, "a few names fit always"
            for at in range(0, blocks * BLOCK, MIB):
                client.write(ino, at, noise(at, min(MIB, blocks * BLOCK - at)))
            client.fsync(ino)

    def test_truncation_lets_go_of_it(self, client: Client) -> None:
        ino = new_file(client)
        with client.opened(ino, write=True):
            fallocate(client, ino, 0, 0, 100 * BLOCK)
            client.truncate(ino, 10 * BLOCK)
            assert client.used_blocks() == 10
            fallocate(client, ino, KEEP_SIZE, 0, 100 * BLOCK)
            client.truncate(ino, 20 * BLOCK)
            assert client.used_blocks() == 100, "growing does not"
            client.truncate(ino, 20 * BLOCK)
            assert client.used_blocks() == 20, "the same size does, as on other file systems"
            client.truncate(ino, 0)
            assert client.used_blocks() == 0

    def test_an_unlinked_file(self, client: Client) -> None:
        """mkostemp, unlink, fallocate: what engines do for scratch files."""
        ino = new_file(client)
        with client.opened(ino, write=True):
            client.store.unlink(ROOT, b"file")
            fallocate(client, ino, 0, 0, MIB)
            client.write(ino, 4096, noise(1, 8192))
            assert client.read(ino, 0, 3 * BLOCK) == bytes(BLOCK) + noise(1, 8192)
            assert client.used_blocks() == 256
        client.store.forget(ino, 1)
        assert client.used_blocks() == 0

    def test_a_size_that_was_flushed_survives(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            ino = new_file(client)
            with client.opened(ino, write=True):
                client.write(ino, 0, b"abc")
                fallocate(client, ino, 0, 0, MIB)
                client.fsync(ino)
                crashed = volume.with_name("crashed.kvfs")
                crashed.write_bytes(still(volume))
        check_clean(crashed)
        with opened_volume(crashed) as client:
            assert client.content(ROOT, b"file") == b"abc".ljust(MIB, b"\0")
            assert client.used_blocks() == 1

    def test_of_a_file_that_nobody_has_open(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", b"abc")
        fallocate(client, ino, 0, 0, MIB)
        assert client.used_blocks() == 1
        assert client.store.getattr(ino)[SIZE] == MIB


class TestRefusals:
    @pytest.mark.parametrize("mode", [PUNCH_HOLE, PUNCH | ZERO_RANGE, 4, 8, 8 | KEEP_SIZE, 32, 64, 128, 1 << 20])
    def test_modes(self, client: Client, mode: int) -> None:
        ino = client.create(ROOT, b"file", b"abc")
        with fails(errno.EOPNOTSUPP):
            fallocate(client, ino, mode, 0, 1)
        assert client.content(ROOT, b"file") == b"abc"

    def test_arguments(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", b"abc")
        directory = client.store.mkdir(ROOT, b"dir", 0o755, 0, 0)[INO]
        with fails(errno.EINVAL):
            fallocate(client, ino, 0, 0, 0)
        for offset, length in [(1 << 44, 1), (0, (1 << 44) + 1), ((1 << 64) - 1, 1), (1, (1 << 64) - 1)]:
            with fails(errno.EFBIG):
                fallocate(client, ino, 0, offset, length)
        with fails(errno.EISDIR):
            fallocate(client, directory, 0, 0, 1)
        with fails(errno.ENOENT):
            fallocate(client, 4711, 0, 0, 1)
        for whence in (0, 1, 2, 5):
            with fails(errno.EINVAL):
                client.call("seek", ino, 0, whence)
        with fails(errno.EISDIR):
            client.call("seek", directory, 0, os.SEEK_DATA)
        with fails(errno.EISDIR):
            copy(client, ino, 0, directory, 0, 1)
        with fails(errno.ENOENT):
            copy(client, 4711, 0, ino, 0, 1)
        with fails(errno.EFBIG):
            copy(client, ino, 0, ino, 1 << 44, 3)

    def test_a_read_only_store(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            client.create(ROOT, b"file", b"abc")
        with opened_volume(volume, read_only=True) as client:
            ino = client.find(ROOT, b"file")
            assert ino is not None
            with fails(errno.EROFS):
                fallocate(client, ino, 0, 0, 1)
            with fails(errno.EROFS):
                copy(client, ino, 0, ino, 3, 1)
            assert client.call("seek", ino, 0, os.SEEK_HOLE) == 3


class TestZeros:
    @pytest.mark.parametrize("mode", [PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, BLOCK), (5, 10), (5, BLOCK), (BLOCK - 1, 2), (BLOCK, 5 * BLOCK), (100, 70 * BLOCK), (99 * BLOCK, 5000),
         (99 * BLOCK + 5, 20 * BLOCK), (0, 1 << 40), (400_000, 100), (500 * BLOCK, BLOCK)],
    )  # fmt: skip
    def test_what_is_written_on_disk(self, volume: Path, mode: int, offset: int, length: int) -> None:
        old = noise(1, 99 * BLOCK + 1234)
        expected = bytearray(old)
        expected[offset : min(offset + length, len(old))] = bytes(max(0, min(offset + length, len(old)) - offset))
        if mode == ZERO_RANGE and length < MIB:
            expected = expected.ljust(offset + length, b"\0")
        with opened_volume(volume) as client:
            ino = client.create(ROOT, b"file", old, durable=True)
            before = volume.with_name("before.kvfs")
            before.write_bytes(still(volume))
            with client.opened(ino, write=True):
                if length > MIB and mode != PUNCH:
                    with fails(errno.ENOSPC):
                        fallocate(client, ino, mode, offset, length)
                    return
                fallocate(client, ino, mode, offset, length)
                assert client.read(ino) == expected
                uncommitted = volume.with_name("uncommitted.kvfs")
                uncommitted.write_bytes(still(volume))
                client.fsync(ino)
                fsynced = volume.with_name("fsynced.kvfs")
                fsynced.write_bytes(still(volume))
        check_clean(volume)
        for image, content in [(uncommitted, old), (fsynced, expected), (volume, expected)]:
            check_clean(image)
            with opened_volume(image) as client:
                assert client.content(ROOT, b"file") == content

    def test_punching_gives_space_back_and_zeroing_keeps_it(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", noise(1, 100 * BLOCK))
        with client.opened(ino, write=True):
            fallocate(client, ino, PUNCH, 10 * BLOCK, 40 * BLOCK)
            client.flush(ino)
            assert client.used_blocks() == 60
            fallocate(client, ino, ZERO_RANGE, 0, 100 * BLOCK)
            client.flush(ino)
            assert client.used_blocks() == 100
            assert client.store.getattr(ino)[BLOCKS] == 100 * 8
            fallocate(client, ino, PUNCH, 0, 90 * BLOCK)
            assert client.used_blocks() == 10
        assert client.used_blocks() == 0
        assert client.content(ROOT, b"file") == bytes(100 * BLOCK)

    def test_on_a_full_store(self, client: Client) -> None:
        """Half of what is there can always be zeroed, and written again, in place."""
        blocks = client.free_blocks()
        ino = new_file(client)
        with client.opened(ino, write=True):
            for at in range(0, blocks * BLOCK, MIB):
                client.write(ino, at, noise(at, min(MIB, blocks * BLOCK - at)))
            client.fsync(ino)
            fallocate(client, ino, ZERO_RANGE, 0, blocks * BLOCK)
            assert client.used_blocks() == blocks
            for at in range(0, blocks * BLOCK, MIB):
                client.write(ino, at, noise(at + 1, min(MIB, blocks * BLOCK - at)))
            client.fsync(ino)
            for at in range(0, blocks * BLOCK, 5 * MIB):
                assert client.read(ino, at, BLOCK) == noise(at + 1, BLOCK)
            # edges have to be written anew, for which there is no room
            with fails(errno.ENOSPC):
                fallocate(client, ino, PUNCH, 5, 10)
            fallocate(client, ino, PUNCH, 0, 64 * BLOCK)
            client.fsync(ino)
            assert client.free_blocks() == 64

    def test_holes_of_a_map_too_large_to_be_logged_whole(self, volume: Path) -> None:
        """Written as a delta: what is punched must not come back after a crash."""
        chance = random.Random(3)
        model = bytearray(400 * BLOCK)
        with opened_volume(volume) as client:
            ino = new_file(client)
            with client.opened(ino, write=True):
                client.truncate(ino, len(model))
                for block in chance.sample(range(400), 300):  # in no order: an extent each
                    model[block * BLOCK : (block + 1) * BLOCK] = noise(block, BLOCK)
                    client.write(ino, block * BLOCK, noise(block, BLOCK))
                client.fsync(ino)
                for round_number in range(12):
                    for _ in range(4):
                        offset = chance.randrange(len(model))
                        end = min(len(model), offset + chance.choice([10, BLOCK, 30 * BLOCK]))
                        fallocate(client, ino, PUNCH, offset, end - offset)
                        model[offset:end] = bytes(end - offset)
                        block = chance.randrange(400)
                        client.write(ino, block * BLOCK, noise(round_number, BLOCK))
                        model[block * BLOCK : (block + 1) * BLOCK] = noise(round_number, BLOCK)
                    client.fsync(ino)
                    crashed = volume.with_name("crashed.kvfs")
                    crashed.write_bytes(still(volume))
                    check_clean(crashed)
                    with opened_volume(crashed) as after:
                        assert after.content(ROOT, b"file") == model
        check_clean(volume)
        with opened_volume(volume) as client:
            assert client.content(ROOT, b"file") == model


class TestSeek:
    def test_data_and_holes(self, client: Client) -> None:
        ino = new_file(client)
        with client.opened(ino, write=True):
            client.truncate(ino, 1 << 40)
            for at in (5 * BLOCK, 300 * BLOCK, 1 << 39):
                client.write(ino, at + 10, noise(at, BLOCK))
            expected = [(at, at + 2 * BLOCK) for at in (5 * BLOCK, 300 * BLOCK, 1 << 39)]
            assert data_ranges(client, ino) == expected, "the last one has not reached the device yet"
            client.flush(ino)
            assert data_ranges(client, ino) == expected
            assert client.call("seek", ino, 5 * BLOCK + 1, os.SEEK_DATA) == 5 * BLOCK + 1
            assert client.call("seek", ino, 3, os.SEEK_HOLE) == 3
            assert client.call("seek", ino, (1 << 40) - 1, os.SEEK_HOLE) == (1 << 40) - 1

    def test_the_end_of_the_file_is_a_hole(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", noise(1, 10_000))
        assert client.call("seek", ino, 0, os.SEEK_HOLE) == 10_000
        assert client.call("seek", ino, 9_999, os.SEEK_DATA) == 9_999
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (10_000, 10_001, 1 << 62, (1 << 64) - 1):
                with fails(errno.ENXIO):
                    client.call("seek", ino, offset, whence)
        empty = client.create(ROOT, b"empty")
        with fails(errno.ENXIO):
            client.call("seek", empty, 0, os.SEEK_DATA)

    def test_what_is_set_aside_is_a_hole(self, client: Client) -> None:
        ino = new_file(client)
        with client.opened(ino, write=True):
            fallocate(client, ino, 0, 0, MIB)
            with fails(errno.ENXIO):
                client.call("seek", ino, 0, os.SEEK_DATA)
            client.write(ino, 100 * BLOCK, b"x")
            assert data_ranges(client, ino) == [(100 * BLOCK, 101 * BLOCK)]

    def test_a_map_of_many_extents(self, client: Client) -> None:
        ino = new_file(client)
        with client.opened(ino, write=True):
            blocks = random.Random(2).sample(range(0, 3000, 2), 700)
            for block in blocks:
                client.write(ino, block * BLOCK, b"x")
            client.write(ino, 3000 * BLOCK - 1, b"x")
            found = data_ranges(client, ino)
            blocks.append(2999)
            expected = [(block * BLOCK, (block + 1) * BLOCK) for block in sorted(blocks)]
            if 2998 in blocks:  # the last two touch
                expected[-2:] = [(2998 * BLOCK, 3000 * BLOCK)]
            assert found == expected


class TestCopy:
    def test_whole_files(self, client: Client) -> None:
        data = noise(1, 3 * MIB + 12_345)
        source = client.create(ROOT, b"source", data)
        target = new_file(client, b"target")
        with client.opened(target, write=True):
            assert copy(client, source, 0, target, 0, 1 << 40) == len(data), "as far as the source goes"
            assert client.read(target) == data
            client.fsync(target)
        assert copy(client, source, len(data), target, 0, 10) == 0
        assert copy(client, source, 1 << 50, target, 0, 10) == 0
        assert copy(client, source, 0, target, 0, 0) == 0
        assert client.content(ROOT, b"target") == data

    def test_unflushed_bytes(self, client: Client) -> None:
        source, target = new_file(client, b"source"), new_file(client, b"target")
        with client.opened(source, write=True), client.opened(target, write=True):
            client.write(source, 0, b"0123456789")
            client.write(target, 0, b"abcdefghijkl")
            assert copy(client, source, 2, target, 5, 4) == 4
            assert client.read(target) == b"abcde2345jkl"

    def test_within_a_file(self, client: Client) -> None:
        data = noise(1, 2 * MIB)
        ino = client.create(ROOT, b"file", data)
        with client.opened(ino, write=True):
            for offset_in, offset_out, length in [(0, 0, 1), (0, MIB - 1, MIB), (MIB - 1, 0, MIB), (5, 5, 1 << 30)]:
                with fails(errno.EINVAL):
                    copy(client, ino, offset_in, ino, offset_out, length)
            assert client.read(ino) == data
            assert copy(client, ino, 0, ino, MIB, MIB) == MIB
            assert client.read(ino) == data[:MIB] * 2
            assert copy(client, ino, MIB, ino, 2 * MIB, 5 * MIB) == MIB, "up to its end, which is where the copy starts"
            assert client.read(ino) == data[:MIB] * 3

    def test_holes_stay_holes(self, client: Client) -> None:
        source, target = new_file(client, b"source"), client.create(ROOT, b"target", noise("old", MIB))
        with client.opened(source, write=True), client.opened(target, write=True):
            client.truncate(source, 1 << 40)
            client.write(source, 100 * BLOCK + 5, noise(1, 10 * BLOCK))
            client.write(source, 1 << 39, noise(2, BLOCK))
            assert copy(client, source, 0, target, 3, 1 << 40) == 1 << 40
            assert client.store.getattr(target)[SIZE] == (1 << 40) + 3
            expected = noise("old", MIB)[:3] + bytes(100 * BLOCK + 5) + noise(1, 10 * BLOCK)
            assert client.read(target, 0, len(expected)) == expected
            assert client.read(target, 1 << 39, BLOCK + 6) == bytes(3) + noise(2, BLOCK) + bytes(3)
            client.flush(target)
            assert client.used_blocks() < 40

    def test_a_full_store(self, client: Client) -> None:
        source = client.create(ROOT, b"source", noise(1, 12 * MIB))
        target = new_file(client, b"target")
        with client.opened(target, write=True):
            copied = copy(client, source, 0, target, 0, 12 * MIB)
            assert 0 < copied < 12 * MIB, "what fitted"
            assert client.read(target) == noise(1, 12 * MIB)[:copied]
            with fails(errno.ENOSPC):
                copy(client, source, copied, target, copied, 2 * MIB)


def test_against_a_model(volume: Path, scale: int) -> None:
    """All the calls that change ranges, at random, on two files; then a reopen or a crash after fsync."""
    chance = random.Random(11)
    names = (b"a", b"b")
    models = {name: bytearray() for name in names}

    def edge() -> int:
        return chance.choice([chance.randrange(LARGEST), chance.randrange(LARGEST) // BLOCK * BLOCK])

    def resize(name: bytes, size: int) -> None:
        models[name] = models[name][:size].ljust(size, b"\0")

    path = volume
    client = Client(path)
    try:
        for round_number in range(12 * scale):
            inos = {name: client.find(ROOT, name) or new_file(client, name) for name in names}
            for ino in inos.values():
                client.store.open(ino, True)
            for step in range(40):
                name = chance.choice(names)
                ino, model = inos[name], models[name]
                start, end = sorted((edge(), edge() + 1))
                match chance.choice(
                    ["write", "write", "promise", "keep", "punch", "zero", "copy", "truncate", "flush"]
                ):
                    case "write":
                        end = min(end, start + 20 * BLOCK)
                        piece = noise((round_number, step), end - start)
                        client.write(ino, start, piece)
                        resize(name, max(len(model), end))
                        models[name][start:end] = piece
                    case "promise":
                        fallocate(client, ino, 0, start, end - start)
                        resize(name, max(len(model), end))
                    case "keep":
                        fallocate(client, ino, KEEP_SIZE, start, end - start)
                    case "punch":
                        fallocate(client, ino, PUNCH, start, end - start)
                        end = max(start, min(end, len(model)))
                        if start < end:
                            model[start:end] = bytes(end - start)
                    case "zero":
                        fallocate(client, ino, ZERO_RANGE, start, end - start)
                        resize(name, max(len(model), end))
                        models[name][start:end] = bytes(end - start)
                    case "copy":
                        source = chance.choice(names)
                        target = edge()
                        length = max(0, min(end, len(models[source])) - start)
                        if source == name and start < target + length and target < start + length:
                            with fails(errno.EINVAL):
                                copy(client, ino, start, ino, target, end - start)
                        else:
                            copied = bytes(models[source][start : start + length])
                            assert copy(client, inos[source], start, ino, target, end - start) == length
                            if length:
                                resize(name, max(len(model), target + length))
                                models[name][target : target + length] = copied
                    case "truncate":
                        client.truncate(ino, start)
                        resize(name, start)
                    case "flush":
                        client.flush(ino)
                model = models[name]
                assert client.store.getattr(ino)[SIZE] == len(model)
                for start, end in data_ranges(client, ino):
                    model = model[:start] + bytes(end - start) + model[end:]
                assert not any(model), "what is no data is zeros"
                assert client.read(ino) == models[name]
            for ino in inos.values():
                client.fsync(ino)
            crashed = volume.with_name(f"crashed-{round_number}.kvfs")
            crashed.write_bytes(path.read_bytes())
            for name, ino in inos.items():
                client.store.release(ino, True)
                assert client.content(ROOT, name) == models[name]
            mapped = sum(end - start for ino in inos.values() for start, end in data_ranges(client, ino))
            assert client.used_blocks() <= mapped // BLOCK + 2, "nothing stays set aside"
            assert client.warnings() == []
            client.close()
            check_clean(path)
            if round_number % 2:
                path.unlink()
                path = crashed
            else:
                crashed.unlink()
            check_clean(path)
            client = Client(path)
            for name in names:
                assert client.content(ROOT, name) == models[name]
    finally:
        client.close()
