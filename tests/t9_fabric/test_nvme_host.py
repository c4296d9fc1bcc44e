"""What needs no NVMe in the kernel: options, keys, identities, and the kernel's refusals and sysfs as recorded.

Recorded on Linux 6.18.15 (Debian), TCP and RDMA (soft-RoCE), native multipath.
"""

import base64
import errno
import struct
import time
from pathlib import Path

import pytest

from kvfs.errors import (
    AuthenticationFailed,
    FabricError,
    FabricMissing,
    HostRefused,
    NotConnected,
    TimedOut,
    Unreachable,
    WrongNqn,
)
from kvfs.fabric.nvme import DISCOVERY_NQN, Address, ConnectOptions, connect, disconnect
from kvfs.fabric.nvme.bounded import resolved, within
from kvfs.fabric.nvme.discovery import parse_entries, read_discovery_log
from kvfs.fabric.nvme.fabrics import explain, options_line
from kvfs.fabric.nvme.host import Identity, host_identity
from kvfs.fabric.nvme.keys import find_keyring, read_dhchap_secret
from kvfs.fabric.nvme.lease import Deadline, Refusal
from kvfs.fabric.nvme.sysfs import Host
from kvfs.fabric.nvme.tls import read_tls_key

NQN = "nqn.2026-11.test:rec"
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
SELF = Identity(HOST_NQN, "11111111-2222-3333-4444-555555555555")
TCP = Address("tcp", "127.0.0.1", "4420")
# `nvme gen-dhchap-key -m 0`, nvme-cli 2.3
KEY = "DHHC-1:00:WG2qcpkuHqtGTYywkEHYbRv6cFISxEZ74LX4bcRMfyZgr5Hh:"


def _file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_options_line(tmp_path: Path) -> None:
    whole = ConnectOptions(
        nr_io_queues=2,
        queue_size=64,
        ctrl_loss_tmo=-1,
        fast_io_fail_tmo=5,
        reconnect_delay=2,
        keep_alive_tmo=7,
        hdr_digest=True,
        data_digest=True,
        tls=True,
        dhchap_secret_file=_file(tmp_path / "key", f"{KEY}\n"),
        dhchap_ctrl_secret_file=tmp_path / "key",
    )
    address = Address("tcp", "fe80::1", None, host_traddr="fe80::2", host_iface="eth0")
    assert options_line(address, NQN, whole, SELF) == (
        f"transport=tcp,traddr=fe80::1,trsvcid=4420,nqn={NQN},host_traddr=fe80::2,host_iface=eth0,hostnqn={HOST_NQN},"
        f"hostid={SELF.hostid},nr_io_queues=2,queue_size=64,ctrl_loss_tmo=-1,fast_io_fail_tmo=5,reconnect_delay=2,"
        f"keep_alive_tmo=7,dhchap_secret={KEY},dhchap_ctrl_secret={KEY},hdr_digest,data_digest,tls"
    )
    assert options_line(TCP, NQN, ConnectOptions(), SELF).endswith(f"hostid={SELF.hostid}")
    assert options_line(TCP, DISCOVERY_NQN, ConnectOptions(), SELF).endswith(",duplicate_connect")


@pytest.mark.parametrize(
    ("address", "options", "says"),
    [
        (TCP, ConnectOptions(nr_io_queues=0), "nr_io_queues of at least 1, found 0"),
        (TCP, ConnectOptions(ctrl_loss_tmo=-2), "ctrl_loss_tmo of at least -1, found -2"),
        (TCP, ConnectOptions(keyring=".nvme"), "expected tls"),
        (Address("rdma", "10.0.0.1"), ConnectOptions(data_digest=True), "over TCP only, found rdma"),
        (Address("tcp", "10.0.0.1,nr_io_queues=9"), ConnectOptions(), "traddr without commas"),
        (Address("tcp", "10.0.0.1\n"), ConnectOptions(), "traddr without commas and control"),
    ],
)
def test_options_that_cannot_be(address: Address, options: ConnectOptions, says: str) -> None:
    with pytest.raises(FabricError, match=says):
        options_line(address, NQN, options, SELF)


