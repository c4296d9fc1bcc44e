"""The rig itself: what the other tests of this layer stand on is there, over both transports."""

import os
from pathlib import Path

import pytest
from support.direct import aligned, direct_read
from support.nvme_host import connect, controllers
from support.nvmet import Target

pytestmark = pytest.mark.guest


def test_drives(drives: list[Path]) -> None:
    assert [str(drive) for drive in drives] == [f"/dev/nvme{number}n1" for number in range(len(drives))]
    assert len(drives) == 4


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


def test_nothing_is_left_connected(tcp_target: Target) -> None:
    assert controllers(tcp_target.nqn) == []
