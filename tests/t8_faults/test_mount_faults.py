"""A mount whose device fails: what clients, ``kvfsctl status``, ``kvfsctl recover`` and ``kvfs umount`` see."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from errno import EIO, EROFS
from pathlib import Path
from typing import Any

import pytest
from rings import Parameter
from support.mount import CommandError, KvfsMount, close_test_mount, live_mounts, run_command, wait_for

from kvfs.cli.admin import ask
from kvfs.errors import MountError

pytestmark = [
    pytest.mark.kvfs_only,
    pytest.mark.expects_log(
        r"a (read from|write to) the device failed|metadata cannot be written|stays read-only|what was fsynced is on"
        r"|scrub: "
    ),
]

TIMEOUT = 1.0  # s
_EVERYTHING = ["read", "write", "sync", "punch"]
MIB = 1 << 20
CLONES, RINGS = ("--request-loop", "clones"), ("--request-loop", "uring")


@pytest.fixture
def mount(request: pytest.FixtureRequest) -> Iterator[KvfsMount]:
    options = getattr(request, "param", ())
    with Parameter().on() if options == RINGS else nullcontext():
        made = KvfsMount("256M", ("--inject-faults", "--io-timeout", f"{TIMEOUT}s", "--warm-size", "0", *options))
    live_mounts.append(made)
    try:
        yield made
        made.ensure_alive()
        ask(made.path, "fault-clear")
        made.umount()
        made.fsck()
    finally:
        close_test_mount(made)


def fault(mount: KvfsMount, kinds: list[str], effect: str, **how: Any) -> int:
    rule: int = ask(mount.path, "fault-add", kinds=kinds, effect=effect, **how)
    return rule


def health(mount: KvfsMount) -> dict[str, Any]:
    stats = json.loads(run_command("kvfsctl", "status", "--json", mount))
    found: dict[str, Any] = stats["components"]["store"]["health"]
    return found


@contextmanager
def fails(*codes: int) -> Iterator[None]:
    """The block fails in bounded time."""
    begin = time.monotonic()
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        yield
    assert caught.value.errno in (codes or (EIO,))
    assert time.monotonic() - begin < 30, "it came to an end, but not because of the time-out"


def write(path: Path, data: bytes, *, durable: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def read_direct(path: Path, size: int = MIB) -> bytes:
    """Past the page cache."""
    import mmap

    buffer = mmap.mmap(-1, size)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        count = os.preadv(fd, [buffer], 0)
        return buffer[:count]
    finally:
        os.close(fd)


def test_faults_need_the_hidden_option(kvfs_mount: KvfsMount) -> None:
    with pytest.raises(MountError, match="fault-add"):
        ask(kvfs_mount.path, "fault-add", kinds=["read"], effect="error")
    assert "inject" not in run_command("kvfs", "mount", "--help")


def test_read_error(mount: KvfsMount) -> None:
    write(mount / "bad", b"b" * MIB, durable=True)
    write(mount / "good", b"g" * MIB, durable=True)
    fault(mount, ["read"], "error", count=1)
    with fails():
        read_direct(mount / "bad")
    assert read_direct(mount / "good") == b"g" * MIB
    assert read_direct(mount / "bad") == b"b" * MIB


@pytest.mark.parametrize("mount", [CLONES, RINGS], indirect=True, ids=["clones", "rings"])
def test_silent_device(mount: KvfsMount) -> None:
    """Reads, writes and fsyncs fail in time, names and attributes go on, and all is well when it answers again."""
    write(mount / "page", b"p" * MIB, durable=True)
    fault(mount, _EVERYTHING, "hang")
    with fails():
        read_direct(mount / "page")
    with fails():
        write(mount / "late", b"l" * MIB, durable=True)
    assert (mount / "page").stat().st_size == MIB
    assert set(os.listdir(mount)) >= {"page"}
    wait_for(lambda: health(mount)["state"] == "read-only", "read-only")
    assert "not answered in time" in health(mount)["reason"]
    with pytest.raises(CommandError, match=r"stays read-only.*still has writes"):
        run_command("kvfsctl", "recover", mount)
    ask(mount.path, "fault-clear")
    assert "healthy" in run_command("kvfsctl", "recover", mount)
    assert read_direct(mount / "page") == b"p" * MIB
    write(mount / "after", b"a" * MIB, durable=True)


@pytest.mark.parametrize("mount", [RINGS], indirect=True, ids=["rings"])
def test_what_comes_late_goes_into_nobodys_memory(mount: KvfsMount) -> None:
    """Reads straight into the memory of their requests, which are over when the device writes into it."""
    pages = [os.urandom(MIB) for _ in range(12)]
    for number, page in enumerate(pages):
        write(mount / f"page{number}", page, durable=True)
    fault(mount, ["read"], "hang")
    with ThreadPoolExecutor(len(pages)) as pool:
        for done in [pool.submit(_read_fails, mount / f"page{number}") for number in range(len(pages))]:
            done.result()
    with ThreadPoolExecutor(2) as pool:
        cleared = pool.submit(ask, mount.path, "fault-clear")
        for number in range(40):  # each through memory that such a request had before
            write(mount / f"late{number}", pages[number % len(pages)][::-1])
        cleared.result()
    wait_for(lambda: health(mount)["unanswered"] == 0, "the device's answers")
    for number in range(40):
        assert read_direct(mount / f"late{number}") == pages[number % len(pages)][::-1]
    for number, page in enumerate(pages):
        assert read_direct(mount / f"page{number}") == page


def _read_fails(path: Path) -> None:
    with fails():
        read_direct(path)


def test_umount_on_a_silent_device_ends(mount: KvfsMount) -> None:
    write(mount / "durable", b"d" * MIB, durable=True)
    write(mount / "lazy", b"l" * MIB)
    fault(mount, _EVERYTHING, "hang")
    run_command("kvfsctl", "scrub", "--background", mount)  # it reads, and waits like everybody else
    begin = time.monotonic()
    mount.umount()
    wait_for(lambda: not Path(f"/proc/{mount.pid}/fd").exists() or _is_gone(mount.pid), "the daemon's end", 40)
    assert time.monotonic() - begin < 40
    problems = mount.take_log_problems()
    assert any("what was fsynced is on" in line for line in problems), problems
    mount.mount()
    assert read_direct(mount / "durable") == b"d" * MIB


def test_scrub_on_a_silent_device_ends(mount: KvfsMount) -> None:
    """It gives up each thing it waits for, metadata too: whoever unmounts waits for it."""
    write(mount / "page", b"p" * MIB, durable=True)
    fault(mount, _EVERYTHING, "hang")
    run_command("kvfsctl", "scrub", "--background", mount)
    wait_for(lambda: not ask(mount.path, "scrub", action="status")["running"], "the end of the pass")
    status = ask(mount.path, "scrub", action="status")
    assert (status["pass_unreadable"], status["pass_damaged"]) == (2, 0)  # the page, and metadata


def test_failed_log_is_shown_and_recovered(mount: KvfsMount) -> None:
    write(mount / "before", b"b" * MIB, durable=True)
    fault(mount, ["sync"], "error")
    with fails():
        write(mount / "during", b"d" * 5000, durable=True)
    ask(mount.path, "fault-clear")
    text = run_command("kvfsctl", "status", mount)
    assert "read-only: metadata cannot be written: Input/output error" in text
    assert f"kvfsctl recover {mount.path}" in text.replace("\n", " ")
    with fails(EIO, EROFS):
        write(mount / "refused", b"x")
    assert read_direct(mount / "before") == b"b" * MIB
    answer = json.loads(run_command("kvfsctl", "recover", mount, "--json"))
    assert answer["state"] == "healthy"
    write(mount / "after", b"a" * MIB, durable=True)
    assert json.loads(run_command("kvfsctl", "recover", mount, "--json"))["state"] == "healthy"  # nothing to do
    assert health(mount)["recoveries_total"] == 1


def test_nothing_acknowledged_is_lost_by_recover(mount: KvfsMount) -> None:
    names = [f"page{i}" for i in range(40)]
    for name in names:
        write(mount / name, name.encode() * 1000)  # not fsynced
    fault(mount, ["write", "sync"], "error")
    with fails():
        write(mount / "during", b"d" * 5000, durable=True)
    wait_for(lambda: health(mount)["state"] == "read-only", "a write of the log that fails")
    ask(mount.path, "fault-clear")
    run_command("kvfsctl", "recover", mount)
    mount.kill9()
    for name in names:
        assert (mount / name).read_bytes() == name.encode() * 1000


def test_short_transfers(mount: KvfsMount) -> None:
    fault(mount, ["read", "write"], "short", probability=0.5)
    data = os.urandom(3 * MIB)
    write(mount / "page", data, durable=True)
    assert read_direct(mount / "page", 3 * MIB) == data


@pytest.mark.parametrize("mount", [("--warm-size", "64M")], indirect=True)
def test_staging_into_the_warm_tier_fails_in_time(mount: KvfsMount) -> None:
    write(mount / "page", data := os.urandom(8 * MIB), durable=True)
    fault(mount, ["read"], "hang")
    begin = time.monotonic()
    with pytest.raises(CommandError):
        run_command("kvfsctl", "warm", mount / "page", timeout=50)
    assert time.monotonic() - begin < 45
    ask(mount.path, "fault-clear")
    wait_for(lambda: health(mount)["unanswered"] == 0, "the device's answers")
    assert read_direct(mount / "page", 8 * MIB) == data


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
