"""Names and attributes: what POSIX and FUSE expect of the calls that do not wait."""

import errno
import os
import stat

import pytest
from client import BLOCKS, CTIME, DIRECTORY, FILE, GID, INO, MODE, MTIME, NLINK, ROOT, SIZE, UID, Client, fails

from kvfs import _native


def test_root_of_a_new_volume(client: Client) -> None:
    attr = client.store.getattr(ROOT)
    assert attr[INO] == ROOT
    assert stat.S_ISDIR(attr[MODE])
    assert attr[NLINK] == 2
    assert (attr[UID], attr[GID]) == (os.geteuid(), os.getegid())
    assert client.store.parent(ROOT) == ROOT
    assert client.names() == []


def test_create_and_look_up(client: Client) -> None:
    assert client.store.lookup(ROOT, b"page") is None
    made = client.store.create(ROOT, b"page", stat.S_IFREG | 0o640, 12, 34)
    assert (made[MODE], made[NLINK], made[UID], made[GID]) == (stat.S_IFREG | 0o640, 1, 12, 34)
    assert (made[SIZE], made[BLOCKS]) == (0, 0)
    assert client.store.lookup(ROOT, b"page") == made
    assert client.store.getattr(made[INO]) == made
    assert client.names() == [b"page"]
    with fails(errno.EEXIST):
        client.store.create(ROOT, b"page", FILE, 0, 0)


@pytest.mark.parametrize("name", [b"a" * 255, b"\xff\xfe", b" ", b"...", b"\n", "\N{SNOWMAN}".encode()])
def test_any_name_that_posix_allows(client: Client, name: bytes) -> None:
    client.create(ROOT, name, b"data")
    assert client.names() == [name]
    assert client.content(ROOT, name) == b"data"


def test_names_that_are_too_long(client: Client) -> None:
    name = b"a" * 256
    client.create(ROOT, b"file")
    with fails(errno.ENAMETOOLONG):
        client.store.create(ROOT, name, FILE, 0, 0)
    with fails(errno.ENAMETOOLONG):
        client.store.mkdir(ROOT, name, DIRECTORY, 0, 0)
    with fails(errno.ENAMETOOLONG):
        client.store.lookup(ROOT, name)
    with fails(errno.ENAMETOOLONG):
        client.rename(ROOT, b"file", ROOT, name)


def test_errors_name_what_is_wrong(client: Client) -> None:
    file = client.create(ROOT, b"file")
    directory = client.store.mkdir(ROOT, b"dir", DIRECTORY, 0, 0)[INO]
    client.create(directory, b"inside")
    missing = 999_999
    with fails(errno.ENOENT):
        client.store.getattr(missing)
    with fails(errno.ENOENT):
        client.store.unlink(ROOT, b"nothing")
    with fails(errno.ENOENT):
        client.store.rmdir(ROOT, b"nothing")
    with fails(errno.ENOTDIR):
        client.store.lookup(file, b"x")
    with fails(errno.ENOTDIR):
        client.store.create(file, b"x", FILE, 0, 0)
    with fails(errno.ENOTDIR):
        client.store.rmdir(ROOT, b"file")
    with fails(errno.ENOTDIR):
        client.store.opendir(file)
    with fails(errno.EISDIR):
        client.store.unlink(ROOT, b"dir")
    with fails(errno.ENOTEMPTY):
        client.store.rmdir(ROOT, b"dir")
    with fails(errno.EINVAL):
        client.store.readlink(file)
    with fails(errno.EPERM):
        client.store.link(directory, ROOT, b"hard")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG])
def test_special_files(client: Client, kind: int) -> None:
    attr = client.store.mknod(ROOT, b"special", kind | 0o600, 1, 2)
    assert attr[MODE] == kind | 0o600
    assert client.store.lookup(ROOT, b"special") == attr


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_device_nodes_are_refused(client: Client, kind: int) -> None:
    with fails(errno.EPERM):
        client.store.mknod(ROOT, b"device", kind | 0o600, 0, 0)
    assert client.names() == []


