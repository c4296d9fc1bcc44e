"""Who this host is to a target: its NQN and its identifier, which have to stay the same from boot to boot.

Reservations and allowed-host lists go by them. In this order: what the caller gives; /etc/nvme/hostnqn and hostid, as
nvme-cli and the distributions keep them; derived from the machine: the DMI product UUID, as ``nvme gen-hostnqn`` does,
or where there is none, /etc/machine-id. The kernel wants one identifier to each NQN, so one given alone decides both.
"""

import uuid
from pathlib import Path

import msgspec

from kvfs.errors import FabricError

_UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:"
_OURS = uuid.UUID("6f2b6e59-3a42-5c06-8c0b-2f5d3a1f7c11")  # the name space of identifiers derived here; never changes


class Identity(msgspec.Struct, frozen=True):
    hostnqn: str
    hostid: str  # a UUID


def host_identity(hostnqn: str | None = None, hostid: str | None = None, root: Path = Path("/")) -> Identity:
    """Raises FabricError where one is malformed, or there is nothing to derive it from."""
    if hostid is not None:
        hostid = _checked_id(hostid)
    if hostnqn is not None:
        hostnqn = checked_nqn(hostnqn)
        return Identity(hostnqn, hostid or _id_of(hostnqn))
    if hostid is not None:
        return Identity(_UUID_NQN + hostid, hostid)
    kept_nqn, kept_id = _line(root / "etc/nvme/hostnqn"), _line(root / "etc/nvme/hostid")
    if kept_nqn:
        kept_nqn = checked_nqn(kept_nqn)
        return Identity(kept_nqn, _checked_id(kept_id) if kept_id else _id_of(kept_nqn))
    derived = _checked_id(kept_id) if kept_id else _machine(root)
    return Identity(_UUID_NQN + derived, derived)


def checked_nqn(nqn: str) -> str:
    """As the specification has it (NVMe Base 2.0, section 4.5): nqn.yyyy-mm.domain..., at most 223 bytes."""
    if not nqn.startswith("nqn.") or len(nqn.encode()) > 223 or not nqn.isprintable() or any(c in nqn for c in " ,"):
        raise FabricError(f"expected an NQN, found {nqn!r}", "write it as in nqn.2014-08.org.example:storage-1")
    return nqn


def _id_of(hostnqn: str) -> str:
    if hostnqn.startswith(_UUID_NQN):
        try:
            return str(uuid.UUID(hostnqn.removeprefix(_UUID_NQN)))
        except ValueError:
            pass
    return str(uuid.uuid5(_OURS, hostnqn))


def _checked_id(hostid: str) -> str:
    try:
        return str(uuid.UUID(hostid))
    except ValueError:
        raise FabricError(f"expected a host identifier, a UUID, found {hostid!r}", "`uuidgen` makes one") from None


def _machine(root: Path) -> str:
    product = _line(root / "sys/class/dmi/id/product_uuid")
    if product and product.strip("0-").lower() and product.strip("f-F"):
        return _checked_id(product)
    machine = _line(root / "etc/machine-id")
    if machine:
        return str(uuid.uuid5(_OURS, machine))
    raise FabricError(
        "this host has no NVMe identity: no /etc/nvme/hostnqn, no DMI product UUID, no /etc/machine-id",
        "make one: nvme gen-hostnqn > /etc/nvme/hostnqn",
    )


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
