"""A hundred thousand small files: what they cost in memory, and that they come back. A million: tests/t4_scale."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from client import BLOCK, FILE, INO, MIB, ROOT, Client, check_clean, make_volume, opened_volume

COUNT = 100_000
BYTES_PER_FILE = 160  # DESIGN 4: with a 64-character name, of a million; tables that grow in steps may cost
STEP = 2 * MIB  # this much more where there are fewer, and what the eviction policy samples costs 1 MiB in any store
_RESIDENT = """
import sys
from kvfs import _native
store = _native.Store(sys.argv[1])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["RssAnon"].split()[0]) * 1024)
store.close()
"""


def page_name(number: int) -> bytes:
    return b"%064d" % number


def resident_bytes(path: Path) -> int:
    """Of a fresh process that has the volume open."""
    result = subprocess.run(
        [sys.executable, "-c", _RESIDENT, os.fspath(path)], capture_output=True, text=True, timeout=120, check=True
    )
    return int(result.stdout)


def fill(client: Client) -> None:
    block = bytearray(BLOCK)
    for number in range(COUNT):
        block[:8] = number.to_bytes(8, "little")
        ino = client.store.create(ROOT, page_name(number), FILE, 0, 0)[INO]
        client.store.open(ino, True)
        client.write(ino, 0, bytes(block))
        client.store.release(ino, True)
        client.store.forget(ino, 1)


@pytest.mark.slow
@pytest.mark.memory
def test_a_hundred_thousand_pages(tmp_path: Path) -> None:
    empty = make_volume(tmp_path / "empty.kvfs", 1024 * MIB, 4 * MIB)
    path = make_volume(tmp_path / "store.kvfs", 1024 * MIB, 4 * MIB)
    with opened_volume(path) as client:
        fill(client)
        assert client.store.statfs()["files"] - client.store.statfs()["files_free"] == COUNT + 1
        client.sync()
        crashed = tmp_path / "crashed.kvfs"
        subprocess.run(["cp", "--sparse=always", path, crashed], check=True, timeout=120)
    base = resident_bytes(empty)
    for volume in (path, crashed):  # from the checkpoint, and from the log
        used = resident_bytes(volume) - base
        assert used <= COUNT * BYTES_PER_FILE + STEP, f"{used / COUNT:.0f} B per file"
        assert check_clean(volume)["files"] == COUNT
    with opened_volume(path) as client:
        listed = client.names()
        assert len(listed) == COUNT
        assert set(listed) == {page_name(number) for number in range(COUNT)}
        for number in range(0, COUNT, 997):
            content = client.content(ROOT, page_name(number))
            assert content is not None
            assert content[:8] == number.to_bytes(8, "little")
        for number in range(COUNT):
            client.store.unlink(ROOT, page_name(number))
        assert client.names() == []
        client.sync()
        assert client.used_blocks() == 0
