"""RDMA by verbs: the devices of this host, and one-sided READ and WRITE between registered memory of two hosts."""

from kvfs.fabric.verbs.backend import Backend, Limits, Odp, choose_backend
from kvfs.fabric.verbs.devices import Device, Gid, Port, choose_gid, list_devices

__all__ = ["Backend", "Device", "Gid", "Limits", "Odp", "Port", "choose_backend", "choose_gid", "list_devices"]
