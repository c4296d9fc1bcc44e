"""Quotas: what counts, what is refused and when, and that the counts are right after anything."""

import errno
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import BLOCK, DIRECTORY, FILE, INO, ROOT, Client, check_clean, fails, make_volume, opened_volume

from kvfs import _native

MIB = 1 << 20
PAGE = 64 * 1024
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
EXCHANGE = _native.RENAME_EXCHANGE


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_volume(tmp_path / "store.kvfs")


@pytest.fixture
def client(volume: Path) -> Iterator[Client]:
    with opened_volume(volume) as opened:
        yield opened
        check_counts(opened)
    check_clean(volume)


@pytest.fixture
def tenant(client: Client) -> int:
    """A directory that may hold 1 MiB and 20 files."""
    return make_tenant(client, b"tenant", b"1M", b"20")


def make_tenant(client: Client, name: bytes, most: bytes, files: bytes, parent: int = ROOT) -> int:
    directory = int(client.store.mkdir(parent, name, DIRECTORY, 0, 0)[INO])
    client.store.setxattr(directory, b"user.kvfs.quota.bytes", most)
    client.store.setxattr(directory, b"user.kvfs.quota.files", files)
    return directory


def usage(client: Client, directory: int) -> tuple[int, int]:
    """Bytes and files."""
    return (
        int(client.store.getxattr(directory, b"user.kvfs.usage.bytes")),
        int(client.store.getxattr(directory, b"user.kvfs.usage.files")),
    )


def check_counts(client: Client) -> None:
    """What was counted step by step is what is there."""
    for quota in _native.quotas(client.store, recount=True):
        assert (quota["bytes"], quota["files"]) == (quota["counted_bytes"], quota["counted_files"]), quota


def fill(client: Client, directory: int, prefix: bytes = b"page") -> int:
    """Pages until EDQUOT; how many there are."""
    for number in range(1000):
        try:
            client.create(directory, b"%s-%d" % (prefix, number), os.urandom(PAGE))
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            name = b"%s-%d" % (prefix, number)
            if client.find(directory, name) is not None:
                client.store.unlink(directory, name)
            return number
    raise AssertionError("1000 pages and no EDQUOT")


def test_bytes(client: Client, tenant: int) -> None:
    assert fill(client, tenant) == 16
    assert usage(client, tenant) == (MIB, 16)
    ino = client.create(tenant, b"empty")  # a name is no byte
    with client.opened(ino, write=True):
        with fails(errno.EDQUOT):
            client.write(ino, 0, b"x")
        client.flush(ino)
    assert client.store.getattr(ino)[7] == 0
    client.create(ROOT, b"elsewhere", os.urandom(MIB))  # nobody else's concern
    client.store.unlink(tenant, b"page-3")
    assert usage(client, tenant) == (MIB - PAGE, 16)
    with client.opened(ino, write=True):
        client.write(ino, 0, os.urandom(PAGE))
        client.flush(ino)
    assert usage(client, tenant) == (MIB, 16)
    assert client.store.statistics()["settings"]["quota_refusals_total"] >= 2


def test_a_write_that_does_not_fit_leaves_nothing(client: Client, tenant: int) -> None:
    client.create(tenant, b"most", os.urandom(MIB - PAGE))
    ino = client.create(tenant, b"page", b"old")
    with client.opened(ino, write=True):
        with fails(errno.EDQUOT):
            client.write(ino, 0, os.urandom(2 * PAGE))
        client.flush(ino)
    assert client.content(tenant, b"page") == b"old"
    assert usage(client, tenant) == (MIB - PAGE + BLOCK, 2)


