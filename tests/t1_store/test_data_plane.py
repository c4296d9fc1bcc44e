"""The store's data plane under many native threads: ``native/tests/store_drill.cpp`` does the work, a scenario a test.

From Python every call starts on one thread; the splitter's come from several at once, out of buffers of their own.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kvfs import _native

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # s


# a sanitizer's runtime is for the program, not for the tools that build it; and the program has its own
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
}


@pytest.fixture(scope="session")
def drill() -> Path:
    """The program, built where the native part that is loaded was built."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    places = [Path(_native.__file__ or "").parent, *sorted(ROOT.glob(f"build/{tag}-*"))]
    built = next((place for place in places if (place / "build.ninja").exists()), None)
    if built is None:
        pytest.skip(f"the native part was not built in {ROOT / 'build'}: set it up with tools/quickstart --setup")
    command = ["cmake", "--build", os.fspath(built), "--target", "store_drill"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return built / "store_drill"


@pytest.mark.parametrize(
    "scenario", ["allocations", "crash", "exhaustion", "model", "prefetch", "read-ahead", "writers"]
)
def test_many_threads(drill: Path, tmp_path: Path, scenario: str) -> None:
    command = [drill, scenario, tmp_path / "store.kvfs"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
