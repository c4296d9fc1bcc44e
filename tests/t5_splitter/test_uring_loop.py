"""A mount whose requests come by ring: the same answers, from many threads at once, and an end in every case."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rings import Parameter, loop_statistics
from support.direct import aligned, direct_read
from support.expect import opened, read_file, write_all, write_file
from support.mount import CommandError, KvfsMount, close_test_mount, is_mounted, make_test_mount, wait_for
from support.pages import make_page, page_version
from support.process import Child

pytestmark = pytest.mark.kvfs_only

MIB = 1 << 20


def test_requests_come_by_ring(ring_mount: KvfsMount) -> None:
    before = loop_statistics(ring_mount)
    assert before["kind"] == "uring"
    write_file(ring_mount / "file", b"x" * MIB)
    after = loop_statistics(ring_mount)
    assert after["requests_total"] > before["requests_total"]
    assert after["in_hand"] <= 1  # the READ of the statistics themselves
    assert after["replies_refused_total"] == 0


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65_536, MIB - 1, MIB, MIB + 1, 5 * MIB + 123])
def test_what_is_written_is_read(ring_mount: KvfsMount, size: int) -> None:
    path = ring_mount / f"size-{size}"
    data = os.urandom(size)
    write_file(path, data)
    assert read_file(path) == data
    ring_mount.drop_caches()
    with opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
        step = 256 * 1024
        parts = [direct_read(fd, step, offset) for offset in range(0, size + step, step)]
    assert b"".join(parts) == data


def test_what_python_answers_is_relayed(ring_mount: KvfsMount) -> None:
    top = ring_mount / "directory"
    top.mkdir()
    (top / "link").symlink_to("nowhere")
    os.setxattr(top, "user.long", b"v" * 5000)
    for index in range(300):
        (top / f"name-{index:03}").touch()
    assert os.readlink(top / "link") == "nowhere"
    assert os.getxattr(top, "user.long") == b"v" * 5000
    assert len(os.listdir(top)) == 301
    with pytest.raises(FileNotFoundError):
        os.stat(top / "absent")
    os.rename(top / "name-000", ring_mount / "moved")
    assert not (top / "name-000").exists()


def test_many_clients_at_once(ring_mount: KvfsMount) -> None:
    """More of them than a queue has entries; each checks every byte that it gets."""

    def client(index: int) -> None:
        path = ring_mount / f"client-{index}"
        for version in range(1, 6):
            page = make_page(path.name, version, (4096, 65_536, MIB, MIB + 4096)[version % 4])
            with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT) as fd:
                write_all(fd, aligned(page), 0)
            with opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
                assert direct_read(fd, len(page), 0) == page
            assert page_version(path.name, read_file(path)) == version

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(client, range(40)))
    assert loop_statistics(ring_mount)["replies_refused_total"] == 0


def test_killed_clients_leave_nothing(ring_mount: KvfsMount) -> None:
    path = ring_mount / "read-by-the-dying"
    write_file(path, os.urandom(8 * MIB))

    def read_for_ever() -> None:
        with opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
            while True:
                direct_read(fd, MIB, 0)

    descriptors = len(os.listdir(f"/proc/{ring_mount.pid}/fd"))
    for _ in range(50):
        child = Child(read_for_ever)
        requests = loop_statistics(ring_mount)["requests_total"]
        wait_for(lambda seen=requests: loop_statistics(ring_mount)["requests_total"] > seen + 5, "reads of the child")
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
    wait_for(lambda: loop_statistics(ring_mount)["in_hand"] <= 1, "nothing in hand")
    assert len(os.listdir(f"/proc/{ring_mount.pid}/fd")) <= descriptors + 1


def test_a_mount_keeps_its_rings_when_the_kernel_stops_offering_them(
    ring_mount: KvfsMount, parameter: Parameter
) -> None:
    with parameter.off():
        assert loop_statistics(ring_mount)["kind"] == "uring"
        write_file(ring_mount / "still", b"there")
        assert read_file(ring_mount / "still") == b"there"


def test_rings_that_the_kernel_does_not_offer_are_refused(parameter: Parameter) -> None:
    with parameter.off(), pytest.raises(CommandError, match=r"--request-loop uring: .*switched off") as refusal:
        close_test_mount(make_test_mount(options=("--request-loop", "uring")))
    assert "enable_uring" in str(refusal.value)
    assert "Traceback" not in str(refusal.value)


@pytest.fixture
def doomed(parameter: Parameter) -> Iterator[KvfsMount]:
    """A mount by ring for a test that ends it."""
    with parameter.on():
        mount = make_test_mount(options=("--request-loop", "uring"))
        assert isinstance(mount, KvfsMount)
        try:
            yield mount
        finally:
            close_test_mount(mount)


class Load:
    """Threads that write pages and read them until the mount is gone."""

    def __init__(self, mount: KvfsMount, clients: int = 4) -> None:
        self._mount = mount
        self._page = aligned(os.urandom(MIB))
        self._rounds = [0] * clients
        self._threads = [threading.Thread(target=self._work, args=(index,), daemon=True) for index in range(clients)]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: min(self._rounds) > 2, "all clients at work")

    def _work(self, index: int) -> None:
        path = self._mount / f"load-{index}"
        with contextlib.suppress(OSError):  # what a client of a mount that goes away has to expect
            while is_mounted(self._mount):
                with opened(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
                    write_all(fd, self._page, 0)
                    assert direct_read(fd, MIB, 0) == self._page
                self._rounds[index] += 1

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"


def commit(path: Path) -> None:
    write_file(path, b"committed" * 1000)
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def await_end(pid: int) -> None:
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), f"daemon {pid} gone")


def test_sigterm_under_load(doomed: KvfsMount) -> None:
    """Nobody hangs, and what was committed is there."""
    commit(doomed / "committed")
    load = Load(doomed)
    os.kill(doomed.pid, signal.SIGTERM)
    wait_for(lambda: not is_mounted(doomed), "unmounted after SIGTERM")
    load.join()
    await_end(doomed.pid)
    doomed.fsck()
    doomed.mount()
    assert read_file(doomed / "committed") == b"committed" * 1000


@pytest.mark.root
@pytest.mark.parametrize("force", [(), ("-f",)], ids=["detached", "aborted"])
def test_unmounted_under_load(doomed: KvfsMount, force: tuple[str, ...]) -> None:
    """Detached, the mount lasts until its last file is closed; aborted, the kernel takes back what is in hand."""
    commit(doomed / "committed")
    load = Load(doomed)
    subprocess.run(["umount", *force, "-l", doomed.path], timeout=20, check=True)
    load.join()
    await_end(doomed.pid)
    doomed.fsck()
    doomed.mount()
    assert read_file(doomed / "committed") == b"committed" * 1000


def test_killed_under_load(doomed: KvfsMount) -> None:
    commit(doomed / "committed")
    load = Load(doomed)
    doomed.kill9()
    load.join()
    assert read_file(doomed / "committed") == b"committed" * 1000
