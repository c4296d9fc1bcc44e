"""rename(2) and renameat2(2), in all forms; attributes are right at once afterwards."""

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.expect import opened, pattern, raises, read_file, write_all, write_file
from support.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2
from support.mount import TestMount
from support.process import all_at_once


def test_within_a_directory(tree: Path) -> None:
    write_file(tree / "old", b"content")
    inode = os.stat(tree / "old").st_ino
    os.rename(tree / "old", tree / "new")
    status = os.stat(tree / "new")
    assert (status.st_ino, status.st_size, status.st_nlink) == (inode, 7, 1)
    assert os.listdir(tree) == ["new"]
    with raises(errno.ENOENT):
        os.stat(tree / "old")


def test_across_directories(tree: Path) -> None:
    os.makedirs(tree / "a" / "b")
    os.mkdir(tree / "c")
    write_file(tree / "a" / "b" / "file", b"content")
    os.rename(tree / "a" / "b" / "file", tree / "c" / "moved")
    assert os.listdir(tree / "a" / "b") == []
    assert read_file(tree / "c" / "moved") == b"content"


def test_size_is_right_at_once_after_tmp_write_rename(tree: Path) -> None:
    """What AIBrix looks at (DESIGN 6): stat by another path, right after the rename, bytes still dirty."""
    data = pattern(2 << 20)
    for round_ in range(3):
        with opened(tree / "tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            write_all(fd, data[: len(data) - round_], 0)
            os.rename(tree / "tmp", tree / "page")
            assert os.stat(tree / "page").st_size == len(data) - round_
        assert os.stat(tree / "page").st_size == len(data) - round_
        assert read_file(tree / "page") == data[: len(data) - round_]


def test_file_stays_writable_through_the_descriptor_that_was_renamed(tree: Path) -> None:
    with opened(tree / "tmp", os.O_RDWR | os.O_CREAT) as fd:
        write_all(fd, b"before", 0)
        os.rename(tree / "tmp", tree / "page")
        write_all(fd, b" and after", 6)
        assert os.fstat(fd).st_nlink == 1
    assert read_file(tree / "page") == b"before and after"


def test_over_an_existing_file(tree: Path) -> None:
    write_file(tree / "old", b"old")
    write_file(tree / "new", b"new content")
    inode = os.stat(tree / "new").st_ino
    os.rename(tree / "new", tree / "old")
    assert read_file(tree / "old") == b"new content"
    assert os.stat(tree / "old").st_ino == inode
    assert os.listdir(tree) == ["old"]


def test_over_an_open_file_leaves_its_readers_the_old_content(tree: Path) -> None:
    old = pattern(300_000, 1)
    write_file(tree / "page", old)
    with opened(tree / "page") as fd:
        for seed in range(2, 5):
            write_file(tree / "tmp", pattern(300_000, seed))
            os.rename(tree / "tmp", tree / "page")
            assert read_file(tree / "page") == pattern(300_000, seed)
            assert os.fstat(fd).st_nlink == 0
            assert os.pread(fd, 400_000, 0) == old
        write_all(fd, b"still writable", 0)
        assert os.pread(fd, 14, 0) == b"still writable"
    assert read_file(tree / "page") == pattern(300_000, 4)


def test_over_one_of_several_links(tree: Path) -> None:
    write_file(tree / "first", b"kept")
    os.link(tree / "first", tree / "second")
    write_file(tree / "new", b"new")
    os.rename(tree / "new", tree / "second")
    assert os.stat(tree / "first").st_nlink == 1
    assert read_file(tree / "first") == b"kept"
    assert read_file(tree / "second") == b"new"


def test_onto_a_link_to_the_same_file_does_nothing(tree: Path) -> None:
    write_file(tree / "first", b"x")
    os.link(tree / "first", tree / "second")
    os.rename(tree / "first", tree / "second")
    os.rename(tree / "first", tree / "first")
    assert sorted(os.listdir(tree)) == ["first", "second"]
    assert os.stat(tree / "first").st_nlink == 2


def test_directory_moves_with_what_it_holds(tree: Path) -> None:
    os.makedirs(tree / "a" / "sub" / "deep")
    os.mkdir(tree / "b")
    write_file(tree / "a" / "sub" / "deep" / "file", b"content")
    os.rename(tree / "a" / "sub", tree / "b" / "moved")
    assert read_file(tree / "b" / "moved" / "deep" / "file") == b"content"
    assert os.stat(tree / "b" / "moved" / "..").st_ino == os.stat(tree / "b").st_ino
    assert os.stat(tree / "a").st_nlink == 2
    assert os.stat(tree / "b").st_nlink == 3


def test_directory_over_an_empty_one(tree: Path) -> None:
    os.makedirs(tree / "full" / "sub")
    os.mkdir(tree / "empty")
    with opened(tree / "empty", os.O_RDONLY | os.O_DIRECTORY) as replaced:
        os.rename(tree / "full", tree / "empty")
        assert os.listdir(tree / "empty") == ["sub"]
        assert os.fstat(replaced).st_nlink == 0
        assert os.listdir(replaced) == []
        with raises(errno.ENOENT):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=replaced)
    assert os.stat(tree).st_nlink == 3


