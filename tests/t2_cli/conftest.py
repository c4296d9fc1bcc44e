"""The fixture that gives each test a :class:`Place`."""

from collections.abc import Iterator

import pytest
from place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    try:
        yield place
    finally:
        place.clear()
