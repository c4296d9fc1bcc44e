"""How a connection ends: unmounted or killed under load, aborted, a thread of the request loop that dies.

Each time: no client hangs, the daemon is gone, the store is clean, and what was made durable is there.
"""

import errno
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.expect import opened, read_file, write_all
from support.mount import (
    GONE,
    KvfsMount,
    TestMount,
    close_test_mount,
    is_mounted,
    make_test_mount,
    run_command,
    wait_for,
)
from support.pages import make_page, page_version
from support.process import Child
from wire import MKDIR, PATIENCE, ROOT, Wire

WRITERS = 4
PAGES = 20  # of each writer
SIZES = (4096, 70_000, 1 << 20)

pytestmark = pytest.mark.kvfs_only


@pytest.fixture
def mount() -> Iterator[KvfsMount]:
    made: TestMount = make_test_mount()
    assert isinstance(made, KvfsMount)
    try:
        yield made
    finally:
        close_test_mount(made)


def page_name(writer: int, number: int) -> str:
    return f"w{writer}-{number % PAGES}"


def write_until_it_ends(directory: int, progress: int, writer: int) -> int:
    """Durable versions of a few pages, the first of them told to ``progress``. By a directory's descriptor: after an
    unmount the path names another directory. The number of versions, when the mount ended."""
    number = 0
    try:
        while True:
            name = page_name(writer, number)
            data = make_page(name, number, SIZES[number % len(SIZES)])
            fd = os.open(f"{name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=directory)
            try:
                write_all(fd, data, 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(f"{name}.tmp", name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            number += 1
            if number == 1:
                os.write(progress, b".")
    except OSError as error:
        if error.errno not in GONE:
            raise
        return number


@contextmanager
def load(mount: KvfsMount) -> Iterator[list[Child]]:
    """Writers, each of which has written something when the block begins."""
    directory = os.open(mount, os.O_RDONLY)
    pipes = [os.pipe() for _ in range(WRITERS)]
    children = []
    try:
        for writer, (_, progress) in enumerate(pipes):
            children.append(Child(partial(write_until_it_ends, directory, progress, writer)))
        os.close(directory)
        for seen, _ in pipes:
            assert os.read(seen, 1) == b"."
        yield children
    finally:
        for ends in pipes:
            for end in ends:
                os.close(end)


def check(mount: KvfsMount, written: list[int]) -> None:
    """Unmounted: clean. Mounted: what was promised is there, and nothing that is there is torn."""
    mount.fsck()
    mount.mount()
    for writer, count in enumerate(written):
        for number in range(max(0, count - PAGES), count):  # the last durable version of each page
            name = page_name(writer, number)
            assert page_version(name, read_file(mount / name)) >= number
    for name in os.listdir(mount):
        if not name.endswith(".tmp"):
            page_version(name, read_file(mount / name))


def is_gone(mount: KvfsMount) -> bool:
    return not is_mounted(mount) and not Path(f"/proc/{mount.pid}").exists()


def terminate(mount: KvfsMount) -> None:
    os.kill(mount.pid, signal.SIGTERM)


def clear(mount: KvfsMount) -> None:
    """Of a daemon that could not unmount the user has to clear what is left."""
    wait_for(lambda: not Path(f"/proc/{mount.pid}").exists(), "the daemon gone")
    run_command("kvfs", "umount", mount)


def kill(mount: KvfsMount) -> None:
    os.kill(mount.pid, signal.SIGKILL)
    clear(mount)


def abort_connection(mount: KvfsMount) -> None:
    """What an administrator does to a mount that hangs; root only. The daemon ends by itself."""
    control = Path("/sys/fs/fuse/connections")
    if not control.is_dir() or not any(control.iterdir()):
        subprocess.run(["mount", "-t", "fusectl", "none", control], check=True, timeout=60)
    (control / str(os.minor(os.stat(mount).st_dev)) / "abort").write_text("1")
    clear(mount)


def unmount_lazily(mount: KvfsMount) -> None:
    run_command("kvfs", "umount", "--lazy", mount)


@pytest.mark.parametrize("end", [terminate, kill, pytest.param(abort_connection, marks=pytest.mark.root)])
def test_under_load(mount: KvfsMount, end: Callable[[KvfsMount], None]) -> None:
    with load(mount) as writers:
        end(mount)
        written = [writer.result() for writer in writers]
    wait_for(lambda: is_gone(mount), "the mount and its daemon gone", timeout=60)
    check(mount, written)


def test_unmounted_lazily_it_serves_until_the_last_user_leaves(mount: KvfsMount) -> None:
    with load(mount) as writers:
        unmount_lazily(mount)
        assert not is_mounted(mount)
        for writer in writers:
            writer.kill()
            os.waitpid(writer.pid, 0)
    wait_for(lambda: is_gone(mount), "the daemon gone", timeout=60)
    check(mount, [])


@pytest.mark.root
@pytest.mark.expects_log("a thread of the request loop ended: Input/output error")
def test_a_thread_that_dies_takes_the_mount_down(mount: KvfsMount) -> None:
    """The next read of /dev/fuse fails on one of the threads; strace makes it fail."""
    name = "page"
    with opened(mount / name, os.O_WRONLY | os.O_CREAT) as fd:
        write_all(fd, make_page(name, 1, 100_000), 0)
        os.fsync(fd)
    command = ["strace", "-f", "-qq", "-o", mount.root / "strace", "-p", str(mount.pid), "-P", "/dev/fuse"]
    command += ["-e", "trace=read", "-e", "inject=read:error=EIO:when=3"]
    with load(mount) as writers, subprocess.Popen(command) as strace:
        written = [writer.result() for writer in writers]
        wait_for(lambda: is_gone(mount), "the mount and its daemon gone", timeout=60)
        strace.wait(60)
    assert any("a thread of the request loop ended" in line for line in mount.log.read_text().splitlines())
    check(mount, written)
    assert page_version(name, read_file(mount / name)) == 1


def test_the_device_fails(wire: Wire) -> None:
    """A socket whose far end is closed with unread messages in it gives ECONNRESET, as a device may give anything."""
    unique = wire.send(MKDIR, ROOT, bytes(8) + b"name\0")
    request = wire.relayed()
    assert request.unique == unique
    wire.answer(request, error=errno.EACCES)
    wait_for(lambda: wire.in_hand() == 0, "answered, and not read")
    wire.kernel.close()
    # the last thing that a thread does is to write there
    assert select.select([wire.splitter.ended_fd], [], [], PATIENCE)[0]
    assert -wait_for(lambda: wire.splitter.end_error, "the thread that met the error") == errno.ECONNRESET
    # one thread meets the error; what the others say, who meet the end, may come first
    expected = (40, "a thread of the request loop ended: Connection reset by peer")
    wait_for(lambda: expected in wire.take_log(), "its line in the log")
