"""``--rounds N``: how often the daemon is killed, instead of twice, or 20 times in CI."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=None, help="times that the daemon is killed under load (2, CI: 20)")
