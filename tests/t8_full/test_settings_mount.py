"""Settings as a user meets them: setfattr and kvfsctl on a mount, other users, du, remounts. On both data paths."""

import errno
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from place import BINARIES, Done
from support.direct import aligned
from support.expect import opened, raises, read_file, write_file
from support.libc import FALLOC_FL_KEEP_SIZE, fallocate
from support.mount import KvfsMount, TestMount, close_test_mount, data_path, make_test_mount, run_command
from support.process import NOBODY, in_child

from kvfs.cli.pin import pin_paths
from kvfs.cli.quota import list_quotas, set_quota, show_quota
from kvfs.errors import KvfsError

MIB = 1 << 20
PAGE = 256 << 10
FAR = "2100-01-01T00:00:00Z"

pytestmark = pytest.mark.kvfs_only


@pytest.fixture(scope="module")
def kvfs_mount() -> Iterator[TestMount]:
    mount = make_test_mount("512M", ("--on-full", "enospc"))
    try:
        yield mount
        assert isinstance(mount, KvfsMount)
        mount.ensure_alive()
        mount.umount()
        mount.fsck()
    finally:
        close_test_mount(mount)


def kvfsctl(*arguments: str | Path) -> Any:
    return json.loads(run_command("kvfsctl", *arguments, "--json"))


def refused(*arguments: str | Path) -> Done:
    command = [BINARIES / "kvfsctl", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def blocks_below(directory: Path) -> int:
    """Bytes in blocks, as du --one-file-system has them, without the directory itself."""
    return sum(
        os.lstat(os.path.join(where, name)).st_blocks * 512
        for where, names, files in os.walk(directory)
        for name in names + files
    )


def direct_write(path: Path, size: int) -> int:
    """One O_DIRECT write, as vLLM does it: to a temporary file, then renamed. What write() returned."""
    temporary = path.with_name(f"{path.name}_1.tmp")
    with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT) as fd:
        done = os.pwrite(fd, aligned(os.urandom(size)), 0)
    os.rename(temporary, path)
    return done


@pytest.mark.parametrize("write", [direct_write, lambda path, size: write_file(path, os.urandom(size))])
def test_a_tenant_fills_its_quota(tree: Path, kvfs_mount: TestMount, write: Any) -> None:
    (tree / "tenant" / "sub").mkdir(parents=True)
    found = kvfsctl("quota", "set", tree / "tenant", "--bytes", "8M", "--files", "100")
    assert found == {
        "path": str(tree / "tenant"), "bytes": 0, "files": 1, "most_bytes": 8 * MIB, "most_files": 100,
    }  # fmt: skip
    for number in range(8):
        write(tree / "tenant" / "sub" / f"page{number}", MIB)
    with raises(errno.EDQUOT):
        write(tree / "tenant" / "page8", MIB)
    for name in ("page8", "page8_1.tmp"):
        if os.path.lexists(tree / "tenant" / name):
            assert os.stat(tree / "tenant" / name).st_size == 0, "half a page"
            os.unlink(tree / "tenant" / name)
    write(tree / "elsewhere", MIB)
    for mounted_anew in (False, True):
        if mounted_anew:
            kvfs_mount.remount()
        assert sorted(os.listdir(tree / "tenant" / "sub")) == [f"page{number}" for number in range(8)]
        found = kvfsctl("quota", "show", tree / "tenant")
        assert (found["bytes"], found["files"]) == (8 * MIB, 9)
        assert found["bytes"] == blocks_below(tree / "tenant")
        [listed] = [quota for quota in kvfsctl("quota", "list", kvfs_mount.path) if quota["path"] == found["path"]]
        assert listed == found
    with raises(errno.EDQUOT):
        write(tree / "tenant" / "page8", MIB)
    os.unlink(tree / "tenant" / "sub" / "page0")
    write(tree / "tenant" / "page9", MIB - PAGE)
    assert kvfsctl("quota", "clear", tree / "tenant")["cleared"] is True
    assert kvfsctl("quota", "clear", tree / "tenant")["cleared"] is False
    write(tree / "tenant" / "page10", 2 * MIB)


