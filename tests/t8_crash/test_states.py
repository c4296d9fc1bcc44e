"""Every crash state keeps the promises: ``native/tests/crash_main.cpp`` records, builds states and recovers them.

``crash_states`` stands in the native part's build directory; by hand, with other seeds and more states, it is called as
the head of that file says.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from support.native import ENVIRONMENT, build_program

WORKLOADS = ("pages", "pool", "names", "reuse", "cleaning", "eviction", "checkpoint", "recovery")
PATIENCE = 600  # s


@pytest.fixture(scope="session")
def program() -> Path:
    return build_program("crash_states")


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("states", [100, pytest.param(2300, marks=pytest.mark.ci)])
def test_every_state_keeps_the_promises(program: Path, tmp_path: Path, states: int) -> None:
    result = run(program, tmp_path, "--states", str(states))
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    checked = dict(re.findall(r"^(\w+) +(\d+) states", result.stdout, re.M))
    assert tuple(checked) == WORKLOADS, result.stdout
    # prefixes and random subsets of each; the workload with many names costs the most, so it has fewer
    least = dict.fromkeys(WORKLOADS, states) | {"checkpoint": states * 4 // 5}
    assert all(int(checked[name]) >= least[name] for name in WORKLOADS), result.stdout
    assert states < 2000 or sum(map(int, checked.values())) >= 20_000, result.stdout


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("plant", ["no-flush", "no-data-flush", "no-last-flush"])
def test_a_lie_is_found_and_shown_small(program: Path, tmp_path: Path, plant: str) -> None:
    """Flushes that are answered and do nothing: all of them, those before a frame of the log, or those after it."""
    result = run(program, tmp_path, "--workload", "pages", "--states", "600", "--plant", plant)
    assert (result.returncode, result.stderr) == (1, ""), result.stdout
    again = re.search(r"^Again: crash_states (.+)$", result.stdout, re.M)
    assert "VIOLATION in workload pages" in result.stdout
    assert again, result.stdout
    repeated = run(program, *shlex.split(again[1]))
    assert repeated.returncode == 1, f"the case that was found:\n{result.stdout}\nthe same again:\n{repeated.stdout}"
    honest = run(program, *shlex.split(again[1].removesuffix(f" --plant {plant}")))
    assert honest.returncode == 0, honest.stdout


@pytest.mark.timeout(PATIENCE)
def test_space_of_an_evicted_page_that_is_used_again_too_early_is_found(program: Path, tmp_path: Path) -> None:
    """The log's last frame is not yet durable when what it frees is written again: then old pages have wrong bytes."""
    plant = ("--plant", "early-reuse")
    result = run(program, tmp_path, "--workload", "eviction", "--states", "400", *plant)
    assert (result.returncode, result.stderr) == (1, ""), result.stdout
    found = re.findall(r"^VIOLATION in workload eviction-\d, seed 1: (.+)$", result.stdout, re.M)
    bytes_or_segments = ("checksum", "generation", "read at", "dropped", "nobody ever published")
    assert found, result.stdout
    assert all(any(word in line for word in bytes_or_segments) for line in found), result.stdout
    again = re.search(r"^Again: crash_states (.+) --plant early-reuse$", result.stdout, re.M)
    assert again, result.stdout
    assert run(program, *shlex.split(again[1]), *plant).returncode == 1
    honest = run(program, *shlex.split(again[1]))
    assert honest.returncode == 0, honest.stdout


def test_what_is_wrong_with_a_call_is_said_in_one_line(program: Path, tmp_path: Path) -> None:
    for arguments in ([], [tmp_path, "--seed"], [tmp_path, "--workload", "x"], [tmp_path, "--plant", "x"]):
        result = run(program, *arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
