"""RDMA by verbs: the devices of this host, and one-sided READ and WRITE between registered memory of two hosts.

with Adapter() as adapter, adapter.endpoint() as endpoint:
    pages = adapter.register(buffer, remote_read=True)
    (theirs, *_) = await endpoint.connect(stream, [pages])
    await endpoint.write(pages, theirs, 1 << 20, remote_offset=4096)
"""

from kvfs.fabric.verbs.adapter import Adapter, AdapterStatistics
from kvfs.fabric.verbs.backend import Backend, Limits, Odp, choose_backend
from kvfs.fabric.verbs.devices import Device, Gid, Port, choose_gid, list_devices
from kvfs.fabric.verbs.endpoint import Endpoint, EndpointStatistics
from kvfs.fabric.verbs.memory import Region, RemoteRegion
from kvfs.fabric.verbs.transfers import Transfer

__all__ = [
    "Adapter",
    "AdapterStatistics",
    "Backend",
    "Device",
    "Endpoint",
    "EndpointStatistics",
    "Gid",
    "Limits",
    "Odp",
    "Port",
    "Region",
    "RemoteRegion",
    "Transfer",
    "choose_backend",
    "choose_gid",
    "list_devices",
]
