"""Two hosts and one namespace: only one of them writes, with the target's reservations and without.

Two host identities of one machine; to kvfs they are hosts by ``KVFS_HOST_ID``. What needs no target is in
tests/t1_store/test_ownership.py.
"""

import errno
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.direct import aligned
from support.mount import CommandError, run_command, wait_for
from support.nvme_host import block_devices, connect
from support.nvmet import SERVICE, Nvmet, Target, discard, host

from kvfs.fabric.reservations import Reservations, open_device
from kvfs.store.hosts import VARIABLE, this_host

pytestmark = pytest.mark.guest

NQN = "nqn.2026-11.test.kvfs:fenced"
BLOCK = 4096
DATA = b"page" * 20_000


class Side:
    """One host: its connection, its mountpoint, its commands."""

    def __init__(self, name: str, target: Target, place: Path) -> None:
        before = set(block_devices(target.nqn))
        connect(target, "duplicate_connect", identity=host(name))
        found = wait_for(lambda: set(block_devices(target.nqn)) - before, f"the device of host {name}")
        (self.device,) = found
        self.name = name
        self.path = place / name
        self.path.mkdir()
        self.log = place / f"{name}.log"

    @contextmanager
    def here(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, self.name)
            yield

    def must(self, program: str, *words: str | Path) -> str:
        with self.here():
            return run_command(program, *words)

    def refused(self, program: str, *words: str | Path) -> str:
        """The one line that says why."""
        with self.here(), pytest.raises(CommandError) as error:
            run_command(program, *words)
        _, lines = str(error.value).split(": 1\n")
        assert lines.count("\n") == 1, lines
        return lines

    def mount(self, *options: str) -> None:
        self.must("kvfs", "mount", *self.mount_words(*options))

    def mount_words(self, *options: str) -> tuple[str | Path, ...]:
        return (*options, "--warm-size", "0", "--request-loop", "clones", "--log", self.log, self.device, self.path)

    def umount(self) -> None:
        self.must("kvfs", "umount", self.path)

    def kill(self) -> None:
        pid = json.loads((self.path / ".kvfs/stats").read_bytes())["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the daemon has gone")
        self.umount()

    def health(self) -> str:
        return str(json.loads((self.path / ".kvfs/stats").read_bytes())["components"]["store"]["health"]["state"])

    def write(self, name: str, data: bytes = DATA) -> None:
        with (self.path / name).open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write_raw(self) -> int:
        """Where no volume has anything; 0 or the errno."""
        fd = open_device(self.device)
        try:
            return 0 if os.pwrite(fd, aligned(bytes(BLOCK)), 32 * 1024) else -1
        except OSError as error:
            return error.errno or -1
        finally:
            os.close(fd)

    def key(self) -> int:
        """Of this host's reservations."""
        with self.here():
            return this_host().key

    def holder(self) -> int | None:
        """The key of whoever holds the reservation."""
        fd = open_device(self.device)
        try:
            reservations = Reservations(fd, str(self.device))
            report = reservations.report() if reservations.are_supported() else None
            return report.holder.key if report and report.holder else None
        finally:
            os.close(fd)


@pytest.fixture(params=["reservation", "record"])
def fenced_by(request: pytest.FixtureRequest) -> str:
    """What tells the hosts apart: the target has reservations, or not."""
    return str(request.param)


@pytest.fixture
def sides(two_hosts: None, nvmet: Nvmet, drives: list[Path], fenced_by: str, tmp_path: Path) -> Iterator[list[Side]]:
    """Hosts a and b; a has the volume mounted, with a durable file ``old``."""
    discard(drives[0])
    subsystem = nvmet.subsystem(NQN, drives[:1], resv=fenced_by == "reservation")
    target = nvmet.port("tcp", "127.0.0.1", SERVICE).expose(subsystem)
    both = [Side(name, target, tmp_path) for name in ("a", "b")]
    a, _ = both
    a.must("kvfsctl", "format", a.device)
    a.mount()
    a.write("old")
    try:
        yield both
    finally:
        for side in both:
            side.must("kvfs", "umount", "--quiet", side.path)


def test_takeover_from_a_host_that_is_alive(sides: list[Side], fenced_by: str) -> None:
    a, b = sides
    has_reservations = fenced_by == "reservation"
    assert a.holder() == (a.key() if has_reservations else None)
    for refused in (b.refused("kvfs", "mount", *b.mount_words()), b.refused("kvfsctl", "takeover", b.device)):
        assert "belongs to host a" in refused
        assert "kvfsctl takeover" in refused
    assert b.write_raw() == (errno.EBADE if has_reservations else 0)

    b.mount("--read-only")
    assert b.read("old") == DATA
    with pytest.raises(OSError, match="Read-only"):
        b.write("refused")
    b.umount()
    assert (a.health(), a.read("old")) == ("healthy", DATA)

    taken = json.loads(b.must("kvfsctl", "takeover", b.device, "--force", "a", "--json"))
    assert (taken["fenced_by"], taken["was_alive"]) == (fenced_by, True)
    assert a.write_raw() == (errno.EBADE if has_reservations else 0)
    wait_for(lambda: a.health() == "fenced", "a knows that it lost the volume")
    with pytest.raises(OSError, match="Read-only file system"):
        a.write("refused")
    assert "fenced: " in a.must("kvfsctl", "status", a.path)
    assert "there is no way back for this mount" in a.refused("kvfsctl", "recover", a.path)
    assert a.read("old") == DATA

    b.mount()
    b.write("new")
    assert b.holder() == (b.key() if has_reservations else None)
    a.umount()
    assert "belongs to host b" in a.refused("kvfs", "mount", *a.mount_words())
    assert (b.read("old"), b.read("new"), b.health()) == (DATA, DATA, "healthy")
    b.umount()
    assert b.holder() is None, "closed in order, it is anybody's"

    a.mount()
    assert (a.read("old"), a.read("new")) == (DATA, DATA)
    a.umount()
    assert "clean" in a.must("kvfsctl", "fsck", a.device)


@pytest.mark.parametrize("fenced_by", ["reservation"], indirect=True)
def test_takeover_from_a_host_that_died(sides: list[Side], fenced_by: str) -> None:
    """Without reservations: tests/t2_cli/test_takeover.py."""
    a, b = sides
    a.kill()
    assert "belongs to host a" in b.refused("kvfs", "mount", *b.mount_words())
    a.mount()  # the same host goes on at once
    assert a.read("old") == DATA
    a.write("again")
    a.kill()
    taken = json.loads(b.must("kvfsctl", "takeover", b.device, "--json"))
    assert (taken["fenced_by"], taken["was_alive"]) == (fenced_by, False)
    assert "belongs to host b" in a.refused("kvfs", "mount", *a.mount_words())
    assert a.write_raw() == errno.EBADE
    b.mount()
    assert (b.read("old"), b.read("again")) == (DATA, DATA)
    b.write("new")
    b.umount()
    assert "clean" in b.must("kvfsctl", "fsck", b.device)
