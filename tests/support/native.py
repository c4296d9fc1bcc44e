"""Programs of ``native/tests``, built where the native part that is loaded was built."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kvfs import _native

ROOT = Path(__file__).parents[2]

# a sanitizer's runtime is for the program, not for the tools that build it; and the program has its own
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
}


def build_program(target: str) -> Path:
    """The program of that name, up to date; skips the test where the native part was not built in this checkout."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    places = [Path(_native.__file__ or "").parent, *sorted(ROOT.glob(f"build/{tag}-*"))]
    built = next((place for place in places if (place / "build.ninja").exists()), None)
    if built is None:
        pytest.skip(f"the native part was not built in {ROOT / 'build'}: set it up with tools/quickstart --setup")
    command = ["cmake", "--build", os.fspath(built), "--target", target]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return built / target