def test_directories_count_their_subdirectories(client: Client) -> None:
    outer = client.store.mkdir(ROOT, b"outer", stat.S_IFDIR | 0o1711, 5, 6)
    assert (outer[MODE], outer[NLINK], outer[UID], outer[GID]) == (stat.S_IFDIR | 0o1711, 2, 5, 6)
    inner = client.store.mkdir(outer[INO], b"inner", DIRECTORY, 0, 0)[INO]
    assert client.store.getattr(outer[INO])[NLINK] == 3
    assert client.store.getattr(ROOT)[NLINK] == 3
    assert client.store.parent(inner) == outer[INO]
    assert client.store.rmdir(outer[INO], b"inner") == inner
    assert client.store.getattr(outer[INO])[NLINK] == 2


def test_nothing_is_made_in_a_removed_directory(client: Client) -> None:
    directory = client.store.mkdir(ROOT, b"dir", DIRECTORY, 0, 0)[INO]
    client.store.rmdir(ROOT, b"dir")
    with fails(errno.ENOENT):
        client.store.create(directory, b"file", FILE, 0, 0)
    client.create(ROOT, b"file")
    with fails(errno.ENOENT):
        client.rename(ROOT, b"file", directory, b"file")


def test_names_change_their_directory(client: Client) -> None:
    directory = client.store.mkdir(ROOT, b"dir", DIRECTORY, 0, 0)[INO]

    def changed(action: object, *arguments: object) -> bool:
        client.store.setattr(directory, _native.SET_MTIME, mtime_ns=1)
        action(*arguments)  # type: ignore[operator]
        attr = client.store.getattr(directory)
        return attr[MTIME] > 1 and attr[CTIME] > 1

    assert changed(client.create, directory, b"a")
    assert changed(client.rename, directory, b"a", directory, b"b")
    assert changed(client.rename, directory, b"b", ROOT, b"b")
    assert changed(client.rename, ROOT, b"b", directory, b"b")
    assert changed(client.store.unlink, directory, b"b")
    assert changed(client.store.mkdir, directory, b"c", DIRECTORY, 0, 0)
    assert changed(client.store.rmdir, directory, b"c")
    assert changed(client.store.symlink, directory, b"d", b"target", 0, 0)
    assert not changed(client.store.lookup, directory, b"d")


def test_hard_links(client: Client) -> None:
    ino = client.create(ROOT, b"one", b"data")
    attr = client.store.link(ino, ROOT, b"two")
    assert (attr[INO], attr[NLINK]) == (ino, 2)
    with fails(errno.EEXIST):
        client.store.link(ino, ROOT, b"two")
    assert client.store.unlink(ROOT, b"one") == ino
    assert client.store.getattr(ino)[NLINK] == 1
    assert client.content(ROOT, b"two") == b"data"
    client.store.unlink(ROOT, b"two")
    assert client.store.getattr(ino)[NLINK] == 0, "the kernel still has a reference from link()"
    client.store.forget(ino, 1)
    with fails(errno.ENOENT):
        client.store.getattr(ino)


def test_symlinks(client: Client) -> None:
    attr = client.store.symlink(ROOT, b"link", b"../else/where\xff", 3, 4)
    assert stat.S_ISLNK(attr[MODE])
    assert (attr[UID], attr[GID], attr[SIZE]) == (3, 4, len(b"../else/where\xff"))
    assert client.store.readlink(attr[INO]) == b"../else/where\xff"
    longest = client.store.symlink(ROOT, b"long", b"x" * 4095, 0, 0)[INO]
    assert client.store.readlink(longest) == b"x" * 4095
    with fails(errno.ENAMETOOLONG):
        client.store.symlink(ROOT, b"longer", b"x" * 4096, 0, 0)


