"""Fixtures of the warm tier's tests: a store of 64 MiB, and tiers on it that are closed before it."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from client import MIB, Client, make_volume, opened_volume
from warming import MakeTier

from kvfs._native import WarmTier


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with opened_volume(make_volume(tmp_path / "store.kvfs", 64 * MIB)) as opened:
        yield opened


@pytest.fixture
def make_tier(client: Client) -> Iterator[MakeTier]:
    """``make_tier(budget=..., **options)``."""
    with ExitStack() as tiers:

        def make(budget: int = 32 * MIB, **options: Any) -> WarmTier:
            tier = WarmTier(client.store, budget, **options)
            return tiers.enter_context(closing(tier))

        yield make


@pytest.fixture
def tier(make_tier: MakeTier) -> WarmTier:
    return make_tier()
