"""File names are bytes: 255 of them, any but "/" and NUL."""

import errno
import os
from pathlib import Path

import pytest
from support.expect import raises, read_file, write_file
from support.mount import TestMount


def test_longest_name(tree: Path, kvfs_mount: TestMount) -> None:
    names = ["n" * 255, "é" * 127 + "x", "m" * 254]
    for name in names:
        write_file(tree / name, name.encode())
    os.mkdir(tree / ("d" * 255))
    kvfs_mount.remount()
    assert sorted(os.listdir(tree)) == sorted([*names, "d" * 255])
    for name in names:
        assert read_file(tree / name) == name.encode()
        os.unlink(tree / name)


def test_name_too_long_in_every_call(tree: Path) -> None:
    long = tree / ("n" * 256)
    write_file(tree / "file")
    for call in (
        lambda: os.open(long, os.O_CREAT | os.O_WRONLY),
        lambda: os.stat(long),
        lambda: os.mkdir(long),
        lambda: os.rmdir(long),
        lambda: os.unlink(long),
        lambda: os.symlink("target", long),
        lambda: os.link(tree / "file", long),
        lambda: os.mkfifo(long),
        lambda: os.rename(tree / "file", long),
        lambda: os.rename(long, tree / "file"),
        lambda: os.listdir(long),
    ):
        with raises(errno.ENAMETOOLONG):
            call()


ODD_NAMES = [
    b" ",
    b"\x01",
    b"\n",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"back\\slash",
    b"...",
    b"-rf",
    b".hidden",
    b"a\x80b",
    "Å".encode(),
    "A\u030a".encode(),
    b"CaSe",
    b"cAsE",
    b"%s%n",
    bytes(range(1, 47)) + bytes(range(48, 256)),
]


def test_odd_names_are_kept_byte_for_byte(tree: Path, kvfs_mount: TestMount) -> None:
    at = os.fsencode(tree)
    for name in ODD_NAMES:
        write_file(os.path.join(at, name), name)
    assert sorted(os.listdir(at)) == sorted(ODD_NAMES)
    kvfs_mount.remount()
    assert sorted(os.listdir(at)) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        path = os.path.join(at, name)
        assert read_file(path) == name
        os.rename(path, path[:-1] + b"+")
        os.rename(path[:-1] + b"+", path)
        os.unlink(path)
    assert os.listdir(at) == []


@pytest.mark.parametrize("length", [1, 16, 64, 200])
def test_lookup_tells_near_names_apart(tree: Path, length: int) -> None:
    names = ["k" * length + str(index) for index in range(50)]
    for name in names:
        write_file(tree / name, name.encode())
    for name in names:
        assert read_file(tree / name) == name.encode()
    with raises(errno.ENOENT):
        os.stat(tree / ("k" * length))
    with raises(errno.ENOENT):
        os.stat(tree / ("k" * length + "50"))


def test_a_miss_is_seen_as_a_hit_right_after_create(tree: Path) -> None:
    """Negative lookups must not be remembered past the create, by this name or by rename or link."""
    for index in range(50):
        path = tree / f"f{index}"
        assert not os.access(path, os.F_OK)
        write_file(path, b"x")
        assert os.access(path, os.F_OK)
        assert not os.access(tree / f"r{index}", os.F_OK)
        os.rename(path, tree / f"r{index}")
        assert os.access(tree / f"r{index}", os.F_OK)
        assert not os.access(path, os.F_OK)
        os.link(tree / f"r{index}", path)
        assert os.access(path, os.F_OK)
