"""The kernel's NVMe target for tests, through configfs: subsystems with namespaces, ports, and who may connect.

Only where tests run in a guest (``tools/guest``): a target is the machine's, and this takes it over. Paths and
attributes as in the kernel's drivers/nvme/target/configfs.c; written with plain files, because that is what is tested
against, and what a target does when half of it is taken away is what some tests are about.
"""

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from support.mount import wait_for

ROOT = Path("/sys/kernel/config/nvmet")
MODULES = Path("/run/guest/modules")
SERVICE = "4420"  # the port number that is NVMe-oF's
_NAMES = uuid.UUID("6c2b2a3e-6d0b-4d0e-9d65-0a1b2c3d4e5f")


@dataclass(frozen=True)
class Host:
    """Who connects. Keys as ``nvme gen-dhchap-key`` prints them, empty for none."""

    nqn: str
    identifier: str
    key: str = ""
    controller_key: str = ""


def host(name: str, key: str = "", controller_key: str = "") -> Host:
    """The same host for the same name, in every run."""
    identifier = str(uuid.uuid5(_NAMES, name))
    return Host(f"nqn.2014-08.org.nvmexpress:uuid:{identifier}", identifier, key, controller_key)


@dataclass(frozen=True)
class Target:
    """Where a test connects to."""

    nqn: str
    transport: str
    traddr: str
    trsvcid: str
    subsystem: "Subsystem"
    port: "Port"

    @property
    def url(self) -> str:
        return f"nvme+{self.transport}://{self.traddr}:{self.trsvcid}/{self.nqn}"


class Namespace:
    """One namespace of a subsystem; ``enable`` and ``disable`` are what a target's operator does."""

    def __init__(self, place: Path, device: Path, resv: bool) -> None:
        self.place = place
        self.device = device
        place.mkdir()
        (place / "device_path").write_text(str(device))
        # the same namespace on every run: nvmet would make up another identity each time
        (place / "device_uuid").write_text(str(uuid.uuid5(_NAMES, f"{place.parent.parent.name} {place.name}")))
        if resv:
            (place / "resv_enable").write_text("1")
        self.enable()

    def enable(self) -> None:
        (self.place / "enable").write_text("1")

    def disable(self) -> None:
        (self.place / "enable").write_text("0")


class Subsystem:
    """``namespaces[0]`` has nsid 1."""

    def __init__(self, nqn: str, devices: Sequence[Path], hosts: Sequence[Host] | None, resv: bool) -> None:
        self.nqn = nqn
        self.place = ROOT / "subsystems" / nqn
        self.place.mkdir()
        (self.place / "attr_allow_any_host").write_text("0" if hosts is not None else "1")
        for each in hosts or ():
            self.allow(each)
        self.namespaces = [
            Namespace(self.place / "namespaces" / str(number), device, resv) for number, device in enumerate(devices, 1)
        ]

    def allow(self, host: Host) -> None:
        place = ROOT / "hosts" / host.nqn
        place.mkdir(exist_ok=True)
        if host.key:
            (place / "dhchap_key").write_text(host.key)
        if host.controller_key:
            (place / "dhchap_ctrl_key").write_text(host.controller_key)
        (self.place / "allowed_hosts" / host.nqn).symlink_to(place)

    def refuse(self, host: Host) -> None:
        """Also ends the connections that it has."""
        (self.place / "allowed_hosts" / host.nqn).unlink()


