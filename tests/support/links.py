"""Links between the target and the host that can be cut, on a machine that is both.

TCP: a pair of veth devices, the target's end in a network namespace of its own; otherwise packets between two addresses
of one machine take no link at all. RDMA: the kernel's target listens in the first network namespace only, but soft-RoCE
takes its device's word for the link (``support.rdma``).
"""

import subprocess
from dataclasses import dataclass

from support import rdma
from support.rdma import ip

_NAMESPACE = "kvfs-target"


@dataclass(frozen=True)
class Link:
    """``address``: the target's. ``namespace``: where it listens, empty for the first one."""

    transport: str
    address: str
    namespace: str
    device: str

    def cut(self) -> None:
        self._set("down")

    def restore(self) -> None:
        self._set("up")

    def _set(self, state: str) -> None:
        ip(*(("-n", self.namespace) if self.namespace else ()), "link", "set", self.device, state)


def link(transport: str) -> Link:
    """The link of that transport, made when it is not there."""
    if transport == "rdma":
        return Link(transport, rdma.make_device(), "", rdma.LINK)
    if _NAMESPACE not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout:
        ip("netns", "add", _NAMESPACE)
        ip("link", "add", "tcp0", "type", "veth", "peer", "name", "tcp1", "netns", _NAMESPACE)
        ip("addr", "add", "10.78.0.2/24", "dev", "tcp0")
        ip("link", "set", "tcp0", "up")
        ip("-n", _NAMESPACE, "addr", "add", "10.78.0.1/24", "dev", "tcp1")
        ip("-n", _NAMESPACE, "link", "set", "tcp1", "up")
    return Link(transport, "10.78.0.1", _NAMESPACE, "tcp1")
