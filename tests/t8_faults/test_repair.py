"""``kvfsctl fsck --repair`` of a store whose device cannot read one page: that is left, and the exit status says so.

The device is a file in another kvfs mount, of which one range is made to fail.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import BLOCK, MIB, ROOT, make_volume, opened_volume
from support.mount import KvfsMount, clean_mount, run_command

from kvfs.cli.admin import ask

pytestmark = [pytest.mark.kvfs_only, pytest.mark.expects_log(r"a read from the device failed")]

PAGES = {b"page %d" % i: os.urandom(100_000) for i in range(4)}


@pytest.fixture
def device() -> Iterator[KvfsMount]:
    with clean_mount("256M", ("--inject-faults", "--warm-size", "0")) as mount:
        yield mount


def fsck(store: Path, *options: str, status: int) -> str:
    command = [Path(sys.executable).parent / "kvfsctl", "fsck", *options, store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, ""), done
    return done.stdout


def test_what_cannot_be_read_is_left_and_comes_back(device: KvfsMount, tmp_path: Path) -> None:
    made = make_volume(tmp_path / "store.kvfs", 32 * MIB, MIB)
    with opened_volume(made) as client:
        for name, data in PAGES.items():
            client.create(ROOT, name, data)
    store = device / "store.kvfs"
    store.write_bytes(made.read_bytes())
    run_command("kvfsctl", "sync", device)
    at = device.store.read_bytes().index(PAGES[b"page 2"][:BLOCK])
    ask(device.path, "fault-add", kinds=["read"], effect="error", offset=at, end=at + BLOCK)
    assert "io at /page 2" in fsck(store, status=1)
    output = fsck(store, "--repair", status=4)
    left = [line for line in output.splitlines() if line.startswith("left: ")]
    assert any("io at /page 2 block 0: cannot be read" in line for line in left), output
    assert len(set(left)) == len(left)
    report = json.loads(fsck(store, "--repair", "--json", status=4))
    assert (report["files_dropped"], report["after"]["clean"]) == (0, False)
    ask(device.path, "fault-clear")
    assert fsck(store, status=0).endswith("clean\n")
    with opened_volume(store) as client:
        assert {name: client.content(ROOT, name) for name in PAGES} == PAGES
