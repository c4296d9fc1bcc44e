"""A path that is lost under load: nothing hangs, nothing is wrong, and once it is back the mount goes on by itself.

Limits are asserted with room to spare: a guest is slow. What is told from them is an end from a hang.
"""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.device_mount import DeviceMount, device_mount
from support.links import link
from support.load import Client, Load
from support.mount import wait_for
from support.nvme_host import connect, controllers
from support.nvmet import SERVICE, Nvmet, Target, discard

pytestmark = [
    pytest.mark.guest,
    pytest.mark.expects_log(
        r"a (read from|write to) the device failed|metadata cannot be written|stays read-only|a path was lost"
        r"|what was fsynced is on|: gone; unmount"
    ),
]

NQN = "nqn.2026-11.test.kvfs:store"
IO_TIMEOUT = 3.0  # s, of the mount
_ENOUGH = 40.0  # s: for what should take a few
_LOST = {errno.EIO, errno.EROFS}
_OPTIONS = ("reconnect_delay=1", "fast_io_fail_tmo=1", "keep_alive_tmo=2")


@pytest.fixture(params=["tcp", "rdma"])
def lossy(request: pytest.FixtureRequest, nvmet: Nvmet, drives: list[Path]) -> Iterator[Target]:
    """Over a link that can be cut."""
    discard(drives[0])
    way = link(request.param)
    port = nvmet.port(way.transport, way.address, SERVICE, way.namespace)
    yield port.expose(nvmet.subsystem(NQN, drives[:1]))
    way.restore()


def progress(client: Client, what: str) -> None:
    """At least one more call succeeds."""
    before = client.done
    wait_for(lambda: client.wrong or client.done > before, what, _ENOUGH)
    assert not client.wrong


def health(mount: DeviceMount) -> dict[str, object]:
    stats = json.loads((mount / ".kvfs/stats").read_text())["components"]
    return {**stats["store"]["health"], **stats["path"]}


def withdraw(target: Target) -> Callable[[], object]:
    """The target no longer offers the subsystem at its port; afterwards it does."""
    target.port.withdraw(target.subsystem)
    return lambda: target.port.expose(target.subsystem)


def cut(target: Target) -> Callable[[], object]:
    """The link is down; afterwards it is up."""
    way = link(target.transport)
    way.cut()
    return way.restore


@pytest.mark.parametrize(
    ("lossy", "lose"),
    [
        pytest.param("tcp", withdraw, id="tcp-withdraw"),
        pytest.param("tcp", cut, id="tcp-cut", marks=pytest.mark.ci),
        pytest.param("rdma", withdraw, id="rdma-withdraw", marks=pytest.mark.ci),
    ],
    indirect=["lossy"],
)
def test_lost_and_back(lossy: Target, lose: Callable[[Target], Callable[[], object]]) -> None:
    device = connect(lossy, "ctrl_loss_tmo=600", *_OPTIONS)
    with device_mount(device, "--warm-size", "0", "--io-timeout", f"{IO_TIMEOUT}s") as mount:
        with Load(mount.path) as load:
            for client in load.clients:
                progress(client, "a call before the loss")
            restore = lose(lossy)
            for client in load.clients:
                wait_for(lambda client=client: client.errors, "an error of a call in flight", _ENOUGH)
            wait_for(lambda: health(mount)["state"] == "read-only", "the log noticing", _ENOUGH)
            restore()
            for client in load.clients:
                progress(client, "a call after the return")
            assert health(mount)["state"] == "healthy"
            for client in load.clients:
                assert set(client.errors) <= _LOST
                assert client.longest < IO_TIMEOUT + _ENOUGH
        load.check()
        wait_for(lambda: health(mount)["returns_total"] == 1, "the watch, which looks twice a second, to count it")


@pytest.mark.ci
@pytest.mark.parametrize("lossy", ["tcp"], indirect=True)  # the kernel's giving up is no affair of the transport
def test_gone_for_good(lossy: Target) -> None:
    """The kernel gives up: errors, no hang; the mount can be unmounted, and what was acknowledged is on the drive."""
    device = connect(lossy, "ctrl_loss_tmo=3", *_OPTIONS)
    with device_mount(device, "--warm-size", "0", "--io-timeout", f"{IO_TIMEOUT}s") as mount:
        with Load(mount.path) as load:
            for client in load.clients:
                progress(client, "a call before the loss")
            lossy.port.withdraw(lossy.subsystem)
            wait_for(lambda: not controllers(NQN), "the kernel giving up", _ENOUGH)
            seen = [len(client.errors) for client in load.clients]
            for client, count in zip(load.clients, seen, strict=True):
                wait_for(lambda client=client, count=count: len(client.errors) > count, "more errors", _ENOUGH)
                assert set(client.errors) <= _LOST
                assert client.longest < IO_TIMEOUT + _ENOUGH
        mount.umount()
        lossy.port.expose(lossy.subsystem)
        mount.device = connect(lossy, *_OPTIONS)
        mount.mount()
        load.check()


def test_two_paths(nvmet: Nvmet, drives: list[Path], rdma_address: str) -> None:
    """One after the other is lost and comes back; clients see none of it."""
    discard(drives[0])
    subsystem = nvmet.subsystem(NQN, drives[:1])
    paths = [nvmet.port(transport, rdma_address, SERVICE).expose(subsystem) for transport in ("tcp", "rdma")]
    for path in paths:
        device = connect(path, "ctrl_loss_tmo=600", *_OPTIONS)
    with device_mount(device, "--warm-size", "0", "--io-timeout", "30s") as mount:
        with Load(mount.path) as load:
            for path in paths:
                for client in load.clients:
                    progress(client, "a call over both")
                path.port.withdraw(subsystem)
                wait_for(lambda: "connecting" in states(), "the loss", _ENOUGH)
                for client in load.clients:
                    progress(client, "a call over the other")
                path.port.expose(subsystem)
                wait_for(lambda: states() == ["live", "live"], "its return", _ENOUGH)
            for client in load.clients:
                assert client.errors == []
        load.check()
        assert health(mount)["failures_total"] == 0


def states() -> list[str]:
    return [(place / "state").read_text().strip() for place in controllers(NQN)]
