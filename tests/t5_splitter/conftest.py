"""Fixtures of the splitter's tests: wires, and mounts by ring.

The kernel's parameter for rings is on while a mount is made, and then as it was before.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from client import check_clean, make_volume
from rings import Parameter
from support.mount import KvfsMount, close_test_mount, make_test_mount
from wire import Wire


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """The store has to pass fsck when the test is done."""
    volume = make_volume(tmp_path / "store.kvfs")
    with closing(Wire(volume)) as opened:
        yield opened
    check_clean(volume)


@pytest.fixture(scope="module")
def parameter() -> Parameter:
    return Parameter()


@pytest.fixture(scope="module")
def ring_mount(parameter: Parameter) -> Iterator[KvfsMount]:
    """A mount whose requests come by ring; passes fsck in the end."""
    with parameter.on():
        mount = make_test_mount(options=("--request-loop", "uring"))
    assert isinstance(mount, KvfsMount)
    try:
        yield mount
        mount.umount()
        assert mount.take_log_problems() == []
        mount.fsck()
    finally:
        close_test_mount(mount)
