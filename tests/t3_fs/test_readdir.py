"""readdir(3) and its friends: complete, without repeats, also while the directory changes."""

import os
import random
import shutil
import stat
from functools import partial
from pathlib import Path

import pytest
from support.expect import opened, write_file
from support.libc import DT_DIR, DT_FIFO, DT_LNK, DT_REG, DT_SOCK, DirectoryStream
from support.mount import TestMount
from support.process import all_at_once


def make_files(directory: Path, names: list[str]) -> None:
    """Empty files, by the cheapest call that makes one."""
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as at:
        for name in names:
            os.mknod(name, stat.S_IFREG | 0o644, dir_fd=at)


def test_entries_come_with_their_type(tree: Path) -> None:
    write_file(tree / "file")
    os.mkdir(tree / "directory")
    os.symlink("file", tree / "link")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "socket", stat.S_IFSOCK | 0o600)
    with DirectoryStream(tree) as stream:
        found = dict(stream)
    assert found == {
        b".": DT_DIR,
        b"..": DT_DIR,
        b"file": DT_REG,
        b"directory": DT_DIR,
        b"link": DT_LNK,
        b"fifo": DT_FIFO,
        b"socket": DT_SOCK,
    }


def test_scandir_tells_types_and_attributes(tree: Path, kvfs_mount: TestMount) -> None:
    for size in range(50):
        write_file(tree / f"f{size}", b"x" * size)
    kvfs_mount.remount()
    with os.scandir(tree) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False)}
    assert sizes == {f"f{size}": size for size in range(50)}


@pytest.mark.slow
@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.ci)])
def test_many_names(tree: Path, kvfs_mount: TestMount, count: int) -> None:
    """Listed whole, listed again after a remount, and removed during one iteration."""
    names = [f"{index:x}-{'k' * (index % 60)}" for index in range(count)]
    half = len(names) // 2
    all_at_once([lambda: make_files(tree, names[:half]), lambda: make_files(tree, names[half:])])
    assert sorted(os.listdir(tree)) == sorted(names)
    kvfs_mount.remount()
    with DirectoryStream(tree) as stream:
        entries = [name for name, kind in stream if kind == DT_REG]
    assert sorted(entries) == sorted(map(os.fsencode, names))
    with os.scandir(tree) as iterator:
        for entry in iterator:
            os.unlink(entry.path)
    assert os.listdir(tree) == []
    os.rmdir(tree)


@pytest.mark.parametrize("count", [1, 31, 1000, 5000])
def test_removing_every_entry_as_it_is_listed(tree: Path, count: int) -> None:
    make_files(tree, [f"name{index}" for index in range(count)])
    removed = 0
    with os.scandir(tree) as entries:
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    assert removed == count
    os.rmdir(tree)


def test_what_stays_is_listed_once_while_other_names_come_and_go(tree: Path) -> None:
    stays = [f"stays{index}" for index in range(2000)]
    goes = [f"goes{index}" for index in range(2000)]
    mixed = stays + goes
    random.Random(2).shuffle(mixed)
    make_files(tree, mixed)
    listed: list[str] = []
    with os.scandir(tree) as entries:
        for number, entry in enumerate(entries):
            listed.append(entry.name)
            if goes:
                os.unlink(tree / goes.pop())
            if number < 4000:
                write_file(tree / f"comes{number}")
    assert len(listed) == len(set(listed))
    assert set(stays) <= set(listed)
    assert sorted(name for name in os.listdir(tree) if name.startswith(("stays", "goes"))) == sorted(stays)


def test_renamed_entries_are_not_lost(tree: Path) -> None:
    """A rename inside the directory may show the old name, the new one or both, but a bystander exactly once."""
    make_files(tree, [f"name{index}" for index in range(3000)])
    listed = []
    with os.scandir(tree) as entries:
        for number, entry in enumerate(entries):
            listed.append(entry.name)
            if number < 500:
                os.rename(tree / f"name{2 * number + 1}", tree / f"renamed{number}")
    bystanders = [name for name in listed if name.startswith("name") and int(name[4:]) % 2 == 0]
    assert sorted(bystanders) == sorted(f"name{index}" for index in range(0, 3000, 2))
    assert len(os.listdir(tree)) == 3000


def test_telldir_and_seekdir(tree: Path) -> None:
    make_files(tree, [f"name{index}" for index in range(1500)])
    with DirectoryStream(tree) as stream:
        positions = []
        while True:
            position = stream.tell()
            entry = stream.read()
            if entry is None:
                break
            positions.append((position, entry[0]))
        assert len(positions) == 1502
        sample = random.Random(3).sample(range(1502), 200)
        for index in sample:
            stream.seek(positions[index][0])
            following = [stream.read() for _ in range(3)]
            assert [entry and entry[0] for entry in following] == (
                [name for _, name in positions[index : index + 3]] + [None] * 3
            )[:3]


def test_rewinddir_sees_what_changed(tree: Path) -> None:
    make_files(tree, ["a", "b"])
    with DirectoryStream(tree) as stream:
        assert {name for name, _ in stream} == {b".", b"..", b"a", b"b"}
        assert stream.read() is None
        os.unlink(tree / "a")
        write_file(tree / "c")
        stream.rewind()
        assert {name for name, _ in stream} == {b".", b"..", b"b", b"c"}


def test_two_streams_do_not_disturb_each_other(tree: Path) -> None:
    names = {f"name{index}".encode() for index in range(800)}
    make_files(tree, [name.decode() for name in names])
    with DirectoryStream(tree) as first, DirectoryStream(tree) as second:
        seen: tuple[set[bytes], set[bytes]] = (set(), set())
        while (one := first.read()) is not None:
            two = second.read()
            assert two is not None
            seen[0].add(one[0])
            seen[1].add(two[0])
        assert second.read() is None
    assert seen[0] == seen[1] == names | {b".", b".."}


def test_dot_dot_after_a_move(tree: Path) -> None:
    os.makedirs(tree / "a" / "d")
    os.mkdir(tree / "b")
    with opened(tree / "a" / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rename(tree / "a" / "d", tree / "b" / "d")
        assert os.stat("..", dir_fd=fd).st_ino == os.stat(tree / "b").st_ino


def test_rmtree(tree: Path) -> None:
    for directory in range(20):
        os.makedirs(tree / "top" / f"d{directory}" / "sub")
        make_files(tree / "top" / f"d{directory}" / "sub", [f"f{index}" for index in range(50)])
    shutil.rmtree(tree / "top")
    assert os.listdir(tree) == []


def test_processes_fill_one_directory(tree: Path) -> None:
    all_at_once([partial(make_files, tree, [f"{n}-{index}" for index in range(500)]) for n in range(4)])
    assert sorted(os.listdir(tree)) == sorted(f"{n}-{index}" for n in range(4) for index in range(500))
