"""Both data paths decide about rights: the kernel does most of it, what is left each of them does by itself."""

from collections.abc import Iterator

import pytest
from support.mount import TestMount, checked_mount


@pytest.fixture(scope="module", params=["native", "pyfuse3"])
def kvfs_mount(request: pytest.FixtureRequest) -> Iterator[TestMount]:
    with checked_mount(size="256M", options=("--data-path", request.param)) as mount:
        yield mount
