"""``--rounds N``: how often the daemon is killed, instead of twice, or 20 times in CI."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=None, help="times that the daemon is killed under load (2, CI: 20)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rounds" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--rounds")
        metafunc.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.ci)] if asked is None else [asked])