def test_setattr_changes_what_it_names(client: Client) -> None:
    ino = client.create(ROOT, b"file")
    store = client.store
    before = store.getattr(ino)
    attr = store.setattr(ino, _native.SET_MODE, mode=stat.S_IFREG | 0o4711, uid=9, mtime_ns=9)
    assert attr[MODE] == stat.S_IFREG | 0o4711
    assert (attr[UID], attr[MTIME]) == (before[UID], before[MTIME])
    attr = store.setattr(ino, _native.SET_UID | _native.SET_GID, uid=2**32 - 2, gid=7)
    assert (attr[UID], attr[GID]) == (2**32 - 2, 7)
    attr = store.setattr(ino, _native.SET_ATIME | _native.SET_MTIME, atime_ns=-1_500_000_000, mtime_ns=2**62 + 1)
    assert attr[9:11] == (-1_500_000_000, 2**62 + 1)
    later = store.setattr(ino, _native.SET_MTIME_NOW)
    assert later[9] == -1_500_000_000
    assert attr[CTIME] <= later[CTIME]
    assert before[CTIME] <= later[MTIME] < 2**62
    assert store.setattr(ino, _native.SET_ATIME_NOW)[9] >= later[MTIME]
    assert store.getattr(ino)[MODE] == stat.S_IFREG | 0o4711


def test_touch_atime(client: Client) -> None:
    ino = client.create(ROOT, b"file")
    client.store.setattr(ino, _native.SET_ATIME | _native.SET_MTIME, atime_ns=1, mtime_ns=2)
    client.store.touch_atime(ino)
    attr = client.store.getattr(ino)
    assert attr[9] > 2
    assert attr[MTIME] == 2


