"""The systemd notification protocol (sd_notify(3)): one datagram to the socket that the environment names."""

import os
import socket


def notify(state: str) -> None:
    """Send ``state`` (``READY=1``, ``STATUS=...``) to systemd; nothing where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(state.encode())
