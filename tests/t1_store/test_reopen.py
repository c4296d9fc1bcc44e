"""What was there before a clean close is there after the next open; a second open is refused meanwhile."""

import errno
import os
import random
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from client import (
    BLOCK,
    DIRECTORY,
    FILE,
    INO,
    MIB,
    NLINK,
    ROOT,
    SIZE,
    Client,
    check_clean,
    fails,
    make_volume,
    opened_volume,
)

from kvfs import _native


def tree(client: Client, ino: int = ROOT) -> dict[bytes, object]:
    """Everything that a walk can see, but for inode numbers of directories' parents and the root's times."""
    found: dict[bytes, object] = {}
    for name in client.names(ino):
        child = client.find(ino, name)
        assert child is not None
        attr = client.store.getattr(child)
        xattrs = {key: client.store.getxattr(child, key) for key in client.store.listxattr(child)}
        content: object = None
        if stat.S_ISDIR(attr[2]):
            content = tree(client, child)
            assert client.store.parent(child) == ino
        elif stat.S_ISLNK(attr[2]):
            content = client.store.readlink(child)
        elif stat.S_ISREG(attr[2]):
            content = client.read(child, 0, 2 * MIB)
        found[name] = (attr, xattrs, content)
    return found


def furnish(client: Client) -> None:
    store = client.store
    chance = random.Random(0)
    for number in range(5):
        directory = store.mkdir(ROOT, b"dir %d" % number, stat.S_IFDIR | 0o700 + number, number, 1)[INO]
        for size in (0, 1, BLOCK, 100_000 + number):
            ino = client.create(directory, b"file %d" % size, chance.randbytes(size))
            store.setattr(ino, _native.SET_MODE | _native.SET_UID, mode=0o600, uid=size)
            store.setattr(ino, _native.SET_ATIME | _native.SET_MTIME, atime_ns=size, mtime_ns=-size)
        store.setxattr(directory, b"user.number", b"%d" % number)
    link = client.create(ROOT, b"linked", b"linked data")
    store.link(link, ROOT, b"second name")
    store.setxattr(link, b"user.key", bytes(1000))
    store.symlink(ROOT, b"symlink", b"dir 1/file 1", 1, 2)
    store.mknod(ROOT, b"fifo", stat.S_IFIFO | 0o644, 0, 0)
    store.mknod(ROOT, b"socket", stat.S_IFSOCK | 0o755, 0, 0)
    sparse = store.create(ROOT, b"sparse", FILE, 0, 0)[INO]
    with client.opened(sparse, write=True):
        for at in (0, 5 * BLOCK + 1, 300 * BLOCK, 1 << 40):
            client.write(sparse, at, b"here")
        client.write(sparse, 300 * BLOCK + 2, b"HERE")
    client.create(ROOT, b"moved", b"m")
    client.rename(ROOT, b"moved", ROOT, b"linked elsewhere")
    client.create(ROOT, b"deleted", b"d")
    store.unlink(ROOT, b"deleted")


def test_everything_comes_back(volume: Path) -> None:
    with opened_volume(volume) as client:
        furnish(client)
        before = tree(client)
        root = client.store.getattr(ROOT)
    check_clean(volume)
    for _ in range(3):
        with opened_volume(volume) as client:
            assert tree(client) == before
            assert client.store.getattr(ROOT) == root
        check_clean(volume)


def test_read_only(volume: Path) -> None:
    with opened_volume(volume) as client:
        furnish(client)
        before = tree(client)
    image = volume.read_bytes()
    with opened_volume(volume, read_only=True) as client:
        assert tree(client) == before
        for action in (
            lambda: client.store.create(ROOT, b"x", FILE, 0, 0),
            lambda: client.store.unlink(ROOT, b"linked"),
            lambda: client.store.mkdir(ROOT, b"x", DIRECTORY, 0, 0),
            lambda: client.store.setxattr(ROOT, b"user.x", b""),
            lambda: client.store.setattr(ROOT, _native.SET_MODE, mode=0),
            lambda: client.rename(ROOT, b"linked", ROOT, b"x"),
            lambda: client.call("truncate", client.find(ROOT, b"linked"), 0),
        ):
            with fails(errno.EROFS):
                action()
    assert volume.read_bytes() == image, "a read-only mount writes nothing at all"


