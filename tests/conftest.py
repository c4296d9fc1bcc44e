"""Fixtures of every layer: a kvfs mount that is always cleared, a log that must stay quiet, a hang that ends.

``KVFS_TEST_DIR=/some/dir`` runs the file-system tests in a fresh sub-directory of that directory instead of a
mount. ``KVFS_TEST_SCALE=N`` makes the seeded tests N times as long.

A test that hangs inside the mount sits in a system call that pytest-timeout's signal cannot interrupt.
``_end_of_patience`` therefore kills the daemon a little after the time-out: the kernel then fails the call,
the signal is handled, and pytest-timeout's dump of all stacks and its failure follow.
"""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mount import TestMount, checked_mount, live_mounts

_AFTER_TIMEOUT = 5.0  # s


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kvfs_only: kvfs's own promise, skipped on a plain directory")
    config.addinivalue_line("markers", "expects_log(regex): warning lines that match are part of the test")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("NOT TESTED: needs root")
    if item.get_closest_marker("kvfs_only") and "KVFS_TEST_DIR" in os.environ:
        pytest.skip("kvfs's own promise; KVFS_TEST_DIR is set")


@pytest.fixture(scope="module")
def kvfs_mount() -> Iterator[TestMount]:
    """One mount per test module. When the module is done its store is unmounted and has to pass fsck."""
    with checked_mount() as mount:
        yield mount


@pytest.fixture
def tree(kvfs_mount: TestMount, request: pytest.FixtureRequest) -> Path:
    """A fresh, empty directory in the mount, named after the test."""
    kvfs_mount.ensure_alive()
    name = re.sub(r"[^\w.=-]+", "_", request.node.name)[:200]
    path = kvfs_mount / name
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    return path


@pytest.fixture
def workdir(kvfs_mount: TestMount, tree: Path) -> Iterator[Path]:
    """A directory in the mount that is removed when the test is done: clients leave hundreds of MB behind."""
    yield tree
    kvfs_mount.ensure_alive()
    shutil.rmtree(tree)


@pytest.fixture(autouse=True)
def _quiet_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test during which a daemon logged a warning or an error that the test does not expect."""
    yield
    expected = [str(marker.args[0]) for marker in request.node.iter_markers("expects_log")]
    unexpected = [
        line
        for mount in live_mounts
        for line in mount.take_log_problems()
        if not any(re.search(pattern, line) for pattern in expected)
    ]
    if unexpected:
        pytest.fail("unexpected lines in the daemon's log:\n" + "\n".join(unexpected), pytrace=False)


@pytest.fixture(autouse=True)
def _end_of_patience(request: pytest.FixtureRequest) -> Iterator[None]:
    marker = request.node.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker and marker.args else request.config.getini("timeout") or 300)
    timer = threading.Timer(limit + _AFTER_TIMEOUT, _abort_all)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


def _abort_all() -> None:
    for mount in live_mounts:
        mount.abort()
