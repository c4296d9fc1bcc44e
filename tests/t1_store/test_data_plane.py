"""The store's data plane under many native threads: ``native/tests/store_drill.cpp`` does the work, a scenario a test.

From Python every call starts on one thread; the splitter's come from several at once, out of buffers of their own.
"""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # s


@pytest.fixture(scope="session")
def drill() -> Path:
    """The program, built where the native part was built (``KVFS_BUILD_DIR`` names another place)."""
    tag = f"cp{sysconfig.get_config_var('py_version_nodot')}"
    places = [Path(os.environ["KVFS_BUILD_DIR"])] if "KVFS_BUILD_DIR" in os.environ else []
    places += sorted(ROOT.glob(f"build/{tag}-*"))
    built = next((place for place in places if (place / "build.ninja").exists()), None)
    if built is None:
        pytest.skip(f"the native part was not built in {ROOT / 'build'}: set it up with tools/quickstart --setup")
    command = ["cmake", "--build", os.fspath(built), "--target", "store_drill"]
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": scripts}, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return built / "store_drill"


@pytest.mark.parametrize("scenario", ["allocations", "exhaustion", "prefetch", "read-ahead", "writers"])
def test_many_threads(drill: Path, tmp_path: Path, scenario: str) -> None:
    result = subprocess.run(
        [drill, scenario, tmp_path / "store.kvfs"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