def _explained(code: int, *log: str, options: ConnectOptions | None = None, at_open: bool = False) -> FabricError:
    refusal = Refusal(code, log, at_open=at_open)
    return explain(refusal, TCP, NQN, options or ConnectOptions(), SELF)


def test_refusals() -> None:
    """Errno and kernel log as recorded; each a class of its own, one line, with the next step."""
    key = ConnectOptions(dhchap_secret_file=Path("/k"))
    tls = ConnectOptions(tls=True)
    wrong = f'nvme nvme3: Connect Invalid Data Parameter, subsysnqn "{NQN}"'
    refused = f"nvme nvme6: Connect for subsystem {NQN} is not allowed, hostnqn: {HOST_NQN}"
    cases = [
        (WrongNqn, "kvfsctl fabric discover", _explained(errno.EIO, wrong, "nvme nvme3: failed to connect queue: 0")),
        (HostRefused, f"allow its NQN there: {HOST_NQN}", _explained(errno.EIO, refused)),
        (Unreachable, "nobody listens", _explained(errno.ECONNREFUSED, "nvme nvme3: failed to connect socket: -111")),
        (Unreachable, "nobody listens", _explained(errno.ECONNRESET, "nvme nvme3: Connect rejected: status 8")),
        (Unreachable, "no answer", _explained(errno.ETIMEDOUT, "nvme nvme3: failed to connect socket: -110")),
        (Unreachable, "no route", _explained(errno.ENETUNREACH, "nvme nvme3: failed to connect socket: -101")),
        (Unreachable, "no RDMA device", _explained(errno.ENODEV, "nvme nvme3: rdma_resolve_route failed (-110).")),
        (Unreachable, "does not speak", _explained(errno.EINVAL, "nvme_tcp: queue 0: bad type returned 83")),
        (AuthenticationFailed, "none was given", _explained(errno.ENOKEY, "nvme nvme6: qid 0: no key")),
        (AuthenticationFailed, "the key was rejected", _explained(errno.EKEYREJECTED, options=key)),
        (AuthenticationFailed, "no TLS key", _explained(errno.ENOKEY, "nvme nvme1: no valid PSK found", options=tls)),
        (AuthenticationFailed, "tlshd", _explained(errno.ESRCH, "queue 0: failed to start TLS: -3", options=tls)),
        (FabricMissing, "modprobe", _explained(errno.ENOENT, at_open=True)),
        (FabricMissing, "as root", _explained(errno.EACCES, at_open=True)),
        (FabricError, "discover", _explained(errno.EIO)),  # a container without /dev/kmsg
        (FabricError, "invalid argument", _explained(errno.EINVAL, "nvme_fabrics: unknown parameter")),
    ]
    for kind, says, error in cases:
        assert type(error) is kind, error
        assert says in str(error), error
        assert "\n" not in str(error)
        assert error.hint, error


def test_another_connections_log_explains_nothing() -> None:
    error = _explained(errno.EIO, 'nvme nvme3: Connect Invalid Data Parameter, subsysnqn "nqn.2026-11.test:other"')
    assert type(error) is FabricError


def test_dhchap_keys(tmp_path: Path) -> None:
    assert read_dhchap_secret(_file(tmp_path / "key", f" {KEY}\n")) == KEY
    other = KEY.replace("WG2q", "XG2q")
    for text, mode, says in [
        (other, 0o600, "does not match its checksum"),
        (KEY[:-6] + ":", 0o600, "of 32 or 48 or 64 bytes, found"),
        (KEY.replace(":00:", ":02:"), 0o600, "of 48 bytes, found 32"),
        ("secretsecret", 0o600, "expected a key as DHHC-1"),
        ("x" * 5000, 0o600, "more than 4096 bytes"),
        (KEY, 0o604, "others may read"),
    ]:
        with pytest.raises(AuthenticationFailed, match=says) as raised:
            read_dhchap_secret(_file(tmp_path / "key", text, mode))
        assert text[-9:] not in str(raised.value).replace(str(tmp_path), "")
    with pytest.raises(AuthenticationFailed, match="no such file"):
        read_dhchap_secret(tmp_path / "absent")
    with pytest.raises(AuthenticationFailed, match="own key beside"):
        options_line(TCP, NQN, ConnectOptions(dhchap_ctrl_secret_file=tmp_path / "key"), SELF)


