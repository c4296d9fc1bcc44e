"""What controllers and namespaces say of themselves, by nvme-cli: identify, SMART, reservations, ScaleFlux's logs.

The structs have what is used of it, in units of the specification (NVM Express Base 2.0, sections 5.16.1.3 and 5.17);
``raw`` is all that nvme-cli printed, by its names. All raise ToolMissing, TimedOut, NamespaceVanished and FabricError.
"""

from pathlib import Path
from typing import Any

import msgspec

from kvfs.errors import FabricError
from kvfs.fabric.nvme.nvme_cli import as_number, run_json

_SECONDS = 15.0  # that nvme-cli gets


class ControllerIdentity(msgspec.Struct, frozen=True):
    model: str
    serial: str
    firmware: str
    vendor: int  # PCI vendor, VID; 0 for Linux' own target
    nqn: str
    cntlid: int
    namespaces: int  # NN: the greatest number that a namespace may have
    max_transfer: int  # MDTS: as a power of two of the smallest memory page; 0: no limit
    has_reservations: bool  # ONCS bit 5
    keep_alive_granularity_ms: int  # KAS; 0: no keep-alive
    raw: dict[str, Any]


class NamespaceIdentity(msgspec.Struct, frozen=True):
    size: int  # bytes, as are the next two; NSZE
    capacity: int  # NCAP
    used: int  # NUSE
    lba_size: int  # bytes
    is_thin: bool  # NSFEAT bit 0
    reservations: int  # RESCAP: a bit for each type that is supported; 0: none
    nguid: str
    eui64: str
    raw: dict[str, Any]


class SmartLog(msgspec.Struct, frozen=True):
    critical_warning: int  # bits
    temperature_kelvin: int
    available_spare: int  # percent, as are the next two
    spare_threshold: int
    percentage_used: int
    data_units_read: int  # 1,000 times 512 bytes
    data_units_written: int
    media_errors: int
    unsafe_shutdowns: int
    power_on_hours: int
    raw: dict[str, Any]


class Registrant(msgspec.Struct, frozen=True):
    hostid: str  # hex digits, 32 (16 where the controller has no extended identifiers)
    key: int
    is_holder: bool
    cntlid: int  # 0xffff: not of this controller


class ReservationReport(msgspec.Struct, frozen=True):
    generation: int
    type: int  # RTYPE; 0: nobody holds one
    registrants: tuple[Registrant, ...]
    persists_through_power_loss: bool
    raw: dict[str, Any]


def identify_controller(path: Path) -> ControllerIdentity:
    """Of a controller or of any of its namespaces."""
    return parse_controller(run_json(["id-ctrl"], path, _SECONDS))


def identify_namespace(path: Path) -> NamespaceIdentity:
    return parse_namespace(run_json(["id-ns"], path, _SECONDS))


def smart_log(path: Path) -> SmartLog:
    return parse_smart_log(run_json(["smart-log"], path, _SECONDS))


def reservation_report(path: Path) -> ReservationReport:
    """Of a namespace. FabricError where it has no reservations."""
    return parse_reservations(run_json(["resv-report", "--eds"], path, _SECONDS))


def scaleflux_smart_log(path: Path) -> dict[str, Any]:
    """Log page CAh of a ScaleFlux drive, by nvme-cli's plug-in. Its capacity: ``kvfs.fabric.physical_scaleflux``."""
    found = run_json(["sfx", "smart-log-add"], path, _SECONDS, as_json=("--json",))
    if not isinstance(found, dict):
        raise FabricError(f"{path}: expected the log of a ScaleFlux drive, found {str(found)[:60]!r}")
    return found