def test_many_writers_at_a_limit(tree: Path) -> None:
    """Not a page more than fits, and not one less, however many try at once."""
    os.setxattr(tree, "user.kvfs.quota.bytes", b"12M")

    def write(number: int) -> bool:
        try:
            return direct_write(tree / f"page{number}", MIB) == MIB
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            os.unlink(tree / f"page{number}_1.tmp")
            return False

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, range(40)))
    # one that is refused beside others that are still being counted may have been the one that fitted
    for number in range(40, 60):
        if not write(number):
            break
        written.append(True)
    assert written.count(True) == 12
    assert os.getxattr(tree, "user.kvfs.usage.bytes") == b"%d" % (12 * MIB) == b"%d" % blocks_below(tree)
    assert len(os.listdir(tree)) == 12


def test_parts_of_a_quota_are_set_one_by_one(tree: Path) -> None:
    assert kvfsctl("quota", "set", tree, "--bytes", "1G")["most_files"] is None
    found = kvfsctl("quota", "set", tree, "--files", "2")
    assert (found["most_bytes"], found["most_files"]) == (1 << 30, 2)
    assert kvfsctl("quota", "set", tree, "--bytes", "0")["most_bytes"] is None
    write_file(tree / "1")
    os.mkdir(tree / "2")
    with raises(errno.EDQUOT):
        os.mkdir(tree / "3")
    with raises(errno.EDQUOT):
        write_file(tree / "3")
    with raises(errno.EDQUOT):
        os.symlink("1", tree / "3")
    assert "2 " in run_command("kvfsctl", "quota", "show", tree)


@pytest.mark.expects_log("setting of .* refused")
def test_what_is_wrong_is_said(tree: Path, tmp_path: Path) -> None:
    write_file(tree / "page", b"x")
    refused("quota", "set", tree / "page", "--files", "1").says("expected a directory, found a file")
    refused("pin", tree, "--for", "1h", "--until", FAR).says("expected --for or --until, found both")
    for part, ask in (
        ("expected --bytes, --files or both", lambda: set_quota(tree, size=None, files=None)),
        ("expected a size, found 'many'", lambda: set_quota(tree, size="many", files=None)),
        ("found nothing", lambda: set_quota(tree / "absent", size="1G", files=None)),
        ("expected a path in a kvfs mount", lambda: set_quota(tmp_path, size="1G", files=None)),
        ("nothing is mounted here", lambda: list_quotas(tree)),
        ("expected --for or --until, found neither", lambda: pin_paths([tree], lasting=None, until=None)),
        ("expected a time, found 'long'", lambda: pin_paths([tree], lasting="long", until=None)),
        ("expected a time of RFC 3339, found 'tomorrow'", lambda: pin_paths([tree], lasting=None, until="tomorrow")),
        ("with its zone", lambda: pin_paths([tree], lasting=None, until="2100-01-01T00:00:00")),
        ("expected a time to come", lambda: pin_paths([tree], lasting=None, until="2001-01-01T00:00:00Z")),
        ("expected a path in a kvfs mount", lambda: pin_paths([tree, tmp_path], lasting="1h", until=None)),
        ("no such file", lambda: pin_paths([tree / "absent"], lasting="1h", until=None)),
        ("no quota is set here", lambda: show_quota(tree)),
    ):
        with pytest.raises(KvfsError, match=re.escape(part)):
            ask()
    assert os.listxattr(tree) == []
    for name, value in (("ttl", b"soon"), ("evictable", b"maybe"), ("qota.bytes", b"1")):
        with raises(errno.EINVAL):
            os.setxattr(tree, f"user.kvfs.{name}", value)
    assert os.listxattr(tree) == []


def test_pin_and_unpin(tree: Path, kvfs_mount: TestMount) -> None:
    write_file(tree / "page", b"x")
    paths = [tree, tree / "page"]
    pins = kvfsctl("pin", *paths, "--until", "2100-01-01T01:00:00+01:00")
    assert pins == [{"path": str(path), "until": FAR} for path in paths]
    kvfs_mount.remount()
    assert [os.getxattr(path, "user.kvfs.pin") for path in paths] == [FAR.encode()] * 2
    assert "pinned until 20" in run_command("kvfsctl", "pin", tree / "page", "--for", "2h")
    unpinned = kvfsctl("unpin", *paths)
    assert unpinned == [{"path": str(path), "was_pinned": True} for path in paths]
    assert [each["was_pinned"] for each in kvfsctl("unpin", *paths)] == [False, False]
    assert read_file(tree / "page") == b"x"