def test_tls_keys(tmp_path: Path) -> None:
    key = bytes(range(32))
    encoded = base64.b64encode(key + struct.pack("<I", 0x91267E8A)).decode()  # CRC-32 of it
    configured = f"NVMeTLSkey-1:01:{encoded}:"
    identity = f"NVMe1R01 {HOST_NQN} {NQN} dGVzdA=="
    assert read_tls_key(_file(tmp_path / "key", f"{identity} {configured}\n"), HOST_NQN, NQN) == (identity, key)
    for text, says in [
        (configured, "found a configured PSK without one"),
        (f"NVMe1R01 {HOST_NQN} nqn.2026-11.test:other d {configured}", "found that of .* for nqn.2026-11.test:other"),
        (f"{identity} NVMeTLSkey-1:01:{encoded[:-4]}AAAA:", "does not match"),
        ("", "found something else"),
    ]:
        with pytest.raises(AuthenticationFailed, match=says) as raised:
            read_tls_key(_file(tmp_path / "key", text), HOST_NQN, NQN)
        assert encoded not in str(raised.value)


def test_keyrings(tmp_path: Path) -> None:
    listing = _file(
        tmp_path / "keys",
        "08cdb2c5 I------     3 perm 1f1f0000     0     0 keyring   .nvme: 1\n"
        "2107c79d I--Q---     1 perm 3b010000     0     0 psk       .nvme: 32\n",
    )
    assert find_keyring(".nvme", listing) == 0x08CDB2C5
    assert find_keyring("123", listing) == 123
    with pytest.raises(AuthenticationFailed, match=r"no keyring \.other"):
        find_keyring(".other", listing)


def test_host_identity(tmp_path: Path) -> None:
    assert host_identity(HOST_NQN) == SELF
    assert host_identity(None, SELF.hostid) == SELF
    named = host_identity("nqn.2026-11.test:me", root=tmp_path)
    assert named == host_identity("nqn.2026-11.test:me", root=tmp_path)
    assert named != host_identity("nqn.2026-11.test:you", root=tmp_path)
    with pytest.raises(FabricError, match="this host has no NVMe identity"):
        host_identity(root=tmp_path)
    (tmp_path / "etc/nvme").mkdir(parents=True)
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    derived = host_identity(root=tmp_path)
    assert derived.hostnqn.endswith(derived.hostid)
    assert derived == host_identity(root=tmp_path)
    (tmp_path / "etc/nvme/hostnqn").write_text(f"{HOST_NQN}\n")
    assert host_identity(root=tmp_path) == SELF
    (tmp_path / "etc/nvme/hostid").write_text("aaaaaaaa-2222-3333-4444-555555555555\n")
    assert host_identity(root=tmp_path).hostid.startswith("aaaaaaaa")
    for nqn, hostid in (("me", None), ("nqn.a b", None), ("nqn." + "x" * 220, None), (None, "me")):
        with pytest.raises(FabricError, match="expected"):
            host_identity(nqn, hostid, tmp_path)


