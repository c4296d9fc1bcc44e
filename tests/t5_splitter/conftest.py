"""Fixtures of the splitter's tests: a wire, whose store has to pass fsck when the test is done."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from client import check_clean, make_volume
from wire import Wire


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    volume = make_volume(tmp_path / "store.kvfs")
    with closing(Wire(volume)) as opened:
        yield opened
    check_clean(volume)
