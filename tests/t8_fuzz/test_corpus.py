"""What the fuzzers have found so far, run once: each input that broke something once, and a few that get deep.

``tools/test --fuzz SECONDS`` looks for more (tools/lib/fuzz.sh).
"""

import os
import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from targets import TARGETS

from kvfs import _native

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
PATIENCE = 250  # s
RANDOM_INPUTS = 40

# a sanitizer's runtime is for the program, not for the tools that build it; and the program has its own
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_python(name: str) -> None:
    inputs = sorted((CORPUS / f"python-{name}").glob("*"))
    assert inputs, f"expected inputs for {name}, found none"
    for path in inputs:
        TARGETS[name](path.read_bytes())
    draw = random.Random(name)
    for _ in range(20 * RANDOM_INPUTS):
        TARGETS[name](draw.randbytes(draw.randrange(200)))


@pytest.fixture(scope="module")
def build() -> Path:
    """Where the native part that is loaded was built, with the targets as programs that run files."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    places = [Path(_native.__file__ or "").parent, *sorted(ROOT.glob(f"build/{tag}-*"))]
    built = next((place for place in places if (place / "build.ninja").exists()), None)
    if built is None:
        pytest.skip(f"the native part was not built in {ROOT / 'build'}: set it up with tools/quickstart --setup")
    command = ["cmake", "--build", os.fspath(built), "--target", "fuzzers"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return built


@pytest.mark.parametrize("target", ["format", "recovery", "splitter"])
def test_native(build: Path, tmp_path: Path, target: str) -> None:
    inputs = sorted((CORPUS / target).glob("*"))
    assert inputs, f"expected inputs for {target}, found none"
    draw = random.Random(target)
    for number in range(RANDOM_INPUTS):
        inputs.append(tmp_path / f"random-{number}")
        inputs[-1].write_bytes(draw.randbytes(draw.randrange(8, 600)))
    command = [build / f"fuzz_{target}", *inputs]
    result = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, errors="replace", check=False
    )
    last = result.stdout.splitlines()[-1:]
    assert (result.returncode, result.stderr) == (0, ""), f"at {last}: {result.stderr[-3000:]}"