def test_directory_over_a_full_one(tree: Path) -> None:
    os.mkdir(tree / "a")
    os.makedirs(tree / "b" / "sub")
    with raises(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(tree / "a", tree / "b")
    assert os.listdir(tree / "b") == ["sub"]


def test_file_over_directory_and_directory_over_file(tree: Path) -> None:
    write_file(tree / "file")
    os.mkdir(tree / "directory")
    with raises(errno.EISDIR):
        os.rename(tree / "file", tree / "directory")
    with raises(errno.ENOTDIR):
        os.rename(tree / "directory", tree / "file")
    assert sorted(os.listdir(tree)) == ["directory", "file"]


def test_into_its_own_child(tree: Path) -> None:
    os.makedirs(tree / "a" / "b" / "c")
    for target in ("a/x", "a/b/x", "a/b/c/x"):
        with raises(errno.EINVAL):
            os.rename(tree / "a", tree / target)
    with raises(errno.ENOTEMPTY):
        os.rename(tree / "a" / "b", tree / "a")


def test_dot_and_dot_dot(tree: Path) -> None:
    os.mkdir(tree / "a")
    for name in (".", ".."):
        with raises(errno.EBUSY, errno.EINVAL):
            os.rename(f"{tree}/a/{name}", tree / "b")
        with raises(errno.EBUSY, errno.EINVAL, errno.ENOTEMPTY):
            os.rename(tree / "a", f"{tree}/a/{name}")


def test_names_that_are_missing_or_no_directories(tree: Path) -> None:
    write_file(tree / "file", b"x")
    with raises(errno.ENOENT):
        os.rename(tree / "absent", tree / "file")
    with raises(errno.ENOENT):
        os.rename(tree / "file", tree / "absent" / "new")
    with raises(errno.ENOTDIR):
        os.rename(tree / "file", tree / "file" / "new")
    with raises(errno.ENAMETOOLONG):
        os.rename(tree / "file", tree / ("n" * 256))
    with raises(errno.ENOTDIR):
        os.rename(tree / "file", f"{tree}/new/")
    assert read_file(tree / "file") == b"x"


def test_out_of_the_mount(tree: Path, tmp_path: Path, kvfs_mount: TestMount) -> None:
    if not kvfs_mount.is_kvfs:
        pytest.skip("a plain directory may share its file system with the temporary one")
    write_file(tree / "file")
    with raises(errno.EXDEV):
        os.rename(tree / "file", tmp_path / "file")


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_link(path: Path) -> None:
    os.symlink("a target that does not exist", path)


@pytest.mark.parametrize("make", [write_file, _make_fifo, _make_link, os.mkdir])
def test_every_kind_of_file_moves(tree: Path, make: Callable[[Path], None]) -> None:
    os.mkdir(tree / "sub")
    make(tree / "old")
    before = os.lstat(tree / "old")
    os.rename(tree / "old", tree / "sub" / "new")
    after = os.lstat(tree / "sub" / "new")
    assert (before.st_ino, before.st_mode, before.st_nlink) == (after.st_ino, after.st_mode, after.st_nlink)


def test_symbolic_link_is_renamed_and_replaced_itself(tree: Path) -> None:
    write_file(tree / "file", b"x")
    os.symlink("file", tree / "link")
    os.rename(tree / "link", tree / "moved")
    assert os.readlink(tree / "moved") == "file"
    write_file(tree / "other", b"y")
    os.rename(tree / "other", tree / "moved")
    assert stat.S_ISREG(os.lstat(tree / "moved").st_mode)
    assert read_file(tree / "file") == b"x"


def test_noreplace(tree: Path) -> None:
    write_file(tree / "a", b"a")
    write_file(tree / "b", b"b")
    os.mkdir(tree / "directory")
    for target in ("b", "directory", "a"):
        with raises(errno.EEXIST):
            renameat2(tree / "a", tree / target, RENAME_NOREPLACE)
    renameat2(tree / "a", tree / "c", RENAME_NOREPLACE)
    assert read_file(tree / "b") == b"b"
    assert read_file(tree / "c") == b"a"
    assert sorted(os.listdir(tree)) == ["b", "c", "directory"]


def test_exchange(tree: Path) -> None:
    os.makedirs(tree / "one" / "sub")
    os.mkdir(tree / "two")
    write_file(tree / "two" / "file", b"file")
    renameat2(tree / "one" / "sub", tree / "two" / "file", RENAME_EXCHANGE)
    assert read_file(tree / "one" / "sub") == b"file"
    assert stat.S_ISDIR(os.stat(tree / "two" / "file").st_mode)
    assert (os.stat(tree / "one").st_nlink, os.stat(tree / "two").st_nlink) == (2, 3)
    assert os.stat(tree / "two" / "file" / "..").st_ino == os.stat(tree / "two").st_ino


def test_exchange_of_files_keeps_both(tree: Path) -> None:
    write_file(tree / "a", b"first")
    write_file(tree / "b", b"the second")
    inodes = os.stat(tree / "a").st_ino, os.stat(tree / "b").st_ino
    renameat2(tree / "a", tree / "b", RENAME_EXCHANGE)
    assert (os.stat(tree / "b").st_ino, os.stat(tree / "a").st_ino) == inodes
    assert (read_file(tree / "a"), read_file(tree / "b")) == (b"the second", b"first")


def test_exchange_refuses(tree: Path) -> None:
    write_file(tree / "a")
    os.makedirs(tree / "d" / "e")
    with raises(errno.ENOENT):
        renameat2(tree / "a", tree / "absent", RENAME_EXCHANGE)
    with raises(errno.EINVAL):
        renameat2(tree / "d", tree / "d" / "e", RENAME_EXCHANGE)
    with raises(errno.EINVAL):
        renameat2(tree / "a", tree / "d", RENAME_EXCHANGE | RENAME_NOREPLACE)


@pytest.mark.kvfs_only
def test_flags_that_are_not_supported(tree: Path) -> None:
    write_file(tree / "a")
    with raises(errno.EINVAL):
        renameat2(tree / "a", tree / "b", RENAME_WHITEOUT)
    assert os.listdir(tree) == ["a"]


def test_name_never_disappears_while_it_is_replaced(tree: Path) -> None:
    """Readers race writers that replace the page: open() always finds it, and it is always whole."""
    sizes = (1, 4096, 70_000, 300_000)
    write_file(tree / "page", bytes([0]) * sizes[0])

    def writer(number: int) -> None:
        for index in range(60):
            value = (number * 60 + index) % 256
            write_file(tree / f"tmp{number}", bytes([value]) * sizes[index % len(sizes)])
            os.rename(tree / f"tmp{number}", tree / "page")

    def reader() -> None:
        for _ in range(300):
            data = read_file(tree / "page")
            assert len(data) in sizes
            assert data == data[:1] * len(data)

    all_at_once([lambda: writer(0), lambda: writer(1), reader, reader])
    assert os.listdir(tree) == ["page"]


def test_concurrent_moves_of_directories_make_no_cycle(tree: Path) -> None:
    """a into b and b into a at once: one wins, or neither, but both stay reachable."""
    for index in range(30):
        base = tree / str(index)
        os.makedirs(base / "a" / "x")
        os.makedirs(base / "b" / "y")

        def move(source: Path, target: Path) -> bool:
            try:
                os.rename(source, target)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
                return False
            return True

        won = all_at_once(
            [partial(move, base / "a", base / "b" / "y" / "a"), partial(move, base / "b", base / "a" / "x" / "b")]
        )
        reachable = sorted(os.path.basename(path) for path, _, _ in os.walk(base))
        assert reachable == sorted([str(index), "a", "b", "x", "y"])
        assert sum(won) == 1
