"""Without privileges there is no tmpfs of one's own and no passthrough: memfds then, and otherwise the same."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import BLOCK, MIB, ROOT, Client, make_volume
from support.direct import direct_read
from support.process import NOBODY, in_child
from warming import noise, staged

from kvfs._native import WarmTier

pytestmark = pytest.mark.root


@pytest.fixture
def volume() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="kvfs-warm-"))
    directory.chmod(0o755)
    volume = make_volume(directory / "store.kvfs")
    os.chown(volume, NOBODY, NOBODY)
    yield volume
    shutil.rmtree(directory)


def test_memfds(volume: Path) -> None:
    data = noise("page", 3 * MIB + 5)

    def as_nobody() -> dict[str, Any]:
        client = Client(volume)
        tier = WarmTier(client.store, 16 * MIB)
        ino = client.create(ROOT, b"page", data)
        page = staged(tier, ino)
        assert bytes(page) == data
        assert tier.opened(ino) is None
        fd = os.open(f"/proc/self/fd/{page.fd}", os.O_RDONLY | os.O_DIRECT)
        assert direct_read(fd, 2 * BLOCK, MIB) == data[MIB : MIB + 2 * BLOCK]
        os.close(fd)
        statistics = tier.statistics()
        tier.close()
        client.close()
        return statistics

    statistics = in_child(as_nobody, uid=NOBODY)
    assert statistics["memory"] == "memfd"
    assert statistics["pages"] == 1
    assert statistics["passthrough"] == 0