def parse_controller(raw: Any) -> ControllerIdentity:
    """Of ``nvme id-ctrl -o json``. FabricError where that is something else, as for those below."""
    with _Fields("id-ctrl", raw) as fields:
        return ControllerIdentity(
            model=fields.text("mn"),
            serial=fields.text("sn"),
            firmware=fields.text("fr"),
            vendor=fields.number("vid"),
            nqn=fields.text("subnqn"),
            cntlid=fields.number("cntlid"),
            namespaces=fields.number("nn"),
            max_transfer=fields.number("mdts"),
            has_reservations=bool(fields.number("oncs") & 1 << 5),
            keep_alive_granularity_ms=fields.number("kas") * 100,
            raw=fields.raw,
        )


def parse_namespace(raw: Any) -> NamespaceIdentity:
    """Of ``nvme id-ns -o json``."""
    with _Fields("id-ns", raw) as fields:
        formatted = fields.number("flbas")
        formats = fields.raw["lbafs"]
        lba = 1 << as_number(formats[formatted & 0xF | (formatted >> 5 & 0x3) << 4]["ds"])
        return NamespaceIdentity(
            size=fields.number("nsze") * lba,
            capacity=fields.number("ncap") * lba,
            used=fields.number("nuse") * lba,
            lba_size=lba,
            is_thin=bool(fields.number("nsfeat") & 1),
            reservations=fields.number("rescap"),
            nguid=fields.text("nguid"),
            eui64=fields.text("eui64"),
            raw=fields.raw,
        )


def parse_smart_log(raw: Any) -> SmartLog:
    """Of ``nvme smart-log -o json``; ``critical_warning`` may be an object, with its ``value``, in later versions."""
    with _Fields("smart-log", raw) as fields:
        warning = fields.raw["critical_warning"]
        return SmartLog(
            critical_warning=as_number(warning["value"] if isinstance(warning, dict) else warning),
            temperature_kelvin=fields.number("temperature"),
            available_spare=fields.number("avail_spare"),
            spare_threshold=fields.number("spare_thresh"),
            percentage_used=fields.number("percent_used"),
            data_units_read=fields.number("data_units_read"),
            data_units_written=fields.number("data_units_written"),
            media_errors=fields.number("media_errors"),
            unsafe_shutdowns=fields.number("unsafe_shutdowns"),
            power_on_hours=fields.number("power_on_hours"),
            raw=fields.raw,
        )


def parse_reservations(raw: Any) -> ReservationReport:
    """Of ``nvme resv-report -o json``: registrants are in ``regctlext``, or ``regctls`` without --eds.

    Some versions after 2.3 have "Host ID" for ``hostid``.
    """
    with _Fields("resv-report", raw) as fields:
        listed: list[dict[str, Any]] = next((raw[name] for name in ("regctlext", "regctls") if name in raw), [])
        return ReservationReport(
            generation=fields.number("gen"),
            type=fields.number("rtype"),
            registrants=tuple(
                Registrant(
                    hostid=_hostid(each["hostid" if "hostid" in each else "Host ID"]),
                    key=as_number(each["rkey"]),
                    is_holder=bool(as_number(each["rcsts"]) & 1),
                    cntlid=as_number(each["cntlid"]),
                )
                for each in listed
            ),
            persists_through_power_loss=bool(fields.number("ptpls")),
            raw=fields.raw,
        )


def _hostid(value: Any) -> str:
    """Extended ones are hex digits already, others numbers."""
    return value.replace("-", "").lower() if isinstance(value, str) else f"{as_number(value):016x}"


class _Fields:
    """A decoded object of nvme-cli; what is missing or of another kind leaves the ``with`` as a FabricError."""

    def __init__(self, command: str, raw: Any) -> None:
        self._command = command
        if not isinstance(raw, dict):
            raise FabricError(f"nvme {command}: expected an object, found {str(raw)[:60]!r}")
        self.raw: dict[str, Any] = raw

    def __enter__(self) -> "_Fields":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | IndexError | TypeError | ValueError):
            raise FabricError(
                f"nvme {self._command}: found JSON that has no {error}", "needs nvme-cli 2.3 or later"
            ) from error

    def number(self, name: str) -> int:
        return as_number(self.raw[name])

    def text(self, name: str) -> str:
        return str(self.raw[name]).strip()
