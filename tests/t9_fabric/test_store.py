"""A store on a namespace: what a store in a file promises, and the same store by any way to its drive."""

import os
from pathlib import Path

import pytest
from support.device_mount import DeviceMount, device_mount
from support.nvme_host import connect
from support.nvmet import SERVICE, Nvmet, Target, discard, disconnect_all
from support.pages import make_page, page_version
from support.tree import listing

pytestmark = pytest.mark.guest
NQN = "nqn.2026-11.test.kvfs:store"
SIZES = (4096, 57_344, 1 << 20, (2 << 20) + 77)


def write_pages(mount: DeviceMount, version: int, count: int = 12) -> list[str]:
    """As engines do: a temporary name, one write, fsync, rename. Names of what was written, all of it durable."""
    directory = mount / "pages"
    directory.mkdir(exist_ok=True)
    names = [f"page-{number}" for number in range(count)]
    for number, name in enumerate(names):
        with open(directory / f"{name}.tmp", "wb", buffering=0) as file:
            file.write(make_page(name, version, SIZES[number % len(SIZES)]))
            os.fsync(file.fileno())
        os.rename(directory / f"{name}.tmp", directory / name)
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return names


def versions(mount: DeviceMount) -> dict[str, int]:
    """Of all pages, every byte verified."""
    return {path.name: page_version(path.name, path.read_bytes()) for path in (mount / "pages").iterdir()}


def test_life(target: Target) -> None:
    """Format, mount, write, read, overwrite, kill, remount."""
    with device_mount(connect(target), "--warm-size", "0") as mount:
        names = write_pages(mount, 1)
        assert versions(mount) == dict.fromkeys(names, 1)
        mount.remount(drop_caches=True)
        assert versions(mount) == dict.fromkeys(names, 1)
        write_pages(mount, 2)
        mount.kill9()
        assert versions(mount) == dict.fromkeys(names, 2)


def test_one_store_by_every_way(nvmet: Nvmet, drives: list[Path], rdma_address: str) -> None:
    """Written over TCP, read over RDMA and on the drive itself, changed on each, byte for byte."""
    discard(drives[0])
    subsystem = nvmet.subsystem(NQN, drives[:1])
    ways = [
        nvmet.port("tcp", "127.0.0.1", SERVICE).expose(subsystem),
        nvmet.port("rdma", rdma_address).expose(subsystem),
    ]
    with device_mount(connect(ways[0])) as mount:
        names = write_pages(mount, 1)
        before = listing(mount)
        mount.umount()
        disconnect_all()
        mount.device = connect(ways[1])
        mount.mount()
        assert listing(mount) == before
        write_pages(mount, 2)
        before = listing(mount)
        mount.umount()
        disconnect_all()
        mount.device = drives[0]
        mount.mount()
        assert listing(mount) == before
        assert versions(mount) == dict.fromkeys(names, 2)
        mount.umount()
        mount.device = connect(ways[0])
        mount.mount()
        assert listing(mount) == before