def test_files_of_every_kind(client: Client, tenant: int) -> None:
    makers = [
        lambda name: client.store.mknod(tenant, name, FILE, 0, 0),
        lambda name: client.store.create(tenant, name, FILE, 0, 0),
        lambda name: client.store.mknod(tenant, name, stat.S_IFIFO | 0o600, 0, 0),
        lambda name: client.store.mkdir(tenant, name, DIRECTORY, 0, 0),
        lambda name: client.store.symlink(tenant, name, b"target", 0, 0),
    ]
    for number in range(20):
        client.store.forget(makers[number % len(makers)](b"%d" % number)[INO], 1)
        assert usage(client, tenant)[1] == number + 1
    for make in makers:
        with fails(errno.EDQUOT):
            make(b"one more")
    below = client.find(tenant, b"3")
    assert below is not None
    with fails(errno.EDQUOT):
        client.store.mkdir(below, b"deeper", DIRECTORY, 0, 0)
    client.store.unlink(tenant, b"0")
    client.store.rmdir(tenant, b"8")
    client.store.mkdir(below, b"deeper", DIRECTORY, 0, 0)
    assert usage(client, tenant)[1] == 19


def test_writers_at_once_do_not_pass_the_limit_together(client: Client, tenant: int) -> None:
    """All writes are under way before the first is waited for."""
    inodes = [client.create(tenant, b"%d" % number) for number in range(10)]
    tokens, refused = [], 0
    for ino in inodes:
        client.store.open(ino, True)
        try:
            tokens.append(client.start("write", ino, 0, os.urandom(3 * PAGE)))
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            refused += 1
    assert [client.finish(token) for token in tokens] == [3 * PAGE] * 5
    assert refused == 5
    for ino in inodes:
        client.store.release(ino, True)
    client.sync()
    assert usage(client, tenant) == (15 * PAGE, 10)


