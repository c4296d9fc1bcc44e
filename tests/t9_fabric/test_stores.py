"""Stores by URL: what a mount or a command connects it disconnects, whoever ends it, and nothing else."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from place import Place
from support.mount import CommandError, run_command, wait_for
from support.nvme_host import connect, controllers
from support.nvmet import Nvmet, Target, host

from kvfs import errors
from kvfs.cli.config import Config
from kvfs.cli.mounts import daemon_of, kvfs_mount_at
from kvfs.cli.stores import disconnect_left, find_store, opened, stable_name
from kvfs.errors import KvfsError
from kvfs.fabric import nvme
from kvfs.fabric.attach import Attached, attached
from kvfs.fabric.connections import DIRECTORY, Ledger
from kvfs.fabric.store import fabric_store
from kvfs.store import volume

pytestmark = pytest.mark.guest

OTHER_NQN = "nqn.2026-11.test.kvfs:other"


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    try:
        yield place
    finally:
        place.clear()


@pytest.fixture(autouse=True)
def _nothing_recorded() -> Iterator[None]:
    """Whatever a test does, in the end kvfs does not think that it holds a connection."""
    yield
    assert [*DIRECTORY.glob("*.json")] == []


def mount(place: Place, url: str) -> str:
    # without a second's trial of what is faster here
    return run_command("kvfs", "mount", "--request-loop", "clones", "--log", place.log, url, place.mountpoint)


def umount(place: Place) -> str:
    return run_command("kvfs", "umount", place.mountpoint)


def format_store(url: str) -> None:
    with opened(find_store([url], Config(), {})) as store:
        volume.create(store.path, force=str(store.path))


@contextlib.contextmanager
def attach(*urls: str) -> Iterator[Attached]:
    with attached(fabric_store(urls, {}, {}, {}, "none")) as found:
        yield found


def in_child(work: Callable[[], None]) -> int:
    """The process id of a child that has done ``work`` and waits to be killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(writer, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    done = os.read(reader, 1)
    os.close(reader)
    assert done == b"1", "the child failed"
    return child


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_store_by_url(tcp_target: Target, nvmet: Nvmet, rdma_address: str, place: Place) -> None:
    """Written over TCP, read over RDMA; the second time the daemon is killed."""
    tcp, rdma = tcp_target, nvmet.port("rdma", rdma_address).expose(tcp_target.subsystem)
    data = os.urandom(3 << 20)
    made = json.loads(run_command("kvfsctl", "format", "--json", tcp.url))
    assert made[0]["path"] == tcp.url
    assert controllers(tcp.nqn) == [], "format left it connected"

    assert mount(place, tcp.url).startswith(f"{tcp.url} is mounted on {place.mountpoint} (pid ")
    (place.mountpoint / "page").write_bytes(data)
    stats: dict[str, Any] = json.loads((place.mountpoint / ".kvfs" / "stats").read_bytes())
    assert stats["store"] == kvfs_mount_at(place.mountpoint).source == tcp.url
    fabric = stats["components"]["fabric"]
    assert (fabric["nqn"], fabric["nsid"]) == (tcp.nqn, 1)
    assert [path["state"] for path in fabric["paths"].values()] == ["live"]
    with pytest.raises(errors.VolumeInUse) as again, opened(find_store([tcp.url], Config(), {})) as store:
        volume.fsck(store.path)
    assert str(again.value).startswith(f"{tcp.url}: ")
    assert str(again.value).endswith(f"run `kvfs umount {place.mountpoint}` first")
    assert len(controllers(tcp.nqn)) == 1, "whoever is refused took the mount's connection away"
    umount(place)
    assert controllers(tcp.nqn) == [], "umount left it connected"

    mount(place, rdma.url)
    assert (place.mountpoint / "page").read_bytes() == data
    daemon = daemon_of(kvfs_mount_at(place.mountpoint))
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{daemon}/fd/0").exists(), f"end of daemon {daemon}")
    assert len(controllers(rdma.nqn)) == 1
    said = umount(place)
    assert said.startswith(f"kvfs: {rdma.url}: ")
    assert said.endswith(f"disconnected, left by process {daemon}, which is gone\n")
    assert controllers(rdma.nqn) == []


def test_what_goes_wrong(tcp_target: Target, nvmet: Nvmet, drives: list[Path]) -> None:
    """Each is said in a line, and leaves nothing connected."""
    check_what_goes_wrong(tcp_target, nvmet, drives)


@pytest.mark.ci
def test_what_goes_wrong_over_rdma(rdma_target: Target, nvmet: Nvmet, drives: list[Path]) -> None:
    check_what_goes_wrong(rdma_target, nvmet, drives)


def check_what_goes_wrong(target: Target, nvmet: Nvmet, drives: list[Path]) -> None:
    base = f"nvme+{target.transport}://{target.traddr}"
    target.port.expose(nvmet.subsystem(OTHER_NQN, drives[1:3], allowed_hosts=[host("another")]))
    url = f"{base}/{target.nqn}"
    cases: list[tuple[str, type[KvfsError], str]] = [
        (f"{base}:4499/{target.nqn}", errors.Unreachable, ":4499"),
        (f"{base}/nqn.2026-11.test.kvfs:absent", errors.WrongNqn, "nqn.2026-11.test.kvfs:absent"),
        (f"{base}/{OTHER_NQN}", errors.HostRefused, OTHER_NQN),
        (f"{url}?nsid=7", errors.NamespaceVanished, "expected namespace 7, found 1"),
        (url, errors.NotAVolume, f"{url}: expected a kvfs volume, found nothing; `kvfsctl format {url}` makes one"),
    ]
    for store, kind, says in cases:
        with (
            pytest.raises(kind) as caught,
            opened(find_store([store], Config(), {})) as found,
        ):
            volume.open_or_create(found.path)
        assert type(caught.value) is kind
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.hint
        assert controllers(target.nqn) == controllers(OTHER_NQN) == [], store
    target.subsystem.namespaces[0].disable()
    with pytest.raises(errors.NamespaceVanished, match="namespace"), attach(url):
        pass
    assert controllers(target.nqn) == []


def test_a_mount_that_fails_says_why(tcp_target: Target, place: Place) -> None:
    """Through the daemon, which connects."""
    url = tcp_target.url
    with pytest.raises(CommandError) as caught:
        mount(place, url)
    line = f"kvfs: {url}: expected a kvfs volume, found nothing; `kvfsctl format {url}` makes one"
    assert str(caught.value).splitlines()[1:] == [line]
    assert controllers(tcp_target.nqn) == []


def test_several_namespaces(tcp_target: Target, nvmet: Nvmet, drives: list[Path]) -> None:
    both = tcp_target.port.expose(nvmet.subsystem(OTHER_NQN, drives[1:3])).url
    with (
        pytest.raises(errors.UsageError, match=r"expected one namespace, found 2: 1 \(.*, 2 \(.*: \?nsid=1$"),
        attach(both),
    ):
        pass
    assert controllers(OTHER_NQN) == []
    with contextlib.ExitStack() as second:
        with attach(f"{both}?nsid=1") as first:
            found = second.enter_context(attach(f"{both}?nsid=2"))
            assert first.path != found.path
            assert len(controllers(OTHER_NQN)) == 1
        assert len(controllers(OTHER_NQN)) == 1, "the second one has lost its connection"
    assert controllers(OTHER_NQN) == [], "the connection was nobody's any more"


def test_what_a_killed_process_left_is_disconnected(target: Target) -> None:
    stack = contextlib.ExitStack()
    child = in_child(lambda: stack.enter_context(attach(target.url)) and None)
    assert disconnect_left() == [], "its process lives"
    assert len(controllers(target.nqn)) == 1
    kill(child)
    (note,) = disconnect_left()
    assert note.startswith(f"{target.url}: nvme")
    assert note.endswith(f") disconnected, left by process {child}, which is gone")
    assert controllers(target.nqn) == []


def test_who_is_killed_between_connecting_and_saying_so(tcp_target: Target) -> None:
    path = fabric_store([tcp_target.url], {}, {}, {}, "none").paths[0]

    def work() -> None:
        entered = stack.enter_context(Ledger().locked(tcp_target.nqn))
        entered.enter(tcp_target.url, None)
        nvme.connect(path.address, tcp_target.nqn, path.options)

    stack = contextlib.ExitStack()
    child = in_child(work)
    assert disconnect_left() == [], "it is at it"
    kill(child)
    (note,) = disconnect_left()
    assert note.endswith(f") disconnected, left by process {child}, which is gone")
    assert controllers(tcp_target.nqn) == []


@pytest.mark.ci
def test_the_target_is_gone_when_a_store_is_closed(tcp_target: Target, place: Place) -> None:
    """The kernel goes on trying for ever, and all the same the unmount ends, and nothing is left connected."""
    format_store(tcp_target.url)
    mount(place, f"{tcp_target.url}?fast_io_fail_tmo=2")
    (controller,) = controllers(tcp_target.nqn)
    assert (controller / "ctrl_loss_tmo").read_text().strip() == "off"
    tcp_target.port.withdraw(tcp_target.subsystem)
    umount(place)
    assert controllers(tcp_target.nqn) == []


def test_what_another_uses_is_handed_to_it(tcp_target: Target) -> None:
    stack = contextlib.ExitStack()
    child = in_child(lambda: stack.enter_context(attach(tcp_target.url)) and None)
    with attach(tcp_target.url):
        kill(child)
        assert disconnect_left() == []
        assert len(controllers(tcp_target.nqn)) == 1
    assert controllers(tcp_target.nqn) == []


def test_what_is_used_otherwise_stays(tcp_target: Target, nvmet: Nvmet, drives: list[Path]) -> None:
    """Another namespace of the same subsystem is open to somebody who has nothing to do with kvfs."""
    both = tcp_target.port.expose(nvmet.subsystem(OTHER_NQN, drives[1:3])).url
    with attach(f"{both}?nsid=1") as first:
        other = first.path.with_name(f"{first.path.name[:-1]}2")
        wait_for(other.exists, f"{other}")
        fd = os.open(other, os.O_RDONLY | os.O_EXCL)
    assert len(controllers(OTHER_NQN)) == 1
    os.close(fd)


def test_what_somebody_else_connected_stays(tcp_target: Target) -> None:
    device = connect(tcp_target, identity=host("self"))
    url = f"{tcp_target.url}?hostnqn={host('self').nqn}&hostid={host('self').identifier}"
    with attach(url) as found:
        assert found.path == device
    assert len(controllers(tcp_target.nqn)) == 1
    link = Path("/dev/disk/by-id") / f"nvme-{Path('/sys/block', device.name, 'wwid').read_text().strip()}"
    link.parent.mkdir(parents=True, exist_ok=True)  # as udev does, which the guest has not
    link.symlink_to(device)
    assert stable_name(device) == str(link)
    link.unlink()


def test_several_paths(tcp_target: Target, nvmet: Nvmet, rdma_address: str, caplog: pytest.LogCaptureFixture) -> None:
    rdma = nvmet.port("rdma", rdma_address).expose(tcp_target.subsystem)
    with attach(tcp_target.url, rdma.url) as found:
        paths = found.statistics()["paths"].values()
        assert sorted(path["address"].partition(":")[0] for path in paths) == ["rdma", "tcp"]
        assert len(controllers(tcp_target.nqn)) == 2
    assert controllers(tcp_target.nqn) == []
    with attach(f"nvme+tcp://{tcp_target.traddr}:4499/{tcp_target.nqn}", tcp_target.url):
        assert len(controllers(tcp_target.nqn)) == 1
    assert "mounted without one of its paths: " in caplog.text
    assert controllers(tcp_target.nqn) == []


@pytest.mark.ci
def test_fstab(tcp_target: Target, place: Place) -> None:
    format_store(tcp_target.url)
    helper, fstab = Path("/sbin/mount.kvfs"), Path("/etc/fstab")
    before = fstab.read_bytes() if fstab.exists() else b""
    helper.symlink_to(place.program("mount.kvfs"))
    fstab.write_text(f"{tcp_target.url} {place.mountpoint} kvfs nofail,_netdev,nr_io_queues=1,log={place.log} 0 0\n")
    try:
        for _ in range(2):  # the second time it sees that it is mounted
            done = place.run("/usr/bin/mount", "-a", timeout=240)  # a new interpreter is slow in a guest
            assert done.status == 0, done
        assert kvfs_mount_at(place.mountpoint).source == tcp_target.url
        umount(place)
        assert controllers(tcp_target.nqn) == []
    finally:
        helper.unlink()
        fstab.write_bytes(before)