class Port:
    """An address of the target. ``expose`` and ``withdraw`` subsystems; the last one withdrawn closes the port.

    ``namespace``: the network namespace in which it listens, empty for the first one.
    """

    def __init__(self, place: Path, transport: str, traddr: str, trsvcid: str, namespace: str) -> None:
        self._namespace = namespace
        self.place = place
        self.transport, self.traddr, self.trsvcid = transport, traddr, trsvcid
        place.mkdir()
        attributes = {
            "addr_trtype": transport,
            "addr_adrfam": "ipv6" if ":" in traddr else "ipv4",
            "addr_traddr": traddr,
            "addr_trsvcid": trsvcid,
        }
        for name, value in attributes.items():
            (place / name).write_text(value)

    def expose(self, subsystem: Subsystem) -> Target:
        # the target listens where the process is that makes the link
        where = ["nsenter", f"--net=/run/netns/{self._namespace}"] if self._namespace else []
        subprocess.run([*where, "ln", "-s", subsystem.place, self.place / "subsystems" / subsystem.nqn], check=True)
        return Target(subsystem.nqn, self.transport, self.traddr, self.trsvcid, subsystem, self)

    def withdraw(self, subsystem: Subsystem) -> None:
        (self.place / "subsystems" / subsystem.nqn).unlink()


class Nvmet:
    """The target as a context manager: what was set up in it is gone in the end, whatever a test did to it."""

    def __enter__(self) -> Self:
        self.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def subsystem(
        self,
        nqn: str,
        devices: Sequence[Path],
        *,
        allowed_hosts: Sequence[Host] | None = None,
        resv: bool = False,
    ) -> Subsystem:
        """``devices``: one namespace each, nsid 1 and on. ``allowed_hosts``: None for any. ``resv``: with
        reservations.
        """
        return Subsystem(nqn, devices, allowed_hosts, resv)

    def port(self, transport: str, traddr: str, trsvcid: str = SERVICE, namespace: str = "") -> Port:
        number = 1 + max((int(place.name) for place in (ROOT / "ports").iterdir()), default=0)
        return Port(ROOT / "ports" / str(number), transport, traddr, trsvcid, namespace)

    def clear(self) -> None:
        """Bottom up: configfs removes nothing that something refers to."""
        for link in [*ROOT.glob("ports/*/subsystems/*"), *ROOT.glob("subsystems/*/allowed_hosts/*")]:
            link.unlink()
        for place in ROOT.glob("ports/*"):
            place.rmdir()
        for place in ROOT.glob("subsystems/*/namespaces/*"):
            (place / "enable").write_text("0")
            place.rmdir()
        for place in [*ROOT.glob("subsystems/*"), *ROOT.glob("hosts/*")]:
            place.rmdir()


def nvme_drives() -> list[Path]:
    """The machine's own drives, in order of their serial numbers: names are given as they are found."""
    found = []
    for place in Path("/sys/class/nvme").iterdir():
        if (place / "transport").read_text().strip() == "pcie":
            devices = [Path("/dev", namespace.name) for namespace in place.glob("nvme*n1")]
            found += [((place / "serial").read_text(), path) for path in devices if path.is_block_device()]
    return [path for _, path in sorted(found)]


def discard(device: Path) -> None:
    """All of it: the next test finds zeroes."""
    subprocess.run([shutil.which("blkdiscard") or "/usr/sbin/blkdiscard", "-f", device], check=True)


def disconnect_all() -> None:
    """Every fabric connection that this machine has as a host."""
    for place in sorted(Path("/sys/class/nvme").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # one that went away by itself
            if (place / "transport").read_text().strip() != "pcie":
                (place / "delete_controller").write_text("1")


def reload_modules(*, multipath: bool) -> None:
    """Take the kernel's NVMe drivers out and load them anew, which decides whether paths to a namespace are one device.

    Nothing may be set up in the target or connected. The drives come back, perhaps under other names.
    """
    names = [name for name in (MODULES / "rest").read_text().split() if name.startswith("nvme")]
    count = len(nvme_drives())
    for name in reversed(names):
        subprocess.run(["busybox", "rmmod", name], check=True)
    for name in names:
        options = [f"multipath={'Y' if multipath else 'N'}"] if name == "nvme_core" else []
        subprocess.run(["busybox", "insmod", MODULES / f"{name}.ko", *options], check=True)
    wait_for(lambda: len(nvme_drives()) == count, f"{count} drives, as before")