def _recorded_host(root: Path) -> Host:
    """nvme0: a drive; nvme1: over TCP, with multipath; nvme2: a discovery controller whose path is lost."""
    drive = {"address": "0000:00:05.0", "cntlid": "0", "cntrltype": "io", "firmware_rev": "7.2.22", "kato": "0"}
    drive |= {"model": "QEMU NVMe Ctrl                          ", "queue_count": "3", "serial": "qemu0   "}
    drive |= {"sqsize": "1023", "state": "live", "subsysnqn": "nqn.2019-08.org.qemu:qemu0", "transport": "pcie"}
    tcp = {"address": "traddr=127.0.0.1,trsvcid=4420,src_addr=127.0.0.1", "cntlid": "1", "cntrltype": "io"}
    tcp |= {"ctrl_loss_tmo": "600", "fast_io_fail_tmo": "off", "hostid": SELF.hostid, "hostnqn": HOST_NQN, "kato": "5"}
    tcp |= {"queue_count": "3", "reconnect_delay": "10", "sqsize": "127", "state": "live", "subsysnqn": NQN}
    tcp |= {"transport": "tcp", "model": "Linux", "serial": "31bda7049ad2311d3cdb", "firmware_rev": "6.18.15+"}
    lost = tcp | {"cntrltype": "discovery", "subsysnqn": DISCOVERY_NQN, "state": "connecting"}
    for name, files in {"nvme0": drive, "nvme1": tcp, "nvme2": lost, "nvme3": {}}.items():
        place = root / "sys/class/nvme" / name
        place.mkdir(parents=True)
        for file, text in files.items():
            (place / file).write_text(f"{text}\n")
    (root / "dev/disk/by-id").mkdir(parents=True)
    uuid = "a964505d-d6df-4b7c-9a5d-f937e6580a62"
    namespace = {"nsid": "1", "size": "131072", "uuid": uuid, "wwid": f"uuid.{uuid}"}
    for name, directory, files in [
        ("nvme0n1", "nvme0/nvme0n1", {"nsid": "1", "size": "131072", "wwid": "nvme.1b36-00000001", "eui": "00 " * 8}),
        ("nvme1n1", "nvme1/nvme1c1n1", namespace),
    ]:
        (root / "sys/class/nvme" / directory).mkdir()
        block = root / "sys/class/block" / name
        (block / "queue").mkdir(parents=True)
        (block / "queue/logical_block_size").write_text("512\n")
        for file, text in files.items():
            (block / file).write_text(f"{text}\n")
        (root / "dev" / name).touch()
    (root / "dev/ng1n1").touch()
    (root / f"dev/disk/by-id/nvme-uuid.{uuid}").symlink_to("../../nvme1n1")
    (root / "sys/class/nvme-subsystem/nvme-subsys7/nvme1").mkdir(parents=True)
    return Host(root)


def test_sysfs(tmp_path: Path) -> None:
    host = _recorded_host(tmp_path)
    drive, tcp, lost = host.controllers()  # nvme3 is going away: it has no files any more
    assert (drive.address, drive.model, drive.queue_size) == (Address("pcie", "0000:00:05.0"), "QEMU NVMe Ctrl", 1024)
    assert (tcp.address, tcp.subsystem, tcp.state, tcp.cntlid) == (TCP, "nvme-subsys7", "live", 1)
    assert (tcp.ctrl_loss_tmo, tcp.fast_io_fail_tmo, tcp.reconnect_delay, tcp.keep_alive_tmo) == (600, -1, 10, 5)
    assert (lost.kind, lost.state, lost.namespaces) == ("discovery", "connecting", ())
    (namespace,) = tcp.namespaces
    assert namespace.path == tmp_path / "dev/nvme1n1"
    assert namespace.generic_path == tmp_path / "dev/ng1n1"
    assert (namespace.size, namespace.lba_size, namespace.nsid) == (64 << 20, 512, 1)
    assert namespace.by_id == tmp_path / "dev/disk/by-id" / f"nvme-{namespace.wwid}"
    assert [each.name for each in host.namespaces()] == ["nvme0n1", "nvme1n1"]
    assert host.namespaces()[0].eui64 is None
    (tmp_path / "sys/class/block/nvme1n1/size").write_text("0\n")  # being made, or its paths are lost for good
    assert [each.name for each in host.namespaces()] == ["nvme0n1"]
    assert Host(tmp_path / "absent").controllers() == []