def test_files_whose_handles_are_open_at_close(volume: Path) -> None:
    with opened_volume(volume) as client:
        ino = client.store.create(ROOT, b"file", FILE, 0, 0)[INO]
        client.store.open(ino, True)
        client.write(ino, 0, b"not flushed")
    with opened_volume(volume) as client:
        assert client.content(ROOT, b"file") == b"not flushed"


def test_unlinked_open_files_are_gone(volume: Path) -> None:
    with opened_volume(volume) as client:
        ino = client.create(ROOT, b"file", bytes(10 * BLOCK))
        client.store.open(ino, True)
        client.store.unlink(ROOT, b"file")
    check_clean(volume)
    with opened_volume(volume) as client:
        assert client.names() == []
        assert client.used_blocks() == 0


def test_hard_links_are_still_one_file(volume: Path) -> None:
    with opened_volume(volume) as client:
        ino = client.create(ROOT, b"a", b"data")
        client.store.link(ino, ROOT, b"b")
        client.store.link(ino, ROOT, b"c")
        client.store.unlink(ROOT, b"a")
    with opened_volume(volume) as client:
        found = client.find(ROOT, b"b")
        assert found is not None
        assert found == client.find(ROOT, b"c")
        assert client.store.getattr(found)[NLINK] == 2
        with client.opened(found, write=True):
            client.write(found, 0, b"DATA")
        assert client.content(ROOT, b"c") == b"DATA"


def test_a_volume_that_is_full_of_names_comes_back(volume: Path) -> None:
    """More metadata than one frame or one segment holds."""
    count = 20_000
    with opened_volume(volume) as client:
        directory = client.store.mkdir(ROOT, b"d", DIRECTORY, 0, 0)[INO]
        for number in range(count):
            client.store.mknod(directory, b"a name that is not short %06d" % number, FILE, 0, 0)
        for number in range(0, count, 3):
            client.store.unlink(directory, b"a name that is not short %06d" % number)
        expected = sorted(client.names(directory))
        assert len(expected) == count - len(range(0, count, 3))
    assert check_clean(volume)["files"] == len(expected)
    with opened_volume(volume) as client:
        found = client.find(ROOT, b"d")
        assert found is not None
        assert sorted(client.names(found)) == expected


