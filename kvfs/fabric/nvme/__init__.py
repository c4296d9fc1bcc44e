"""NVMe over fabrics on this host: discover, connect, disconnect, list, identify.

Everything here blocks, ends within a time limit, and raises one class of ``kvfs.errors.FabricError`` a cause.
"""

from kvfs.fabric.nvme.connecting import connect, disconnect
from kvfs.fabric.nvme.discovery import discover
from kvfs.fabric.nvme.identify import (
    ControllerIdentity,
    NamespaceIdentity,
    Registrant,
    ReservationReport,
    SmartLog,
    identify_controller,
    identify_namespace,
    reservation_report,
    scaleflux_smart_log,
    smart_log,
)
from kvfs.fabric.nvme.sysfs import list_controllers, list_namespaces
from kvfs.fabric.nvme.types import (
    DEFAULT_PORTS,
    DISCOVERY_NQN,
    Address,
    ConnectOptions,
    Controller,
    DiscoveryEntry,
    Namespace,
    Transport,
)

__all__ = [
    "DEFAULT_PORTS",
    "DISCOVERY_NQN",
    "Address",
    "ConnectOptions",
    "Controller",
    "ControllerIdentity",
    "DiscoveryEntry",
    "Namespace",
    "NamespaceIdentity",
    "Registrant",
    "ReservationReport",
    "SmartLog",
    "Transport",
    "connect",
    "disconnect",
    "discover",
    "identify_controller",
    "identify_namespace",
    "list_controllers",
    "list_namespaces",
    "reservation_report",
    "scaleflux_smart_log",
    "smart_log",
]
