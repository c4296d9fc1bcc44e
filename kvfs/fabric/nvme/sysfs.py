"""Controllers and namespaces as the kernel shows them below ``/sys``; nothing is asked of any device.

With native multipath a controller's directory has its paths (``nvme1c2n1``, hidden), and the head that is used
(``nvme1n1``) hangs below the subsystem; without it, and over PCIe, the controller's directory has the namespace itself.
What vanishes while it is looked at is left out: it is as gone as it will be a moment later.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast, get_args

from kvfs.fabric.nvme.types import Address, Controller, Namespace, Transport

_SECTOR = 512
_NO_UUID = "00000000-0000-0000-0000-000000000000"


class Host:
    """Where to look: this host, or for tests a directory that stands for its root."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.sys = root / "sys"
        self.dev = root / "dev"

    def controllers(self) -> list[Controller]:
        """By number. What is being made or torn down is among them, with its state."""
        found = (self.controller(name) for name in self.controller_names())
        return [each for each in found if each is not None]

    def controller_names(self) -> list[str]:
        names = (path.name for path in (self.sys / "class/nvme").glob("nvme*"))
        return sorted((name for name in names if re.fullmatch(r"nvme\d+", name)), key=lambda name: int(name[4:]))

    def controller(self, name: str) -> Controller | None:
        """``None``: there is none of that name."""
        directory = self.sys / "class/nvme" / name
        nqn, state, transport = (_read(directory / each) for each in ("subsysnqn", "state", "transport"))
        if nqn is None or state is None or transport not in get_args(Transport):
            return None
        return Controller(
            name=name,
            nqn=nqn,
            address=parse_address(cast(Transport, transport), _read(directory / "address") or ""),
            state=state,
            namespaces=tuple(sorted(self._namespaces_of(directory), key=lambda each: each.nsid)),
            hostnqn=_read(directory / "hostnqn"),
            hostid=_read(directory / "hostid"),
            cntlid=_number(_read(directory / "cntlid")),
            subsystem=self._subsystem_of(name),
            kind=_read(directory / "cntrltype") or "io",
            model=_read(directory / "model") or "",
            serial=_read(directory / "serial") or "",
            firmware=_read(directory / "firmware_rev") or "",
            queue_count=_number(_read(directory / "queue_count")),
            queue_size=_add(_number(_read(directory / "sqsize")), 1),  # sqsize is 0's based
            ctrl_loss_tmo=_seconds(_read(directory / "ctrl_loss_tmo")),
            fast_io_fail_tmo=_seconds(_read(directory / "fast_io_fail_tmo")),
            reconnect_delay=_seconds(_read(directory / "reconnect_delay")),
            keep_alive_tmo=_number(_read(directory / "kato")),
        )

    def namespaces(self) -> list[Namespace]:
        """Each once, however many paths lead to it; by controller or subsystem, then number."""
        found = {namespace.name: namespace for controller in self.controllers() for namespace in controller.namespaces}
        return sorted(found.values(), key=lambda each: [int(number) for number in re.findall(r"\d+", each.name)])

    def namespace(self, name: str) -> Namespace | None:
        """``None``: no block device of that name, not yet, or no longer; or one without its node in /dev."""
        block = self.sys / "class/block" / name
        nsid, sectors = _number(_read(block / "nsid")), _number(_read(block / "size"))
        if nsid is None or not sectors:
            return None
        path = self.dev / name
        generic = self.dev / re.sub(r"^nvme", "ng", name)
        wwid = _read(block / "wwid") or ""
        if not path.exists():
            return None
        return Namespace(
            name=name,
            nsid=nsid,
            path=path,
            generic_path=generic if generic.exists() else None,
            size=sectors * _SECTOR,
            lba_size=_number(_read(block / "queue/logical_block_size")) or _SECTOR,
            wwid=wwid,
            uuid=_unless(_read(block / "uuid"), _NO_UUID),
            nguid=_unless(_read(block / "nguid"), _NO_UUID),
            eui64=_eui64(_read(block / "eui")),
            by_id=self._by_id(wwid, path),
        )

    def _namespaces_of(self, directory: Path) -> Iterator[Namespace]:
        for path in _children(directory):
            if found := re.fullmatch(r"(nvme\d+)(?:c\d+)?(n\d+)", path.name):
                namespace = self.namespace(found[1] + found[2])
                if namespace is not None:
                    yield namespace

    def _subsystem_of(self, name: str) -> str | None:
        for subsystem in _children(self.sys / "class/nvme-subsystem"):
            if (subsystem / name).exists():
                return subsystem.name
        return None

    def _by_id(self, wwid: str, path: Path) -> Path | None:
        link = self.dev / "disk/by-id" / f"nvme-{wwid}"
        try:
            return link if wwid and link.resolve(strict=True) == path.resolve(strict=True) else None
        except OSError:
            return None


HOST = Host()


def list_controllers() -> list[Controller]:
    """Of this host, by number; over PCIe as well as over fabrics. Empty where the kernel has no NVMe."""
    return HOST.controllers()


def list_namespaces() -> list[Namespace]:
    """Of this host, each once, by name."""
    return HOST.namespaces()


def parse_address(transport: Transport, text: str) -> Address:
    """The kernel's ``traddr=10.0.0.1,trsvcid=4420,src_addr=10.0.0.2``; of PCIe the bus address alone."""
    if transport == "pcie":
        return Address("pcie", text)
    fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return Address(
        transport,
        fields.get("traddr", ""),
        fields.get("trsvcid"),
        host_traddr=fields.get("host_traddr"),
        host_iface=fields.get("host_iface"),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _seconds(text: str | None) -> int | None:
    """``off`` is -1."""
    return -1 if text == "off" else _number(text)


def _add(value: int | None, more: int) -> int | None:
    return None if value is None else value + more


def _unless(text: str | None, nothing: str) -> str | None:
    return None if not text or text == nothing else text


def _eui64(text: str | None) -> str | None:
    """The kernel's ``00 25 38 ...`` as sixteen digits."""
    digits = (text or "").replace(" ", "")
    return digits if digits.strip("0") else None