def _entry(kind: int, subtype: int, nqn: str, traddr: str, port: str, *, treq: int = 0, sectype: int = 0) -> bytes:
    """Constructed from the layout in NVMe over Fabrics 1.1, figure 28."""
    head = struct.pack("<BBBBHHH", kind, 1, subtype, treq, 1, 0xFFFF, 32).ljust(32, b"\0")
    body = head + port.encode().ljust(32) + bytes(192) + nqn.encode().ljust(256, b"\0") + traddr.encode().ljust(256)
    return (body + bytes([sectype])).ljust(1024, b"\0")


def test_discovery_log() -> None:
    data = _entry(3, 2, NQN, "127.0.0.1", "4420", treq=1, sectype=2) + _entry(1, 1, DISCOVERY_NQN, "10.0.0.1", "4420")
    unknown = _entry(77, 2, NQN, "x", "y")
    first, second = parse_entries(data + unknown)
    assert (first.address, first.nqn, first.subtype, first.adrfam) == (TCP, NQN, "nvme", "ipv4")
    assert (first.secure_channel, first.security) == ("required", "tls13")
    assert (second.subtype, str(second.address)) == ("referral", "rdma://10.0.0.1:4420")


def test_discovery_log_that_changes_is_read_again() -> None:
    """The entries and the header are of one generation, however often it changes meanwhile."""
    logs = {1: [_entry(3, 2, NQN + "old", "a", "1")] * 2, 2: [_entry(3, 2, NQN, f"{n}", "1") for n in range(5)]}
    generation, sent = 1, 0

    def send(opcode: int, namespace: int, cdw10: int, cdw11: int, size: int, cdw12: int = 0, cdw13: int = 0) -> bytes:
        nonlocal generation, sent
        assert (opcode, cdw10 & 0xFF, size) == (2, 0x70, ((cdw10 >> 16) + 1) * 4)
        sent += 1
        if sent == 3:
            generation = 2
        entries = logs[generation]
        whole = struct.pack("<QQH", generation, len(entries), 0).ljust(1024, b"\0") + b"".join(entries)
        return whole[cdw12 : cdw12 + size].ljust(size, b"\0")

    assert [entry.address.traddr for entry in read_discovery_log(send)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("header", [struct.pack("<QQH", 1, 1 << 40, 0), struct.pack("<QQH", 1, 1, 7)])
def test_what_is_no_discovery_log(header: bytes) -> None:
    with pytest.raises(ValueError, match="expected format 0 and at most"):
        read_discovery_log(lambda *_: header.ljust(1024, b"\0"))


def test_names_are_resolved() -> None:
    assert resolved(Address("tcp", "localhost"), Deadline(30)).traddr in ("127.0.0.1", "::1")
    assert resolved(Address("tcp", "::1"), Deadline(0)).traddr == "::1"
    with pytest.raises(Unreachable, match=r"^x\.invalid: "):
        resolved(Address("tcp", "x.invalid"), Deadline(60))


def test_within_a_deadline() -> None:
    assert within(Deadline(60), lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(Deadline(60), lambda: 1 // 0)
    with pytest.raises(TimedOut, match=r"no end within 0\.05 s"):
        within(Deadline(0.05), lambda: time.sleep(2))


def test_a_kernel_without_fabrics() -> None:
    if Path("/dev/nvme-fabrics").exists():
        pytest.skip("this kernel has NVMe over fabrics")
    with pytest.raises(FabricMissing, match=r"no NVMe over fabrics \(/dev/nvme-fabrics\); load it: modprobe nvme-tcp"):
        connect(TCP, NQN, ConnectOptions(hostnqn=HOST_NQN))


def test_nothing_of_that_name_is_connected() -> None:
    with pytest.raises(NotConnected, match=r"^nvme4711: not connected"):
        disconnect("nvme4711")