def test_a_fragmented_file_comes_back(volume: Path) -> None:
    """Hundreds of extents: logged by their changes, not whole each time."""
    expected = bytearray(4 * MIB)
    chance = random.Random(11)
    with opened_volume(volume) as client:
        ino = client.create(ROOT, b"pool", bytes(expected))
        with client.opened(ino, write=True):
            for _ in range(400):
                at = chance.randrange(len(expected) // BLOCK) * BLOCK
                piece = chance.randbytes(BLOCK)
                client.write(ino, at, piece)
                expected[at : at + BLOCK] = piece
                if chance.random() < 0.2:
                    client.flush(ino)
            client.truncate(ino, 3 * MIB + 5)
            del expected[3 * MIB + 5 :]
            client.write(ino, 3 * MIB + BLOCK, b"after a hole")
            expected += bytes(3 * MIB + BLOCK - len(expected)) + b"after a hole"
    check_clean(volume)
    with opened_volume(volume) as client:
        assert client.store.getattr(ino)[SIZE] == len(expected)
        assert client.content(ROOT, b"pool") == expected


@pytest.mark.parametrize(("size", "segment_size"), [(13 * MIB + BLOCK, MIB), (100 * MIB + 12_345, 4 * MIB)])
def test_other_geometries(tmp_path: Path, size: int, segment_size: int) -> None:
    path = make_volume(tmp_path / "other.kvfs", size, segment_size)
    found = _native.inspect(os.fspath(path))
    superblock = found["copies"][found["best"]]["superblock"]
    assert superblock["size"] == size // BLOCK * BLOCK
    assert superblock["segment_size"] == segment_size
    assert superblock["segments"] == (size // BLOCK * BLOCK - BLOCK - MIB) // segment_size
    data = random.Random(1).randbytes(3 * MIB)
    with opened_volume(path) as client:
        client.create(ROOT, b"file", data)
    with opened_volume(path) as client:
        assert client.content(ROOT, b"file") == data
    check_clean(path)


@pytest.mark.parametrize(
    ("size", "segment_size"),
    [(13 * MIB + BLOCK - 1, 0), (0, 0), (32 * MIB, 3 * MIB), (32 * MIB, 512 * 1024), (32 * MIB, 4 * MIB), (1 << 40, 0)],
)
def test_impossible_geometries_are_refused(tmp_path: Path, size: int, segment_size: int) -> None:
    path = tmp_path / "store.kvfs"
    with path.open("xb") as file:
        file.truncate(64 * MIB)
    with fails(errno.EINVAL, r"expected .*found "):
        _native.format_store(os.fspath(path), size, segment_size)
    assert not any(path.read_bytes()), "nothing was written"


class TestOneMountAtATime:
    OWNER = '{"pid": 12345, "mountpoint": "/mnt/kv"}'

    def test_a_second_writer_is_told_who_the_first_is(self, volume: Path) -> None:
        with opened_volume(volume, owner=self.OWNER):
            for options in ({}, {"read_only": True}):
                with fails(errno.EBUSY, r"in use by .*/mnt/kv"):
                    _native.Store(os.fspath(volume), **options)
            with fails(errno.EBUSY, r"in use by .*/mnt/kv"):
                _native.format_store(os.fspath(volume), 32 * MIB)
            with fails(errno.EBUSY, r"in use by .*/mnt/kv"):
                _native.check(os.fspath(volume))
        with opened_volume(volume):
            pass

    def test_from_another_process(self, volume: Path) -> None:
        with opened_volume(volume, owner=self.OWNER):
            script = f"from kvfs import _native; _native.Store({os.fspath(volume)!r})"
            result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert result.returncode == 1
        assert "in use by" in result.stderr
        assert "/mnt/kv" in result.stderr

    def test_readers_share(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            client.create(ROOT, b"file", b"data")
        with opened_volume(volume, read_only=True) as one, opened_volume(volume, read_only=True) as two:
            assert one.content(ROOT, b"file") == two.content(ROOT, b"file") == b"data"
            with fails(errno.EBUSY, "in use"):
                _native.Store(os.fspath(volume))

    def test_inspect_does_not_need_the_volume(self, volume: Path) -> None:
        with opened_volume(volume, owner=self.OWNER):
            found = _native.inspect(os.fspath(volume))
            superblock = found["copies"][found["best"]]["superblock"]
            assert superblock["owner"] == self.OWNER
            assert superblock["clean"] is False
        found = _native.inspect(os.fspath(volume))
        assert found["copies"][found["best"]]["superblock"]["clean"] is True


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    def refused(path: Path) -> OSError:
        with pytest.raises(OSError, match=re.escape(os.fspath(path))) as caught:
            _native.Store(os.fspath(path))
        assert "\n" not in str(caught.value)
        return caught.value

    assert refused(tmp_path / "absent").errno == errno.ENOENT
    assert refused(tmp_path).errno in (errno.EINVAL, errno.EISDIR)
    empty = tmp_path / "empty"
    empty.touch()
    assert refused(empty).errno == errno.EMEDIUMTYPE
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"something else" * 10_000)
    error = refused(foreign)
    assert error.errno == errno.EMEDIUMTYPE
    assert "expected the magic KVFSSB1, found 736f6d657468696e" in str(error)
