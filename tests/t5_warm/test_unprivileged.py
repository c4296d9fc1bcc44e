"""Without privileges there is no tmpfs of one's own and no passthrough: memfds then, and otherwise the same."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import MIB, make_volume
from place import Place
from support.process import NOBODY

pytestmark = pytest.mark.root

_SCRIPT = """
import json, os, sys
from client import BLOCK, MIB, ROOT, Client
from kvfs._native import WarmTier
from pathlib import Path
from support.direct import direct_read
from warming import noise, staged

client = Client(Path(sys.argv[1]))
tier = WarmTier(client.store, 16 * MIB)
data = noise("page", 3 * MIB + 5)
ino = client.create(ROOT, b"page", data)
page = staged(tier, ino)
assert bytes(page) == data
assert tier.opened(ino) is None
fd = os.open(f"/proc/self/fd/{page.fd}", os.O_RDONLY | os.O_DIRECT)
assert direct_read(fd, 2 * BLOCK, MIB) == data[MIB : MIB + 2 * BLOCK]
print(json.dumps(tier.statistics()))
tier.close()
client.close()
"""


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    shutil.rmtree(place.root)


def test_memfds(place: Place) -> None:
    """In a program of its own: native threads and a fork do not go together."""
    make_volume(place.store, 64 * MIB)
    os.chown(place.store, NOBODY, NOBODY)
    tests = Path(__file__).parents[1]
    helpers = os.pathsep.join(map(str, (tests, tests / "t1_store", tests / "t5_warm")))
    done = place.run(sys.executable, "-c", _SCRIPT, place.store, nobody=True, environment={"PYTHONPATH": helpers})
    assert (done.status, done.error) == (0, "")
    statistics = json.loads(done.output)
    assert statistics["memory"] == "memfd"
    assert statistics["pages"] == 1
    assert statistics["passthrough"] == 0
