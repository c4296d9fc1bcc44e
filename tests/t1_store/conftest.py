"""Fixtures of the native store's tests: an empty 32 MiB volume with 1 MiB segments, and a client on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import Client, check_clean, make_volume, opened_volume


@pytest.fixture
def scale() -> int:
    """How many times the usual length the seeded tests run."""
    return int(os.environ.get("KVFS_TEST_SCALE", "1"))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_volume(tmp_path / "store.kvfs")


@pytest.fixture
def client(volume: Path) -> Iterator[Client]:
    """When the test is done the volume is closed in order and has to pass fsck."""
    with opened_volume(volume) as opened:
        yield opened
    check_clean(volume)
