"""The store's data plane under many native threads: ``native/tests/store_drill.cpp`` does the work, a scenario a test.

From Python every call starts on one thread; the splitter's come from several at once, out of buffers of their own.
"""

import subprocess
from pathlib import Path

import pytest
from support.native import ENVIRONMENT, build_program

PATIENCE = 300  # s


@pytest.fixture(scope="session")
def drill() -> Path:
    return build_program("store_drill")


@pytest.mark.parametrize(
    "scenario", ["allocations", "crash", "exhaustion", "model", "prefetch", "read-ahead", "writers"]
)
def test_many_threads(drill: Path, tmp_path: Path, scenario: str) -> None:
    command = [drill, scenario, tmp_path / "store.kvfs"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
