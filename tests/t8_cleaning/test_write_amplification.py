"""What comes back of a store's space, and at what price: bytes sent to the device per byte that clients wrote.

``native/tests/cleaning_drill.cpp`` does the work on the real store, with every byte read back at the end and the
volume checked. What is asserted are counts; stalls depend on the machine and are printed (``-s``), ``tools/bench
--cleaning`` measures them through a mount.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.native import ENVIRONMENT, ROOT, build_program

TRACE = ROOT.parent / "shared" / "traces" / "mooncake_conversation_trace.jsonl"
PATIENCE = 400  # s
BLOCK_TOKENS = 512


@pytest.fixture(scope="session")
def drill() -> Path:
    return build_program("cleaning_drill")


def run(drill: Path, what: str, store: Path, **options: int | str) -> dict[str, Any]:
    command = [drill, what, *(f"{name}={value}" for name, value in options.items()), store]
    try:
        result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)
    finally:
        store.unlink(missing_ok=True)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    print(f"\n{what} {options}: {result.stdout.strip()}")
    return found


@pytest.fixture(scope="session")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conversation trace as the drill reads it: bytes of the last, partial block, then the blocks' ids."""
    if not TRACE.exists():
        pytest.skip(f"NOT TESTED: expected the conversation trace in ../shared/traces, found no {TRACE.name}")
    path = tmp_path_factory.mktemp("trace") / "requests"
    with TRACE.open() as lines, path.open("w") as out:
        for line in lines:
            request = json.loads(line)
            last = request["input_length"] % BLOCK_TOKENS or BLOCK_TOKENS
            out.write(f"{last * PAGE_KIB * 1024 // BLOCK_TOKENS} {' '.join(map(str, request['hash_ids']))}\n")
    return path


PAGE_KIB = 64  # what a block of 512 tokens is scaled down to; of an 8B model it has 64 MiB


@pytest.mark.parametrize("evict", ["lru", "random"])
@pytest.mark.parametrize("most", [pytest.param(1_000, id="part"), pytest.param(12_031, id="all", marks=pytest.mark.ci)])
def test_conversation_trace_at_90_percent(drill: Path, requests: Path, tmp_path: Path, evict: str, most: int) -> None:
    """Whoever evicts: in the order of use, where neighbours die together, and at random, where nothing does."""
    found = run(
        drill, "trace", tmp_path / "store.kvfs",
        requests=os.fspath(requests), most=most, evict=evict, page=PAGE_KIB, size=512, segment=4, fill=90,
    )  # fmt: skip
    assert found["fill_percent"] > 85
    assert found["write_amplification"] <= 1.25


@pytest.mark.parametrize(("fill", "page"), [(60, 64), (90, 64), (90, 1024), (90, 2048), (97, 256)])
def test_overwriting_pages_of_a_pool_at_random(drill: Path, tmp_path: Path, fill: int, page: int) -> None:
    found = run(drill, "pool", tmp_path / "store.kvfs", size=384, segment=4, fill=fill, page=page, turns=4)
    assert found["write_amplification"] <= 1.6
    assert found["fill_percent"] > fill - 3


def test_overwriting_single_blocks(drill: Path, tmp_path: Path) -> None:
    """Gaps do not help where less dies at a time than a checksum covers: what is live is moved."""
    found = run(drill, "pool", tmp_path / "store.kvfs", size=128, segment=1, fill=50, page=4, turns=2)
    assert found["moved_bytes"] > 0
    assert found["write_amplification"] <= 4


def test_killed_at_any_moment(drill: Path, tmp_path: Path) -> None:
    """What lies in a gap was written over something that a crash must not bring back."""
    found = run(drill, "crash", tmp_path / "store.kvfs", size=64, segment=1, fill=90, page=64, rounds=12)
    assert found["rounds"] == 12
