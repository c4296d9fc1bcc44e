"""What a discovery controller lists: its log page 70h, read over a connection that lasts as long as the reading.

Layout: NVMe over Fabrics 1.1, section 5.3, figures 27 to 29::

    header, 1,024 bytes:  GENCTR u64 | NUMREC u64 | RECFMT u16 | ...
    entry, 1,024 bytes:   0 TRTYPE | 1 ADRFAM | 2 SUBTYPE | 3 TREQ | 4 PORTID u16 | 6 CNTLID u16 | 8 ASQSZ u16 | ...
                          32 TRSVCID 32 bytes | 256 SUBNQN 256 bytes | 512 TRADDR 256 bytes | 768 TSAS (TCP: SECTYPE)

``nvme discover`` would take keys as arguments, and says why it failed in words that differ between versions; so the
connection is made as ``connect`` makes it, and the log read by pass-through. nvme-cli need not be there.
"""

import errno
import os
import struct
import time
from typing import Literal

import msgspec

from kvfs.errors import FabricError, TimedOut
from kvfs.fabric.nvme.admin import Sender, admin_command, read_log
from kvfs.fabric.nvme.bounded import resolved, within
from kvfs.fabric.nvme.connecting import prepare
from kvfs.fabric.nvme.fabrics import explain, options_line
from kvfs.fabric.nvme.host import Identity, host_identity
from kvfs.fabric.nvme.lease import Deadline, Refusal, make_controller
from kvfs.fabric.nvme.sysfs import HOST
from kvfs.fabric.nvme.types import DISCOVERY_NQN, Address, ConnectOptions, DiscoveryEntry, Transport

_PAGE = 0x70
_ENTRY = 1024  # bytes; of the header as well
_LOOK_AGAIN = 0.02  # s
_MOST = 16384  # entries that are taken for true
_PORTS = {"tcp": ("8009", "4420")}  # of discovery, when none is given; over RDMA it is 4420
_TRANSPORTS: dict[int, Transport] = {1: "rdma", 2: "fc", 3: "tcp", 254: "loop"}
_FAMILIES = {1: "ipv4", 2: "ipv6", 3: "ib", 4: "fc", 254: "loop"}
_SUBTYPES: dict[int, Literal["nvme", "referral", "discovery"]] = {1: "referral", 2: "nvme", 3: "discovery"}
_SECURE: dict[int, Literal["required", "not required", "not specified"]] = {1: "required", 2: "not required"}
_SECTYPES = {0: "none", 1: "tls", 2: "tls13"}


def discover(address: Address, options: ConnectOptions | None = None, *, timeout: float = 30.0) -> list[DiscoveryEntry]:
    """What the discovery service at ``address`` offers to this host, in its order. ``timeout``: s.

    Over TCP without a port: 8009, and where nobody listens there, 4420. Raises as ``connect``.
    """
    given = options or ConnectOptions()
    # what a controller without I/O queues has no use for
    options = msgspec.structs.replace(given, nr_io_queues=None, queue_size=None, ctrl_loss_tmo=None)
    deadline = Deadline(timeout)
    identity = host_identity(options.hostnqn, options.hostid)
    where = resolved(address, deadline)
    prepare(where, deadline)
    ports = _PORTS.get(where.transport, (where.port,)) if where.trsvcid is None else (where.trsvcid,)
    try:
        for port in ports[:-1]:
            try:
                return _discover(msgspec.structs.replace(where, trsvcid=port), options, identity, deadline)
            except Refusal as refusal:
                if refusal.errno != errno.ECONNREFUSED:
                    raise
        where = msgspec.structs.replace(where, trsvcid=ports[-1])
        return _discover(where, options, identity, deadline)
    except Refusal as refusal:
        given_by_name = msgspec.structs.replace(where, traddr=address.traddr)
        raise explain(refusal, given_by_name, DISCOVERY_NQN, options, identity) from None
    except TimedOut as error:
        raise TimedOut(f"{where}: {error.message}", "nothing was left connected; is the target up?") from None
    except (OSError, ValueError) as error:
        raise FabricError(
            f"{where}: the discovery log cannot be read: {error}", "the kernel log may say more"
        ) from None


def _discover(
    address: Address, options: ConnectOptions, identity: Identity, deadline: Deadline
) -> list[DiscoveryEntry]:
    with make_controller(options_line(address, DISCOVERY_NQN, options, identity), deadline) as lease:
        node = HOST.dev / lease.name
        while not node.exists():  # udev, or devtmpfs, makes it
            if deadline.is_over:
                raise TimedOut(f"{node}: not there within {deadline.seconds:g} s")
            time.sleep(_LOOK_AGAIN)
        return within(deadline, lambda: _read(os.fspath(node)))


def _read(node: str) -> list[DiscoveryEntry]:
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_discovery_log(admin_command(fd))
    finally:
        os.close(fd)


def read_discovery_log(send: Sender) -> list[DiscoveryEntry]:
    """Raises OSError, and ValueError for what is no discovery log."""
    while True:
        generation, count = _header(read_log(send, _PAGE, 0, _ENTRY))
        data = read_log(send, _PAGE, _ENTRY, count * _ENTRY) if count else b""
        if _header(read_log(send, _PAGE, 0, _ENTRY))[0] == generation:  # the entries are of one generation
            return parse_entries(data)


def parse_entries(data: bytes) -> list[DiscoveryEntry]:
    """Entries over transports that this host's kernel cannot have are left out."""
    entries = (_entry(data[at : at + _ENTRY]) for at in range(0, len(data) - _ENTRY + 1, _ENTRY))
    return [entry for entry in entries if entry is not None]


def _header(data: bytes) -> tuple[int, int]:
    generation, count, format_ = struct.unpack_from("<QQH", data)
    if format_ != 0 or count > _MOST:
        raise ValueError(f"expected format 0 and at most {_MOST} entries, found format {format_} and {count}")
    return generation, count


def _entry(data: bytes) -> DiscoveryEntry | None:
    kind, family, subtype, treq, port, controller, queue = struct.unpack_from("<BBBBHHH", data)
    if kind not in _TRANSPORTS or subtype not in _SUBTYPES:
        return None
    return DiscoveryEntry(
        address=Address(_TRANSPORTS[kind], _text(data[512:768]), _text(data[32:64]) or None),
        nqn=_text(data[256:512]),
        subtype=_SUBTYPES[subtype],
        adrfam=_FAMILIES.get(family, str(family)),
        port_id=port,
        controller_id=controller,
        admin_queue_size=queue,
        secure_channel=_SECURE.get(treq & 3, "not specified"),
        security=_SECTYPES.get(data[768], str(data[768])) if kind == 3 else "none",
    )


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace").strip()
