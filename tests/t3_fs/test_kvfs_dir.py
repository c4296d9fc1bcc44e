"""``.kvfs/`` in the root of a mount: there when named, in nobody's way, out of every walk."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.expect import opened, raises, read_file, write_file
from support.libc import RENAME_EXCHANGE, DirectoryStream, renameat2
from support.mount import TestMount
from support.process import NOBODY, all_at_once, in_child

pytestmark = pytest.mark.kvfs_only


@pytest.fixture
def control(kvfs_mount: TestMount) -> Path:
    kvfs_mount.ensure_alive()
    return kvfs_mount / ".kvfs"


def read_to_end(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def test_stats_is_json(control: Path) -> None:
    stats = json.loads(read_to_end(control / "stats"))
    assert isinstance(stats, dict)
    assert stats


def test_metrics_is_prometheus_text(control: Path) -> None:
    families = list(text_string_to_metric_families(read_to_end(control / "metrics").decode()))
    assert families
    for family in families:
        assert family.name.startswith(("kvfs_", "process_", "python_")), family.name
        assert family.documentation, f"{family.name} has no HELP"
        assert family.type != "unknown", f"{family.name} has no TYPE"


def numbers(value: Any, prefix: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {
            path: number for key, item in value.items() for path, number in numbers(item, f"{prefix}/{key}").items()
        }
    return {prefix: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def test_stats_move_with_the_work(control: Path, tree: Path) -> None:
    """Each read of the file is fresh: something that counts bytes or calls has to have grown."""
    before = numbers(json.loads(read_to_end(control / "stats")))
    write_file(tree / "file", os.urandom(1 << 20))
    with opened(tree / "file") as fd:
        os.fsync(fd)
    after = numbers(json.loads(read_to_end(control / "stats")))
    assert before.keys() <= after.keys()
    assert any(after[name] >= before[name] + (1 << 20) for name in before), "no figure grew by the MiB written"


def test_reading_in_pieces_gives_one_moment(control: Path) -> None:
    with opened(control / "stats", os.O_RDONLY) as fd:
        pieces = []
        while piece := os.read(fd, 7):
            pieces.append(piece)
        assert json.loads(b"".join(pieces))
        assert os.pread(fd, 7, 0) == pieces[0]


def test_tools_that_look_at_the_size_get_all_of_it(control: Path, tmp_path: Path) -> None:
    for name in ("stats", "metrics"):
        shutil.copyfile(control / name, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 20
    json.loads((tmp_path / "stats").read_bytes())


def test_attributes(control: Path) -> None:
    assert stat.S_ISDIR(os.stat(control).st_mode)
    for name in ("stats", "metrics"):
        status = os.stat(control / name)
        assert stat.S_ISREG(status.st_mode)
        assert not status.st_mode & 0o222
    assert {"stats", "metrics"} <= set(os.listdir(control))
    with DirectoryStream(control) as stream:
        assert {b".", b"..", b"stats", b"metrics"} <= {name for name, _ in stream}
    inodes = {os.stat(path).st_ino for path in (control, control / "stats", control / "metrics", control.parent)}
    assert len(inodes) == 4


def test_invisible_in_every_walk(control: Path, kvfs_mount: TestMount, tree: Path) -> None:
    os.stat(control / "stats")
    assert ".kvfs" not in os.listdir(kvfs_mount)
    assert all(".kvfs" not in directory for directory, _, _ in os.walk(kvfs_mount))
    with DirectoryStream(kvfs_mount.path) as stream:
        names = [name for name, _ in stream]
    assert b".kvfs" not in names
    assert os.fsencode(tree.name) in names


def test_only_in_the_root(tree: Path) -> None:
    with raises(errno.ENOENT):
        os.stat(tree / ".kvfs")
    os.mkdir(tree / ".kvfs")
    write_file(tree / ".kvfs" / "stats", b"a user's own")
    assert os.listdir(tree) == [".kvfs"]
    assert read_file(tree / ".kvfs" / "stats") == b"a user's own"


def test_its_name_is_taken(control: Path, tree: Path) -> None:
    write_file(tree / "file")
    for make in (
        lambda: os.mkdir(control),
        lambda: os.symlink("x", control),
        lambda: os.mkfifo(control),
        lambda: os.link(tree / "file", control),
        lambda: os.open(control, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    ):
        with raises(errno.EEXIST):
            make()
    with raises(errno.EISDIR):
        os.open(control, os.O_CREAT | os.O_WRONLY)


REFUSED = (errno.EPERM, errno.EACCES, errno.EROFS, errno.EBUSY)


def test_nothing_is_made_changed_or_removed_in_it(control: Path, tree: Path) -> None:
    write_file(tree / "file")
    stats = control / "stats"
    calls: list[Callable[[], object]] = [
        lambda: os.open(control / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(control / "new"),
        lambda: os.symlink("x", control / "new"),
        lambda: os.mkfifo(control / "new"),
        lambda: os.link(tree / "file", control / "new"),
        lambda: os.rename(tree / "file", control / "new"),
        lambda: os.rename(tree / "file", stats),
        lambda: os.rename(stats, tree / "stolen"),
        lambda: os.rename(stats, control / "new"),
        lambda: renameat2(stats, tree / "file", RENAME_EXCHANGE),
        lambda: os.unlink(stats),
        lambda: os.open(stats, os.O_WRONLY),
        lambda: os.open(stats, os.O_RDWR),
        lambda: os.truncate(stats, 0),
        lambda: os.chmod(stats, 0o777),
        lambda: os.utime(stats, (1, 1)),
    ]
    for number, call in enumerate(calls):
        with raises(*REFUSED):
            call()
        assert os.listdir(tree) == ["file"], f"call {number}"
    with raises(*REFUSED, errno.EXDEV):
        os.link(stats, tree / "alias")
    with raises(*REFUSED, errno.EOPNOTSUPP):
        os.setxattr(stats, "user.a", b"v")
    assert sorted(os.listdir(control)) == sorted({*os.listdir(control), "stats", "metrics"})
    json.loads(read_to_end(stats))


def test_it_is_not_moved_removed_or_replaced(control: Path, tree: Path) -> None:
    os.mkdir(tree / "directory")
    write_file(tree / "file")
    calls: list[Callable[[], None]] = [
        lambda: os.rmdir(control),
        lambda: os.rename(control, tree / "stolen"),
        lambda: os.rename(tree / "directory", control),
        lambda: renameat2(control, tree / "directory", RENAME_EXCHANGE),
        lambda: renameat2(tree / "directory", control, RENAME_EXCHANGE),
        lambda: os.chmod(control, 0o777),
    ]
    for call in calls:
        with raises(*REFUSED, errno.ENOTEMPTY, errno.EEXIST):
            call()
    with raises(*REFUSED, errno.EISDIR, errno.EEXIST):
        os.rename(tree / "file", control)
    with raises(errno.EISDIR, *REFUSED):
        os.unlink(control)
    assert sorted(os.listdir(tree)) == ["directory", "file"]
    assert stat.S_ISDIR(os.stat(control).st_mode)


@pytest.mark.root
def test_other_users_may_read_it(control: Path) -> None:
    in_child(lambda: json.loads(read_to_end(control / "stats")), uid=NOBODY)


def test_many_readers_at_once(control: Path) -> None:
    def read() -> None:
        for _ in range(20):
            json.loads(read_to_end(control / "stats"))
            assert read_to_end(control / "metrics")

    all_at_once([read] * 4)