def test_xattrs(client: Client) -> None:
    ino = client.create(ROOT, b"file")
    store = client.store
    assert store.listxattr(ino) == []
    store.setxattr(ino, b"user.a", b"1")
    store.setxattr(ino, b"user.b", bytes(range(256)))
    store.setxattr(ino, b"user.a", b"", os.XATTR_REPLACE)
    assert sorted(store.listxattr(ino)) == [b"user.a", b"user.b"]
    assert store.getxattr(ino, b"user.a") == b""
    assert store.getxattr(ino, b"user.b") == bytes(range(256))
    with fails(errno.EEXIST):
        store.setxattr(ino, b"user.a", b"2", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        store.setxattr(ino, b"user.c", b"2", os.XATTR_REPLACE)
    store.removexattr(ino, b"user.a")
    with fails(errno.ENODATA):
        store.getxattr(ino, b"user.a")
    with fails(errno.ENODATA):
        store.removexattr(ino, b"user.a")
    assert store.listxattr(ino) == [b"user.b"]
    store.setxattr(ROOT, b"user.dir", b"x" * 60_000)
    assert store.getxattr(ROOT, b"user.dir") == b"x" * 60_000


def test_an_xattr_that_is_too_large(client: Client) -> None:
    ino = client.create(ROOT, b"file")
    with pytest.raises(OSError, match=rf"\[Errno ({errno.E2BIG}|{errno.ERANGE}|{errno.ENOSPC})\]"):
        client.store.setxattr(ino, b"user.a", bytes(65537))
    with pytest.raises(OSError, match=rf"\[Errno ({errno.ERANGE}|{errno.ENAMETOOLONG})\]"):
        client.store.setxattr(ino, b"user." + b"x" * 251, b"")
    assert client.store.listxattr(ino) == []


class TestRename:
    def test_over_a_file(self, client: Client) -> None:
        new = client.create(ROOT, b"new", b"new data")
        old = client.create(ROOT, b"old", b"old data")
        client.rename(ROOT, b"new", ROOT, b"old")
        assert client.names() == [b"old"]
        assert client.find(ROOT, b"old") == new
        assert client.content(ROOT, b"old") == b"new data"
        with fails(errno.ENOENT):
            client.store.getattr(old)

    def test_over_an_open_file(self, client: Client) -> None:
        old = client.create(ROOT, b"old", b"old data")
        client.create(ROOT, b"new", b"new data")
        with client.opened(old):
            client.rename(ROOT, b"new", ROOT, b"old")
            assert client.read(old) == b"old data"
            assert client.store.getattr(old)[NLINK] == 0
        with fails(errno.ENOENT):
            client.store.getattr(old)

    def test_attributes_are_right_at_once(self, client: Client) -> None:
        """AIBrix stats a page right after its rename, while other handles may still be open."""
        ino = client.store.create(ROOT, b"tmp", FILE, 0, 0)[INO]
        with client.opened(ino, write=True):
            client.write(ino, 0, b"x" * 100_001)
            client.rename(ROOT, b"tmp", ROOT, b"page")
            attr = client.store.lookup(ROOT, b"page")
            assert attr is not None
            assert (attr[INO], attr[SIZE]) == (ino, 100_001)
            assert attr[BLOCKS] == 25 * 8

    def test_noreplace_and_exchange(self, client: Client) -> None:
        client.create(ROOT, b"a", b"A")
        directory = client.store.mkdir(ROOT, b"d", DIRECTORY, 0, 0)[INO]
        client.create(directory, b"b", b"B")
        with fails(errno.EEXIST):
            client.rename(ROOT, b"a", directory, b"b", _native.RENAME_NOREPLACE)
        client.rename(ROOT, b"a", directory, b"b", _native.RENAME_EXCHANGE)
        assert client.content(ROOT, b"a") == b"B"
        assert client.content(directory, b"b") == b"A"
        with fails(errno.ENOENT):
            client.rename(ROOT, b"a", ROOT, b"nothing", _native.RENAME_EXCHANGE)
        client.rename(ROOT, b"a", ROOT, b"c", _native.RENAME_NOREPLACE)
        assert sorted(client.names()) == [b"c", b"d"]
        with fails(errno.EINVAL):
            client.rename(ROOT, b"c", ROOT, b"e", 4)

    def test_exchange_of_a_directory_and_a_file(self, client: Client) -> None:
        outer = client.store.mkdir(ROOT, b"outer", DIRECTORY, 0, 0)[INO]
        inner = client.store.mkdir(ROOT, b"inner", DIRECTORY, 0, 0)[INO]
        client.create(outer, b"file", b"data")
        client.rename(ROOT, b"inner", outer, b"file", _native.RENAME_EXCHANGE)
        assert client.find(outer, b"file") == inner
        assert client.store.parent(inner) == outer
        assert client.store.getattr(outer)[NLINK] == 3
        assert client.store.getattr(ROOT)[NLINK] == 3
        assert client.content(ROOT, b"inner") == b"data"

    def test_of_directories(self, client: Client) -> None:
        store = client.store
        a = store.mkdir(ROOT, b"a", DIRECTORY, 0, 0)[INO]
        b = store.mkdir(a, b"b", DIRECTORY, 0, 0)[INO]
        c = store.mkdir(ROOT, b"c", DIRECTORY, 0, 0)[INO]
        file = client.create(c, b"file")
        with fails(errno.EINVAL):
            client.rename(ROOT, b"a", b, b"inside itself")
        with fails(errno.EINVAL):
            client.rename(ROOT, b"a", a, b"inside itself")
        with fails(errno.ENOTEMPTY):
            client.rename(a, b"b", ROOT, b"c")
        with fails(errno.ENOTDIR):
            client.rename(a, b"b", c, b"file")
        with fails(errno.EISDIR):
            client.rename(c, b"file", ROOT, b"a")
        client.rename(a, b"b", c, b"b")
        assert store.parent(b) == c
        assert [store.getattr(ino)[NLINK] for ino in (ROOT, a, b, c)] == [4, 2, 2, 3]
        client.rename(ROOT, b"c", a, b"c")
        assert [store.getattr(ino)[NLINK] for ino in (ROOT, a, b, c)] == [3, 3, 2, 3]
        assert client.find(c, b"file") == file
        store.mkdir(ROOT, b"empty", DIRECTORY, 0, 0)
        client.rename(a, b"c", ROOT, b"empty")
        assert client.find(ROOT, b"empty") == c

    def test_onto_itself_and_onto_a_hard_link(self, client: Client) -> None:
        ino = client.create(ROOT, b"one", b"data")
        client.store.link(ino, ROOT, b"two")
        client.rename(ROOT, b"one", ROOT, b"one")
        client.rename(ROOT, b"one", ROOT, b"two")
        assert sorted(client.names()) == [b"one", b"two"], "POSIX: two names of one file, nothing happens"

    def test_of_what_is_not_there(self, client: Client) -> None:
        with fails(errno.ENOENT):
            client.rename(ROOT, b"nothing", ROOT, b"x")


class TestReferences:
    """An inode without a name lives while the kernel refers to it or a handle is open."""

    def test_lookups_keep_it(self, client: Client) -> None:
        ino = client.store.create(ROOT, b"file", FILE, 0, 0)[INO]  # one reference
        client.store.lookup(ROOT, b"file")  # two
        client.store.remember(ino, 2)  # four
        client.store.unlink(ROOT, b"file")
        client.store.forget(ino, 3)
        assert client.store.getattr(ino)[NLINK] == 0
        client.store.forget(ino, 1)
        with fails(errno.ENOENT):
            client.store.getattr(ino)

    def test_an_open_handle_keeps_it(self, client: Client) -> None:
        ino = client.create(ROOT, b"file", b"data")
        free = client.free_blocks()
        with client.opened(ino, write=True):
            client.store.unlink(ROOT, b"file")
            client.write(ino, 4, b" and more")
            client.fsync(ino)
            assert client.read(ino) == b"data and more"
        with fails(errno.ENOENT):
            client.store.getattr(ino)
        assert client.free_blocks() > free

    def test_a_missing_name_takes_none(self, client: Client) -> None:
        assert client.store.lookup(ROOT, b"nothing") is None


class TestDirectories:
    def test_all_names_in_pieces(self, client: Client) -> None:
        names = {b"file %d" % number for number in range(250)}
        for name in names:
            client.create(ROOT, name)
        directory = client.store.opendir(ROOT)
        seen: list[bytes] = []
        position = 0
        while entries := directory.read(position, 7):
            assert len(entries) <= 7
            for name, attr, position in entries:  # noqa: B007 - the last one is where to go on
                assert client.find(ROOT, name) == attr[INO]
                seen.append(name)
        assert len(seen) == len(names)
        assert set(seen) == names

    def test_a_position_can_be_gone_back_to(self, client: Client) -> None:
        for number in range(20):
            client.create(ROOT, b"file %d" % number)
        directory = client.store.opendir(ROOT)
        first = directory.read(0, 5)
        rest = directory.read(first[-1][2], 100)
        assert directory.read(first[-1][2], 100) == rest
        assert directory.read(first[2][2], 2) == first[3:5]

    def test_what_is_removed_meanwhile_is_left_out(self, client: Client) -> None:
        for number in range(20):
            client.create(ROOT, b"file %d" % number)
        directory = client.store.opendir(ROOT)
        first = directory.read(0, 10)
        seen = {name for name, _, _ in first}
        gone = {b"file %d" % number for number in range(20) if number % 2}
        for name in gone:
            client.store.unlink(ROOT, name)
        client.create(ROOT, b"late")
        rest = {name for name, _, _ in directory.read(first[-1][2], 100)}
        assert rest - {b"late"} == {b"file %d" % number for number in range(20)} - seen - gone
        again = {name for name, _, _ in directory.read(0, 100)}
        assert again == {b"file %d" % number for number in range(20)} - gone | {b"late"}

    def test_removing_all_that_is_listed(self, client: Client) -> None:
        """rm -r: every name is seen although each batch is removed before the next is read."""
        for number in range(100):
            client.create(ROOT, b"file %d" % number)
        directory = client.store.opendir(ROOT)
        position = 0
        while entries := directory.read(position, 8):
            for name, _, position in entries:  # noqa: B007
                client.store.unlink(ROOT, name)
        assert client.names() == []


def test_statfs(client: Client) -> None:
    space = client.store.statfs()
    assert space["block_size"] == 4096
    assert space["name_max"] == 255
    assert 0 < space["blocks_free"] <= space["blocks"] <= 32 * 256
    client.create(ROOT, b"file", bytes(100 * 4096 - 1))
    after = client.store.statfs()
    assert space["blocks_free"] - after["blocks_free"] == 100
    assert after["blocks"] == space["blocks"]
    assert after["files"] - after["files_free"] == space["files"] - space["files_free"] + 1


def test_statistics_are_plain_and_nested(client: Client) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            for inner in value.values():
                check(inner)
        else:
            assert isinstance(value, int | float | str)

    statistics = client.store.statistics()
    assert statistics
    check(statistics)


def test_closing_twice(client: Client) -> None:
    client.create(ROOT, b"file", b"data")
    client.close()
    client.close()