@pytest.mark.root
def test_other_users(tree: Path) -> None:
    """A tenant owns its directory: it may pin what is in it, and may not raise its quota."""
    tenant = tree / "tenant"
    tenant.mkdir()
    os.chown(tenant, NOBODY, NOBODY)
    shared = tree / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    os.setxattr(tenant, "user.kvfs.quota.bytes", b"1M")

    def as_tenant() -> None:
        write_file(tenant / "page", b"x" * 5000)
        assert os.getxattr(tenant, "user.kvfs.usage.bytes") == b"8192"
        for name, value in (("quota.bytes", b"1G"), ("quota.files", b"0")):
            with raises(errno.EPERM):
                os.setxattr(tenant, f"user.kvfs.{name}", value)
        with raises(errno.EPERM):
            os.removexattr(tenant, "user.kvfs.quota.bytes")
        for path in (tenant, tenant / "page"):
            os.setxattr(path, "user.kvfs.pin", b"60")
            os.removexattr(path, "user.kvfs.pin")
        with raises(errno.EPERM):  # it may write there, but the directory is not its own
            os.setxattr(shared, "user.kvfs.ttl", b"1")
        os.setxattr(shared, "user.mine", b"1")
        with raises(errno.EDQUOT):
            write_file(tenant / "big", os.urandom(MIB))
        os.unlink(tenant / "big")

    in_child(as_tenant, uid=NOBODY)
    assert sorted(os.listdir(tenant)) == ["page"]


def test_clients_that_ask_for_space_first(tree: Path) -> None:
    """fallocate on the native data path, ftruncate and mmap on both, and files unlinked while open."""
    os.setxattr(tree, "user.kvfs.quota.bytes", b"4M")
    with opened(tree / "pool", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 1 << 40)
        os.unlink(tree / "pool")
        for number in range(4):
            assert os.pwrite(fd, os.urandom(MIB), number << 32) == MIB
        assert os.getxattr(tree, "user.kvfs.usage.bytes") == b"%d" % (4 * MIB)
        with raises(errno.EDQUOT):
            os.pwrite(fd, b"x", 1 << 39)
        os.pwrite(fd, os.urandom(MIB), 0)
    with opened(tree / "page", os.O_RDWR | os.O_CREAT) as fd:
        if data_path() == "native":
            fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 4 * MIB)
            assert os.getxattr(tree, "user.kvfs.usage.bytes") == b"%d" % (4 * MIB)
            with raises(errno.EDQUOT):
                fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 5 * MIB)
        assert os.pwrite(fd, os.urandom(MIB), 0) == MIB
    assert os.getxattr(tree, "user.kvfs.usage.bytes") == b"%d" % MIB


def test_a_tenant_of_an_evicting_mount(tmp_path: Path) -> None:
    """It may write for ever: its own oldest pages go, and the names that the kernel knew with them."""
    mount = make_test_mount("256M")
    try:
        tenant, other = mount / "tenant", mount / "other"
        tenant.mkdir()
        other.mkdir()
        direct_write(other / "page", MIB)
        kept = read_file(other / "page")
        kvfsctl("quota", "set", tenant, "--bytes", "8M")
        direct_write(tenant / "pinned", MIB)
        kvfsctl("pin", tenant / "pinned", "--for", "1h")
        for number in range(32):
            assert direct_write(tenant / f"page{number}", MIB) == MIB
            os.stat(tenant / f"page{number}")
        names = os.listdir(tenant)
        assert len(names) == 8
        assert {"pinned", "page31"} <= set(names)
        assert not os.path.exists(tenant / "page0")
        assert read_file(other / "page") == kept
        assert kvfsctl("quota", "show", tenant)["bytes"] == 8 * MIB == blocks_below(tenant)
    finally:
        close_test_mount(mount)
