"""``kvfs.fabric.nvme`` and ``kvfsctl fabric`` against the kernel's target, over both transports.

The kernel's own view (sysfs, nvme-cli) is what the outcome is compared with, and after every failure what is connected.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from support.mount import CommandError, run_command, wait_for
from support.nvme_host import controllers as sysfs_controllers
from support.nvme_host import nvme as nvme_cli
from support.nvmet import Host, Nvmet, Target, discard, host
from support.process import Child, ChildError

from kvfs.errors import (
    AuthenticationFailed,
    FabricError,
    HostRefused,
    NamespaceVanished,
    NotConnected,
    TimedOut,
    Unreachable,
    WrongNqn,
)
from kvfs.fabric import nvme
from kvfs.fabric.nvme import DISCOVERY_NQN, Address, ConnectOptions, connecting, lease

pytestmark = pytest.mark.guest

ME = host("nvme")
OPTIONS = ConnectOptions(hostnqn=ME.nqn, hostid=ME.identifier, nr_io_queues=1)
NOBODY_THERE = "10.77.0.9"  # on the soft-RoCE device's own net, where ARP finds nobody
_BOUND = 60.0  # s, for what ends by itself; never what is tested


def _address(target: Target) -> Address:
    return Address(target.transport, target.traddr, target.trsvcid)  # type: ignore[arg-type]


def _is_connected_to_anything() -> bool:
    return any(each.address.transport != "pcie" for each in nvme.list_controllers())


@contextmanager
def _refused(kind: type[FabricError], *says: str) -> Iterator[None]:
    """One error of exactly that class, on one line with a next step, and nothing is left connected."""
    before = [each.name for each in nvme.list_controllers()]
    with pytest.raises(kind) as raised:
        yield
    line = str(raised.value)
    assert type(raised.value) is kind, line
    assert "\n" not in line
    assert raised.value.hint, line
    assert all(text in line for text in says), line
    assert [each.name for each in nvme.list_controllers()] == before


def test_connect_and_disconnect(target: Target) -> None:
    made = nvme.connect(_address(target), target.nqn, OPTIONS)
    assert made.connected_here
    assert (made.state, made.nqn, made.address) == ("live", target.nqn, _address(target))
    assert (made.hostnqn, made.hostid) == (ME.nqn, ME.identifier)
    (namespace,) = made.namespaces
    assert namespace.path.is_block_device()
    assert (namespace.nsid, namespace.size, namespace.lba_size) == (1, 512 << 20, 512)
    with namespace.path.open("rb") as device:
        assert device.seek(0, os.SEEK_END) == namespace.size
    assert namespace in nvme.list_namespaces()

    again = nvme.connect(_address(target), target.nqn, OPTIONS)
    assert not again.connected_here
    assert again == msgspec.structs.replace(made, connected_here=False)
    assert [place.name for place in sysfs_controllers(target.nqn)] == [made.name]

    assert nvme.disconnect(made.name) == [made.name]
    assert not _is_connected_to_anything()
    with pytest.raises(NotConnected):
        nvme.disconnect(made.name)


@pytest.mark.ci
def test_two_paths_are_one_namespace(tcp_target: Target, rdma_address: str) -> None:
    second = tcp_target.subsystem
    over_rdma = Nvmet().port("rdma", rdma_address).expose(second)
    first = nvme.connect(_address(tcp_target), tcp_target.nqn, OPTIONS)
    other = nvme.connect(_address(over_rdma), tcp_target.nqn, OPTIONS)
    assert first.name != other.name
    assert other.connected_here
    assert first.namespaces == other.namespaces
    assert len([each for each in nvme.list_namespaces() if each.wwid == first.namespaces[0].wwid]) == 1
    assert sorted(nvme.disconnect(tcp_target.nqn)) == sorted([first.name, other.name])
    assert not _is_connected_to_anything()


@pytest.mark.ci
def test_two_at_the_same_time_make_one_controller(tcp_target: Target) -> None:
    made: list[nvme.Controller | BaseException] = []

    def connect() -> None:
        try:
            made.append(nvme.connect(_address(tcp_target), tcp_target.nqn, OPTIONS, timeout=_BOUND))
        except FabricError as error:
            made.append(error)

    threads = [threading.Thread(target=connect) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [each for each in made if isinstance(each, nvme.Controller)]
    assert len(found) == 3, made
    assert len({each.name for each in found}) == 1
    assert sorted(each.connected_here for each in found) == [False, False, True]


def test_options_reach_the_kernel(tcp_target: Target) -> None:
    wanted = {"ctrl_loss_tmo": 20, "fast_io_fail_tmo": 5, "reconnect_delay": 2, "keep_alive_tmo": 7, "queue_size": 32}
    options = msgspec.structs.replace(OPTIONS, hdr_digest=True, data_digest=True, **wanted)
    made = nvme.connect(_address(tcp_target), tcp_target.nqn, options)
    assert made.queue_count == 2  # with the admin queue
    assert {name: getattr(made, name) for name in wanted} == wanted
    device = made.namespaces[0].path
    fd = os.open(device, os.O_RDWR | os.O_SYNC)
    try:
        assert os.pwrite(fd, b"digest" * 1000, 4096) == 6000
        os.fsync(fd)
        assert os.pread(fd, 6000, 4096) == b"digest" * 1000
    finally:
        os.close(fd)


def test_discover(target: Target) -> None:
    entries = nvme.discover(_address(target), OPTIONS)
    assert not _is_connected_to_anything()
    assert [(each.nqn, each.subtype) for each in entries] == [(DISCOVERY_NQN, "discovery"), (target.nqn, "nvme")]
    assert {each.address for each in entries} == {_address(target)}
    said = json.loads(
        nvme_cli(
            *("discover", "-t", target.transport, "-a", target.traddr, "-s", target.trsvcid, "-o", "json"),
            *(f"--hostnqn={ME.nqn}", f"--hostid={ME.identifier}"),
        )
    )
    assert [(each["subnqn"], each["trtype"], each["traddr"], each["trsvcid"]) for each in said["records"]] == [
        (each.nqn, each.address.transport, each.address.traddr, each.address.trsvcid) for each in entries
    ]


@pytest.mark.ci
def test_discover_without_a_port(tcp_target: Target) -> None:
    """8009 is asked first, where nobody listens here."""
    entries = nvme.discover(Address("tcp", "localhost"), OPTIONS)
    assert tcp_target.nqn in [each.nqn for each in entries]


def test_discover_lists_what_this_host_may_use(nvmet: Nvmet, drives: list[Path]) -> None:
    port = nvmet.port("tcp", "127.0.0.1")
    many = [f"nqn.2026-11.test.kvfs:many-{number}" for number in range(6)]  # more than a page of log
    for nqn in many:
        port.expose(nvmet.subsystem(nqn, [], allowed_hosts=[ME]))
    port.expose(nvmet.subsystem("nqn.2026-11.test.kvfs:others", [], allowed_hosts=[host("somebody")]))
    found = nvme.discover(Address("tcp", "127.0.0.1", "4420"), OPTIONS)
    assert sorted(each.nqn for each in found if each.subtype == "nvme") == many


def test_wrong_nqn(tcp_target: Target) -> None:
    with _refused(WrongNqn, f"{tcp_target.nqn}x", "kvfsctl fabric discover"):
        nvme.connect(_address(tcp_target), f"{tcp_target.nqn}x", OPTIONS)


@pytest.mark.ci
def test_refused_host(nvmet: Nvmet, drives: list[Path], rdma_address: str) -> None:
    subsystem = nvmet.subsystem("nqn.2026-11.test.kvfs:closed", drives[:1], allowed_hosts=[host("somebody")])
    for transport, traddr in (("tcp", "127.0.0.1"), ("rdma", rdma_address)):
        target = nvmet.port(transport, traddr).expose(subsystem)
        with _refused(HostRefused, target.nqn, ME.nqn):
            nvme.connect(_address(target), target.nqn, OPTIONS)


@pytest.mark.ci
def test_unreachable(rdma_address: str, tcp_target: Target) -> None:
    for address, says in [
        (Address("tcp", "127.0.0.1", "9"), "nobody listens there"),
        (Address("rdma", rdma_address, "9"), "nobody listens there"),
        (Address("tcp", NOBODY_THERE), "no answer"),
        (Address("tcp", "192.0.2.1"), "no route"),
    ]:
        with _refused(Unreachable, str(address), says):
            nvme.connect(address, tcp_target.nqn, OPTIONS, timeout=_BOUND)


@pytest.mark.ci
def test_what_takes_too_long_is_given_up(rdma_address: str, tcp_target: Target) -> None:
    """The kernel itself would try for 78 s, and let nobody else connect meanwhile."""
    with _refused(TimedOut, NOBODY_THERE, "no end within 6 s"):
        nvme.connect(Address("rdma", NOBODY_THERE), tcp_target.nqn, OPTIONS, timeout=6)
    assert nvme.connect(_address(tcp_target), tcp_target.nqn, OPTIONS, timeout=_BOUND).state == "live"


@pytest.mark.ci
def test_another_protocol(tcp_target: Target) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("tcp", "127.0.0.1", str(server.getsockname()[1]))

        def greet() -> None:
            with server.accept()[0] as client:
                client.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n" * 20)
                client.recv(1 << 16)

        threading.Thread(target=greet, daemon=True).start()
        with _refused(Unreachable, "does not speak NVMe over TCP"):
            nvme.connect(address, tcp_target.nqn, OPTIONS, timeout=_BOUND)
        with _refused(TimedOut, "no end within 1 s"):  # it listens, and says nothing
            nvme.connect(address, tcp_target.nqn, OPTIONS, timeout=1)


@pytest.mark.ci
def test_a_namespace_that_is_not_there(nvmet: Nvmet, drives: list[Path]) -> None:
    discard(drives[0])
    target = nvmet.port("tcp", "127.0.0.1").expose(nvmet.subsystem("nqn.2026-11.test.kvfs:two", drives[:2]))
    with _refused(NamespaceVanished, "expected namespace 3, found 1, 2"):
        nvme.connect(_address(target), target.nqn, OPTIONS, nsids=[1, 3])
    assert [each.nsid for each in nvme.connect(_address(target), target.nqn, OPTIONS).namespaces] == [1, 2]
    target.subsystem.namespaces[1].disable()
    wait_for(lambda: len(nvme.list_controllers()[-1].namespaces) == 1, "the namespace to vanish here as well")
    with _refused(NamespaceVanished, "expected namespace 2, found 1"):
        nvme.connect(_address(target), target.nqn, OPTIONS, nsids=[2])
    with pytest.raises(NamespaceVanished):
        nvme.identify_namespace(Path("/dev/nvme99n1"))


def _key_file(place: Path, key: str) -> Path:
    place.write_text(key)
    place.chmod(0o600)
    return place


@pytest.mark.parametrize("transport", ["tcp", pytest.param("rdma", marks=pytest.mark.ci)])
def test_keys(nvmet: Nvmet, drives: list[Path], rdma_address: str, tmp_path: Path, transport: str) -> None:
    own, wrong, controllers_own = (
        nvme_cli("gen-dhchap-key", "-m", mode, "-n", ME.nqn).strip() for mode in ("1", "1", "0")
    )
    keyed = Host(ME.nqn, ME.identifier, key=own, controller_key=controllers_own)
    subsystem = nvmet.subsystem("nqn.2026-11.test.kvfs:keyed", drives[:1], allowed_hosts=[keyed])
    target = nvmet.port(transport, rdma_address if transport == "rdma" else "127.0.0.1").expose(subsystem)
    key, other, both = (tmp_path / name for name in ("key", "other", "both"))

    def connect(*files: Path) -> nvme.Controller:
        names = dict(zip(("dhchap_secret_file", "dhchap_ctrl_secret_file"), files, strict=False))
        return nvme.connect(_address(target), target.nqn, msgspec.structs.replace(OPTIONS, **names))

    with _refused(AuthenticationFailed, "none was given"):
        connect()
    _key_file(key, own)
    # over RDMA, and for a wrong key of the controller's, Linux 6.18's target leaves the host without the last word:
    # then for two minutes this kernel connects nothing at all
    if transport == "tcp":
        with _refused(AuthenticationFailed, "was rejected", str(other)):
            connect(_key_file(other, wrong))
    with _refused(AuthenticationFailed, "checksum"):
        connect(_key_file(other, own[:12] + ("A" if own[12] != "A" else "B") + own[13:]))
    assert connect(key, _key_file(both, controllers_own)).state == "live"
    nvme.disconnect(target.nqn)
    assert connect(key).state == "live"


def test_a_key_is_seen_by_no_other_process(nvmet: Nvmet, drives: list[Path], tmp_path: Path) -> None:
    """While a connect is under way, to somebody who listens and says nothing: no argument, no environment has it."""
    key = nvme_cli("gen-dhchap-key", "-m", "0", "-n", ME.nqn).strip()
    options = msgspec.structs.replace(OPTIONS, dhchap_secret_file=_key_file(tmp_path / "key", key))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("tcp", "127.0.0.1", str(server.getsockname()[1]))
        ended: list[BaseException] = []

        def connect() -> None:
            try:
                nvme.connect(address, "nqn.2026-11.test.kvfs:any", options, timeout=_BOUND)
            except FabricError as error:
                ended.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        server.settimeout(_BOUND)
        with server.accept()[0]:  # the kernel is in the middle of it; that this ends ends it
            seen = []
            for place in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone, or the kernel's own
                    seen += [(place / name).read_bytes() for name in ("cmdline", "environ")]
        thread.join()
    assert any(b"worker.py" in text for text in seen)
    assert not any(key.encode() in text for text in seen)
    assert ended


def test_tls_without_its_daemon(tcp_target: Target) -> None:
    with _refused(AuthenticationFailed, "no TLS key", ".nvme"):
        nvme.connect(_address(tcp_target), tcp_target.nqn, msgspec.structs.replace(OPTIONS, tls=True))


@pytest.mark.parametrize("moment", ["connecting", "waiting"])
def test_who_asked_is_killed(tcp_target: Target, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """SIGKILL, while the kernel connects or while the namespaces are waited for: nothing is left connected."""

    def wait(*_: object) -> None:
        signal.pause()

    if moment == "connecting":
        monkeypatch.setattr(lease._Worker, "answer", wait)
    else:
        monkeypatch.setattr(connecting, "_wait_until_ready", wait)
    asker = Child(lambda: nvme.connect(_address(tcp_target), tcp_target.nqn, OPTIONS))
    wait_for(lambda: sysfs_controllers(tcp_target.nqn), "the kernel to connect", _BOUND)
    asker.kill()
    with pytest.raises(ChildError, match="killed by SIGKILL"):
        asker.result()
    wait_for(lambda: not sysfs_controllers(tcp_target.nqn), "what was on loan to be disconnected", _BOUND)


def test_identify(tcp_target: Target) -> None:
    made = nvme.connect(_address(tcp_target), tcp_target.nqn, OPTIONS)
    namespace = made.namespaces[0]
    by_controller = nvme.identify_controller(Path("/dev", made.name))
    assert by_controller == nvme.identify_controller(namespace.path)
    assert (by_controller.nqn, by_controller.cntlid) == (made.nqn, made.cntlid)
    assert (by_controller.serial, by_controller.model) == (made.serial, made.model)
    assert nvme.identify_namespace(namespace.path).size == namespace.size
    assert nvme.smart_log(namespace.path).critical_warning == 0
    assert by_controller.has_reservations
    assert nvme.reservation_report(namespace.path).type == 0
    nvme_cli("resv-register", str(namespace.path), "--nrkey=0xabc", "--rrega=0")
    nvme_cli("resv-acquire", str(namespace.path), "--crkey=0xabc", "--rtype=1", "--racqa=0")
    report = nvme.reservation_report(namespace.path)
    (holder,) = report.registrants
    assert (report.type, holder.key, holder.is_holder) == (1, 0xABC, True)
    assert holder.hostid == ME.identifier.replace("-", "")
    with pytest.raises(FabricError, match="sfx smart-log-add"):
        nvme.scaleflux_smart_log(namespace.path)  # Linux' target is no ScaleFlux drive


def _fabric(*words: str) -> str:
    return run_command("kvfsctl", "fabric", *words)


def test_commands(tcp_target: Target) -> None:
    who = f"hostnqn={ME.nqn},hostid={ME.identifier}"
    found = json.loads(_fabric("discover", "tcp://127.0.0.1:4420", "-o", who, "--json"))
    assert [each["nqn"] for each in found] == [DISCOVERY_NQN, tcp_target.nqn]
    made = json.loads(_fabric("connect", tcp_target.url, "-o", who, "--json"))
    assert made["connected_here"]
    (device,) = [each["path"] for each in made["namespaces"]]
    again = _fabric("connect", f"{tcp_target.url}?nsid=1", "-o", who)
    assert f"{made['name']}: was connected already: {tcp_target.nqn}" in again
    assert device in _fabric("list")
    (status,) = json.loads(_fabric("status", "--json"))
    assert status["name"] == made["name"]
    assert made["name"] in _fabric("status", tcp_target.nqn)

    with open(device, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a store does
        with pytest.raises(CommandError, match=r"one in use, and no other path to it.*--force"):
            _fabric("disconnect", tcp_target.nqn)
    assert json.loads(_fabric("disconnect", tcp_target.nqn, "--json")) == {"disconnected": [made["name"]]}
    assert not _is_connected_to_anything()
    with pytest.raises(CommandError, match="not connected; see what is"):
        _fabric("disconnect", tcp_target.nqn)
