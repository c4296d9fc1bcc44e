"""The rig itself: what the other tests of this layer stand on is there, over both transports."""

import os
from pathlib import Path

import pytest
from support.direct import aligned, direct_read
from support.mount import wait_for
from support.nvme_host import block_devices, connect, controllers
from support.nvmet import Target, host

pytestmark = pytest.mark.guest


def test_drives(drives: list[Path]) -> None:
    assert sorted(map(str, drives)) == [f"/dev/nvme{number}n1" for number in range(4)]


def test_what_is_written_to_a_namespace_is_on_its_drive(target: Target, drives: list[Path]) -> None:
    device = connect(target)
    assert device not in drives
    data = os.urandom(1 << 20)
    for path, flags in ((device, os.O_WRONLY), (drives[0], os.O_RDONLY)):
        fd = os.open(path, flags | os.O_DIRECT)
        try:
            if path == device:
                assert os.pwrite(fd, aligned(data), 1 << 20) == len(data)
            else:
                assert direct_read(fd, len(data), 1 << 20) == data
        finally:
            os.close(fd)


def test_two_hosts(two_hosts: None, tcp_target: Target) -> None:
    """What one of them writes the other reads, and each is a device of its own."""
    for name in ("first", "second"):
        connect(tcp_target, "duplicate_connect", identity=host(name))
    devices = wait_for(lambda: found if len(found := block_devices(tcp_target.nqn)) == 2 else None, "two devices")
    data = os.urandom(4096)
    writer, reader = (os.open(device, os.O_RDWR | os.O_DIRECT) for device in devices)
    try:
        os.pwrite(writer, aligned(data), 0)
        assert direct_read(reader, len(data), 0) == data
    finally:
        os.close(writer)
        os.close(reader)


def test_nothing_is_left_connected(tcp_target: Target) -> None:
    assert controllers(tcp_target.nqn) == []


def test_paths_are_one_device_again() -> None:
    """After the test before."""
    assert Path("/sys/module/nvme_core/parameters/multipath").read_text().strip() == "Y"
