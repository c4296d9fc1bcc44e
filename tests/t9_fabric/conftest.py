"""Tests against the kernel's NVMe target. Those marked ``guest`` run in a virtual machine: see
``support.guest_session``.

``tools/test tests/t9_fabric -k NAME`` runs them from here; inside a guest pytest runs them itself:
``tools/guest --drives 4x512M -- .venv/bin/python -m pytest tests/t9_fabric -m guest -k NAME``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import guest_session, rdma
from support.nvmet import SERVICE, Nvmet, Target, discard, disconnect_all, nvme_drives, reload_modules

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))  # guestlib lies beside its command

NQN = "nqn.2026-11.test.kvfs:store"
_CONFIG: list[pytest.Config] = []


def pytest_configure(config: pytest.Config) -> None:
    _CONFIG.append(config)


def pytest_itemcollected(item: pytest.Item) -> None:
    # outside, a test's turn is as long as the guest makes it; tools/guest ends one that hangs
    if item.get_closest_marker("guest") and not guest_session.is_inside():
        item.add_marker(pytest.mark.timeout(0))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if guest_session.is_inside() or item.get_closest_marker("guest") is None:
        return None
    guest_session.run_outside(item)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if guest_session.is_inside():
        guest_session.write_report(_CONFIG[0], report)


@pytest.fixture
def drives() -> list[Path]:
    """The guest's own NVMe drives, always in the same order, under whatever names.

    On them is what the test before left.
    """
    return nvme_drives()


@pytest.fixture(scope="session")
def rdma_address() -> str:
    """Of a soft-RoCE device."""
    return rdma.make_device()


@pytest.fixture
def two_hosts() -> Iterator[None]:
    """Without multipath, so that two connections to a namespace, of two host identities, are two devices.

    To be asked for before ``drives`` and targets, which it gives other names.
    """
    reload_modules(multipath=False)
    yield
    disconnect_all()
    Nvmet().clear()
    reload_modules(multipath=True)


@pytest.fixture
def nvmet(drives: list[Path]) -> Iterator[Nvmet]:
    """An NVMe target with nothing in it; afterwards no connection to it is left."""
    with Nvmet() as target:
        yield target
        disconnect_all()


@pytest.fixture
def tcp_target(nvmet: Nvmet, drives: list[Path]) -> Target:
    """The first drive, empty, as namespace 1 of subsystem ``NQN`` over TCP, with reservations."""
    return _target(nvmet, drives, "tcp", "127.0.0.1")


@pytest.fixture
def rdma_target(nvmet: Nvmet, drives: list[Path], rdma_address: str) -> Target:
    """The same over RDMA."""
    return _target(nvmet, drives, "rdma", rdma_address)


@pytest.fixture(params=["tcp", "rdma"])
def target(request: pytest.FixtureRequest) -> Target:
    """One after the other."""
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


def _target(nvmet: Nvmet, drives: list[Path], transport: str, address: str) -> Target:
    discard(drives[0])
    return nvmet.port(transport, address, SERVICE).expose(nvmet.subsystem(NQN, drives[:1], resv=True))