def test_what_is_there_may_be_written_over(client: Client, tenant: int) -> None:
    ino = client.create(tenant, b"pool", os.urandom(MIB))
    client.store.setxattr(tenant, b"user.kvfs.quota.bytes", b"64K")
    with client.opened(ino, write=True):
        for offset in (0, 5 * BLOCK, MIB - BLOCK):
            client.write(ino, offset, os.urandom(BLOCK))
        with fails(errno.EDQUOT):
            client.write(ino, MIB, b"x")
        client.flush(ino)
        assert usage(client, tenant) == (MIB, 1)
        client.truncate(ino, PAGE // 2)
        client.write(ino, PAGE // 2, os.urandom(PAGE // 2))
        client.flush(ino)
    assert usage(client, tenant) == (PAGE, 1)


def test_holes_are_free(client: Client, tenant: int) -> None:
    ino = client.create(tenant, b"pool")
    with client.opened(ino, write=True):
        client.truncate(ino, 1 << 40)
        client.write(ino, 1 << 39, b"x")
        assert usage(client, tenant) == (BLOCK, 1)
        client.write(ino, 0, os.urandom(4 * BLOCK))
        assert usage(client, tenant) == (5 * BLOCK, 1)
        assert client.call("fallocate", ino, PUNCH_HOLE | KEEP_SIZE, BLOCK, 2 * BLOCK) == 0
        assert usage(client, tenant) == (3 * BLOCK, 1)
    assert usage(client, tenant) == (3 * BLOCK, 1)


def test_fallocate_counts_while_it_holds(client: Client, tenant: int) -> None:
    ino = client.create(tenant, b"page")
    with client.opened(ino, write=True):
        with fails(errno.EDQUOT):
            client.call("fallocate", ino, 0, 0, MIB + BLOCK)
        assert usage(client, tenant) == (0, 1)
        assert client.call("fallocate", ino, KEEP_SIZE, 0, MIB) == 0
        assert usage(client, tenant) == (MIB, 1)
        client.write(ino, 0, os.urandom(3 * BLOCK))  # what was set aside is used, not counted twice
        assert usage(client, tenant) == (MIB, 1)
        assert client.call("fallocate", ino, ZERO_RANGE, 0, MIB) == 0
        assert usage(client, tenant) == (MIB, 1)
        client.write(ino, 0, os.urandom(3 * BLOCK))
        client.flush(ino)
    assert usage(client, tenant) == (3 * BLOCK, 1)


def test_a_file_takes_its_count_along(client: Client, tenant: int) -> None:
    """Clients write beside the final directory, and rename."""
    other = make_tenant(client, b"other", b"0", b"0")
    client.create(ROOT, b"tmp", os.urandom(PAGE))
    client.rename(ROOT, b"tmp", tenant, b"page")
    assert usage(client, tenant) == (PAGE, 1)
    client.rename(tenant, b"page", tenant, b"again")
    assert usage(client, tenant) == (PAGE, 1)
    client.rename(tenant, b"again", other, b"page")
    assert (usage(client, tenant), usage(client, other)) == ((0, 0), (PAGE, 1))
    client.create(tenant, b"replaced", os.urandom(2 * PAGE))
    client.rename(other, b"page", tenant, b"replaced")
    assert (usage(client, tenant), usage(client, other)) == ((PAGE, 1), (0, 0))
    client.rename(tenant, b"replaced", ROOT, b"out")
    assert usage(client, tenant) == (0, 0)


def test_a_rename_that_does_not_fit_changes_nothing(client: Client, tenant: int) -> None:
    fill(client, tenant)
    content = os.urandom(PAGE)
    client.create(ROOT, b"tmp", content)
    with fails(errno.EDQUOT):
        client.rename(ROOT, b"tmp", tenant, b"page")
    assert client.content(ROOT, b"tmp") == content
    assert client.find(tenant, b"page") is None
    assert usage(client, tenant) == (MIB, 16)
    client.store.unlink(tenant, b"page-0")
    client.rename(ROOT, b"tmp", tenant, b"page")
    assert client.content(tenant, b"page") == content


def test_a_tree_does_not_move_between_quotas(client: Client, tenant: int) -> None:
    """As on ext4 and xfs: mv copies."""
    full, empty = (client.store.mkdir(ROOT, name, DIRECTORY, 0, 0)[INO] for name in (b"full", b"empty"))
    client.create(full, b"page", os.urandom(PAGE))
    with fails(errno.EXDEV):
        client.rename(ROOT, b"full", tenant, b"full")
    client.rename(ROOT, b"empty", tenant, b"empty")
    assert usage(client, tenant) == (0, 1)
    client.create(empty, b"page", os.urandom(PAGE))
    with fails(errno.EXDEV):
        client.rename(tenant, b"empty", ROOT, b"empty")
    assert usage(client, tenant) == (PAGE, 2)
    client.store.mkdir(tenant, b"sub", DIRECTORY, 0, 0)
    sub = client.find(tenant, b"sub")
    assert sub is not None
    client.rename(tenant, b"empty", sub, b"moved")  # below one quota all is as ever
    assert usage(client, tenant) == (PAGE, 3)
    client.create(ROOT, b"outside", b"x")
    client.create(tenant, b"inside", b"x")
    with fails(errno.EXDEV):
        client.rename(ROOT, b"outside", tenant, b"inside", EXCHANGE)


def test_links_stay_below_their_quota(client: Client, tenant: int) -> None:
    ino = client.create(tenant, b"page", os.urandom(PAGE))
    with fails(errno.EXDEV):
        client.store.link(ino, ROOT, b"page")
    client.store.link(ino, tenant, b"second")
    client.store.forget(ino, 1)
    assert usage(client, tenant) == (PAGE, 1)  # one file, whatever it is called
    with fails(errno.EXDEV):
        client.rename(tenant, b"page", ROOT, b"page")
    client.store.unlink(tenant, b"page")
    assert usage(client, tenant) == (PAGE, 1)
    client.store.unlink(tenant, b"second")
    assert usage(client, tenant) == (0, 0)


def test_a_quota_set_between_two_names_of_a_file(client: Client) -> None:
    first, second = (client.store.mkdir(ROOT, name, DIRECTORY, 0, 0)[INO] for name in (b"a", b"b"))
    ino = client.create(first, b"page", os.urandom(PAGE))
    client.store.link(ino, second, b"page")
    client.store.forget(ino, 1)
    for directory in (first, second):
        client.store.setxattr(directory, b"user.kvfs.quota.bytes", b"1M")
    assert usage(client, first) == (PAGE, 1)
    assert usage(client, second) == (0, 0)
    client.store.unlink(first, b"page")
    assert usage(client, first) == (0, 0)
    assert usage(client, second) == (PAGE, 1)


def test_unlinking_what_is_open_gives_nothing_back_yet(client: Client, tenant: int) -> None:
    """Or a tenant could write what it likes to unlinked files, as some clients do anyway."""
    ino = client.store.create(tenant, b"pool", FILE, 0, 0)[INO]
    client.store.open(ino, True)
    client.write(ino, 0, os.urandom(PAGE))
    client.store.unlink(tenant, b"pool")
    assert usage(client, tenant) == (PAGE, 1)
    client.write(ino, PAGE, os.urandom(PAGE))
    assert usage(client, tenant) == (2 * PAGE, 1)
    with fails(errno.EDQUOT):
        client.write(ino, 2 * PAGE, os.urandom(15 * PAGE))
    check_counts(client)
    client.store.release(ino, True)
    client.sync()
    assert usage(client, tenant) == (0, 0)
    client.store.forget(ino, 1)
    assert usage(client, tenant) == (0, 0)


def test_every_quota_above_counts(client: Client) -> None:
    outer = make_tenant(client, b"outer", b"1M", b"0")
    inner = make_tenant(client, b"inner", b"4M", b"0", parent=outer)
    client.store.setxattr(ROOT, b"user.kvfs.quota.bytes", b"0")
    assert fill(client, inner) == 16  # the outer one is in the way first
    assert (usage(client, inner), usage(client, outer)) == ((MIB, 16), (MIB, 17))
    assert usage(client, ROOT) == (MIB, 18)
    client.store.setxattr(inner, b"user.kvfs.quota.bytes", b"512K")
    client.store.setxattr(outer, b"user.kvfs.quota.bytes", b"4M")
    with fails(errno.EDQUOT):
        client.create(inner, b"one more", os.urandom(PAGE))
    client.rename(inner, b"page-0", outer, b"page-0")  # out of one of two
    assert (usage(client, inner), usage(client, outer)) == ((15 * PAGE, 16), (MIB, 18))


def test_a_quota_counts_what_is_there_already(client: Client) -> None:
    directory = client.store.mkdir(ROOT, b"d", DIRECTORY, 0, 0)[INO]
    deeper = client.store.mkdir(directory, b"deeper", DIRECTORY, 0, 0)[INO]
    for number in range(5):
        client.create(deeper, b"%d" % number, os.urandom(PAGE))
    ino = client.store.create(directory, b"being written", FILE, 0, 0)[INO]
    client.store.open(ino, True)
    client.write(ino, 0, b"x")
    client.store.setxattr(directory, b"user.kvfs.quota.files", b"0")
    assert usage(client, directory) == (5 * PAGE + BLOCK, 7)
    client.write(ino, BLOCK, b"x")
    client.store.release(ino, True)
    client.sync()
    assert usage(client, directory) == (5 * PAGE + 2 * BLOCK, 7)
    for name in (b"user.kvfs.quota.files",):
        client.store.removexattr(directory, name)
    with fails(errno.ENODATA):
        client.store.getxattr(directory, b"user.kvfs.usage.bytes")
    client.create(deeper, b"uncounted", os.urandom(PAGE))
    client.store.setxattr(directory, b"user.kvfs.quota.bytes", b"1G")
    assert usage(client, directory) == (6 * PAGE + 2 * BLOCK, 8)
    client.store.forget(ino, 1)


HARMLESS = {
    *(errno.EDQUOT, errno.EXDEV, errno.EEXIST, errno.ENOENT, errno.ENODATA),
    *(errno.EISDIR, errno.EINVAL, errno.ENOSPC, errno.ENOTDIR),
}


class Chaos:
    """Random operations below directories of which some have quotas."""

    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.random = random.Random(seed)
        self.directories = [ROOT]
        for name, parent in ((b"a", 0), (b"b", 0), (b"c", 1), (b"d", 3)):
            made = client.store.mkdir(self.directories[parent], name, DIRECTORY, 0, 0)
            client.store.forget(made[INO], 1)
            self.directories.append(made[INO])
        self.open: list[int] = []

    def step(self) -> None:
        client, rng = self.client, self.random
        directory, other = rng.choice(self.directories), rng.choice(self.directories)
        name, new_name = (b"%d" % rng.randrange(6) for _ in range(2))
        ino = client.find(directory, name)
        try:
            match rng.randrange(12):
                case 0 | 1:
                    attr = client.store.create(directory, name, FILE, 0, 0)
                    client.store.open(attr[INO], True)
                    self.open.append(attr[INO])
                case 2 | 3 if self.open:
                    size = rng.choice([1, BLOCK, 5 * BLOCK + 3, PAGE, 300 * 1024])
                    client.write(rng.choice(self.open), rng.randrange(8) * 50_000, os.urandom(size))
                case 4 if self.open:
                    client.truncate(rng.choice(self.open), rng.randrange(200_000))
                case 5 if self.open:
                    mode = rng.choice([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
                    client.call("fallocate", rng.choice(self.open), mode, rng.randrange(100_000), 100_000)
                case 6 if self.open:
                    self.close(self.open.pop(rng.randrange(len(self.open))))
                case 7:
                    client.store.unlink(directory, name)
                case 8:
                    client.rename(directory, name, other, new_name, rng.choice([0, 0, EXCHANGE]))
                case 9 if ino is not None:
                    client.store.link(ino, other, new_name)
                    client.store.forget(ino, 1)
                case 10:
                    setting = rng.choice([b"user.kvfs.quota.bytes", b"user.kvfs.quota.files"])
                    client.store.setxattr(directory, setting, rng.choice([b"0", b"20", b"500K", b"100"]))
                case 11 if rng.random() < 0.3:
                    client.store.removexattr(directory, b"user.kvfs.quota.bytes")
        except OSError as error:
            if error.errno not in HARMLESS:
                raise

    def close(self, ino: int) -> None:
        self.client.store.release(ino, True)
        self.client.store.forget(ino, 1)

    def close_all(self) -> None:
        while self.open:
            self.close(self.open.pop())


@pytest.mark.parametrize("seed", range(6))
def test_the_counts_are_right_after_anything(tmp_path: Path, seed: int) -> None:
    volume = make_volume(tmp_path / "store.kvfs")
    client = Client(volume)
    chaos = Chaos(client, seed)
    for number in range(400):
        chaos.step()
        if number % 10 == 0:
            check_counts(client)
    chaos.close_all()
    client.sync()
    check_counts(client)
    before = _native.quotas(client.store)
    assert before, "the seed sets no quota"
    assert all("refused" in line for line in client.warnings())  # 500K files
    crashed = tmp_path / "crashed.kvfs"
    crashed.write_bytes(volume.read_bytes())
    client.close()
    with opened_volume(volume) as after:
        check_counts(after)
        counts = {quota["path"]: (quota["bytes"], quota["files"]) for quota in _native.quotas(after.store)}
        assert counts.keys() == {quota["path"] for quota in before}
    with opened_volume(crashed) as after:
        check_counts(after)
    check_clean(volume)


def test_a_file_that_a_crash_takes_back_is_not_counted(volume: Path) -> None:
    client = Client(volume)
    tenant = make_tenant(client, b"tenant", b"1M", b"0")
    client.create(tenant, b"durable", os.urandom(PAGE), durable=True)
    client.fsync(tenant)
    ino = client.store.create(tenant, b"half", FILE, 0, 0)[INO]
    client.store.open(ino, True)
    client.write(ino, 0, os.urandom(PAGE))
    assert usage(client, tenant) == (2 * PAGE, 2)
    crashed = volume.with_name("crashed.kvfs")
    crashed.write_bytes(volume.read_bytes())
    client.close()
    with opened_volume(crashed) as after:
        assert usage(after, tenant) == (PAGE, 1)
        assert fill(after, tenant) == 15
