"""A store of 10,000 segments after a crash: what recovery reads, counted, and how long it takes, printed (``-s``)."""

import json
import subprocess
from pathlib import Path

import pytest
from support.native import ENVIRONMENT, build_program

PATIENCE = 300  # s
BLOCK = 4096
OWNER_RECORD = 64 * 1024 + BLOCK  # with both superblocks at the front; read before recovery and after it


@pytest.fixture(scope="session")
def drill() -> Path:
    return build_program("recovery_drill")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["files", "pool"])
@pytest.mark.parametrize("segments", [1_000, pytest.param(10_000, marks=pytest.mark.ci)])
def test_recovery_reads_the_metadata_once(drill: Path, tmp_path: Path, what: str, segments: int) -> None:
    """The pages are not on the device at all (see the drill): whoever read one would find zeros."""
    store = tmp_path / "store.kvfs"
    # beside the segments: superblocks at the front, and one at the end
    command = [drill, what, str(segments + 2), "1", store]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)
    store.unlink(missing_ok=True)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    print(f"\n{what}: {result.stdout.strip()}")
    assert found["segments"] == segments
    assert found["segments_used"] > 0.85 * segments
    # once through the checkpoint and the log, whatever lies in how many segments, and the superblocks; then a block of
    # each segment, in search of a log that goes on where it seems to end; and who owns the store
    assert found["read_bytes"] <= found["metadata_bytes"] + segments * BLOCK + (1 << 20) + 2 * OWNER_RECORD
    assert found["reads"] <= 4 * found["segments_metadata"] + segments + 8
