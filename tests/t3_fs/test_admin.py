"""``.kvfs/admin``: one write is one command, its answer is read from the same open file."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.expect import opened, raises, write_file
from support.mount import TestMount, run_command
from support.process import NOBODY, in_child

pytestmark = pytest.mark.kvfs_only


@pytest.fixture
def admin(kvfs_mount: TestMount) -> Path:
    kvfs_mount.ensure_alive()
    return kvfs_mount / ".kvfs" / "admin"


def answer(fd: int) -> dict[str, Any]:
    found = json.loads(os.pread(fd, 1 << 20, 0))
    assert isinstance(found, dict)
    return found


def lsn_durable(mount: TestMount) -> int:
    found = json.loads((mount / ".kvfs" / "stats").read_bytes())["components"]["store"]["log"]["lsn_durable"]
    assert isinstance(found, int)
    return found


def test_a_command_is_answered(admin: Path) -> None:
    with opened(admin, os.O_RDWR) as fd:
        for _ in range(2):
            text = b'{"command": "sync"}\n'
            assert os.write(fd, text) == len(text)
            assert answer(fd) == {"answer": None}


def test_answers_are_a_handles_own(admin: Path) -> None:
    with opened(admin, os.O_RDWR) as first, opened(admin, os.O_RDWR) as second:
        os.write(first, b'{"command": "sync"}')
        assert os.pread(second, 100, 0) == b""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\n", "expected a JSON object with a command, found"),
        (b"[1, 2]", "expected a JSON object with a command, found"),
        (b'{"command": 3}', "expected a JSON object with a command, found"),
        (b'{"command": "sync"', "expected a JSON object with a command, found"),
        (b'{"command": "\xff"}', "expected a JSON object with a command, found"),
        (b'{"command": "make coffee"}', "found 'make coffee'"),
        (b'{"command": "sync", "more": 1}', "unknown field `more`"),
        (b"x" * 100_000, "expected at most 65536 bytes, found 100000"),
    ],
)
def test_what_is_no_command_is_refused_with_a_reason(admin: Path, text: bytes, expected: str) -> None:
    with opened(admin, os.O_RDWR) as fd:
        with raises(errno.EINVAL):
            os.write(fd, text)
        said = answer(fd)
        assert said["errno"] == errno.EINVAL
        assert expected in said["error"]
        assert "\n" not in said["error"]
        os.write(fd, b'{"command": "sync"}')
        assert answer(fd) == {"answer": None}


def test_more_than_one_request_is_no_command(admin: Path) -> None:
    with opened(admin, os.O_RDWR) as fd, raises(errno.EINVAL):
        os.write(fd, b"x" * (3 << 20))


def test_a_shell_may_write_to_it(admin: Path) -> None:
    admin.write_bytes(b'{"command": "sync"}')  # O_TRUNC
    with raises(errno.EPERM):
        os.truncate(admin.with_name("stats"), 0)


def test_is_for_its_owner(admin: Path) -> None:
    assert stat.S_IMODE(os.stat(admin).st_mode) == 0o600
    assert os.stat(admin).st_uid == os.getuid()


@pytest.mark.root
def test_is_not_for_other_users(admin: Path) -> None:
    def try_it() -> None:
        with raises(errno.EACCES):
            os.open(admin, os.O_RDWR)

    in_child(try_it, uid=NOBODY)


def test_kvfsctl_sync(kvfs_mount: TestMount, tree: Path) -> None:
    write_file(tree / "file", b"page")
    before = lsn_durable(kvfs_mount)
    assert run_command("kvfsctl", "sync", kvfs_mount.path) == ""
    assert lsn_durable(kvfs_mount) > before
