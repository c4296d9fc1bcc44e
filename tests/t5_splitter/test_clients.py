"""Clients that are killed or interrupted in the middle of requests."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.expect import opened, pattern, read_file, write_all, write_file
from support.mount import KvfsMount, TestMount, data_path, wait_for
from support.process import all_at_once

KILLER = Path(__file__).with_name("killer.py")
MIB = 1 << 20
STEP = 4 * MIB  # B of memory that may come and go

pytestmark = [pytest.mark.kvfs_only, pytest.mark.skipif(data_path() != "native", reason="tests of the splitter")]


def statistics(mount: TestMount) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((mount / ".kvfs/stats").read_text())["components"]
    return found


def interrupts(mount: TestMount) -> int:
    return int(statistics(mount)["splitter"]["requests_total"].get("interrupt", 0))


def is_quiet(mount: TestMount) -> bool:
    """Nothing but the request for these very figures."""
    now = statistics(mount)["splitter"]
    return now["loop"]["in_hand"] <= 1 and now["relay_waiting"] <= 1 and now["open_files"] == 0


def anonymous_bytes(pid: int) -> int:
    """Resident, and not of warm pages, which are files."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10


def descriptors(mount: KvfsMount) -> int:
    """But for those of warm pages, one each, which come and go with their files."""
    return len(os.listdir(f"/proc/{mount.pid}/fd")) - int(statistics(mount)["warm"]["pages"])


@pytest.mark.memory
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [600, pytest.param(10_000, marks=pytest.mark.ci)])
def test_killed_clients_leave_nothing_behind(kvfs_mount: KvfsMount, tree: Path, kills: int) -> None:
    def kill(count: int, seed: int) -> tuple[int, int]:
        """Anonymous bytes and descriptors of the daemon after so many kills, all requests at their end."""
        half = str(count // 2)
        killers = [
            subprocess.Popen([sys.executable, KILLER, tree, half, str(seed + number)], stderr=subprocess.PIPE)
            for number in range(2)
        ]
        for killer in killers:
            _, said = killer.communicate(timeout=600)
            assert killer.returncode == 0, said.decode()
        wait_for(lambda: is_quiet(kvfs_mount), "no request in hand, no file open")
        return anonymous_bytes(kvfs_mount.pid), descriptors(kvfs_mount)

    # a third first: buffers and tables reach the size that the load needs
    memory, open_files = kill(kills // 3, 0)
    interrupted = interrupts(kvfs_mount)
    more_memory, more_open_files = kill(kills - kills // 3, 2)
    print(f"{memory / MIB:.1f} MiB and {open_files} descriptors, then {more_memory / MIB:.1f} and {more_open_files}")
    # the kernel says INTERRUPT when a client is killed whose request the daemon has
    assert interrupts(kvfs_mount) > interrupted
    assert statistics(kvfs_mount)["warm"]["passthrough_handles"] == 0
    assert more_open_files == open_files
    assert more_memory <= memory + STEP


def under_alarms(directory: Path, number: int) -> None:
    """A signal every millisecond: reads and writes are whole all the same. os.* repeats what ended with EINTR."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    draw = random.Random(number)
    for step in range(20):
        data = pattern(draw.choice((5000, MIB, 3 * MIB)), step)
        path = directory / f"w{number}-{step % 3}"
        write_file(path.with_suffix(".tmp"), data)
        os.rename(path.with_suffix(".tmp"), path)
        assert read_file(path) == data
        with opened(path) as fd:
            write_all(fd, b"end", len(data))
            os.fsync(fd)
        (directory / f"d{number}-{step}").mkdir()
        assert f"d{number}-{step}" in os.listdir(directory)
    signal.setitimer(signal.ITIMER_REAL, 0)


def test_interrupted_clients_read_and_write_whole_pages(kvfs_mount: KvfsMount, tree: Path) -> None:
    all_at_once([partial(under_alarms, tree, number) for number in range(4)], timeout=200)
    wait_for(lambda: is_quiet(kvfs_mount), "no request in hand, no file open")
