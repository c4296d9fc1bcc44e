"""The command: what it refuses, and one short run that is checked from the outside."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"
_KVFS = Path(sys.executable).parent / "kvfs"


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_BENCH, *arguments], capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--only", "nothing"], "no row is called nothing; rows: cold-direct-2m"),
        (["--target", "xfs5"], "expected some of kvfs, raw, "),
        (["--data", "1M"], "expected one 32 MiB file per client, 128 MiB, found 1 MiB"),
        (["--store-size", "1G"], "expected three times --data, 3 GiB, or more, found 1 GiB"),
        (["--request", "1000"], "expected a multiple of 4 KiB"),
        (["--directory", "/nowhere"], "expected a directory"),
        (["--json", "/nowhere/file"], "no such directory"),
    ],
)
def test_bad_options_get_one_line_and_status_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = _bench("--kvfs", "/bin/false", "--directory", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mount_that_fails_is_said_and_cleared(tmp_path: Path) -> None:
    done = _bench("--quick", "--kvfs", "/bin/false", "--directory", str(tmp_path), "--only", "small-files")
    assert done.returncode == 1
    assert "/bin/false mount" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
@pytest.mark.skipif(not _KVFS.exists(), reason="NOT TESTED: needs the kvfs command")
def test_a_short_run(tmp_path: Path) -> None:
    small = ["--rounds", "2", "--data", "128M", "--store-size", "1G"]
    rows_chosen = ["--only", "cold-direct-2m", "--only", "write-32m", "--only", "lookup-*"]
    targets = ["--target", "kvfs", "--target", "raw"]
    done = _bench("--directory", str(tmp_path), "--json", "-", *small, *rows_chosen, *targets)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {row["name"]: row for row in result["rows"]}
    assert sorted(rows) == ["cold-direct-2m", "lookup-first", "lookup-repeated", "write-32m"]
    for name in ("cold-direct-2m", "write-32m"):
        kvfs, raw = rows[name]["targets"]["kvfs"], rows[name]["targets"]["raw"]
        ratio = kvfs["ratio_to_peer"]
        assert ratio["min"] <= ratio["median"] <= ratio["max"]
        assert ratio["min"] <= kvfs["rate"]["max"] / raw["rate"]["min"]
        assert raw["ratio_to_peer"] is None
        assert kvfs["latency_ns"]["p50"] > 0
        assert kvfs["daemon_cpu"]["max"] > 0
    assert rows["cold-direct-2m"]["targets"]["kvfs"]["latency_ns"]["samples"] == 2 * 128
    assert rows["write-32m"]["targets"]["raw"]["latency_ns"]["samples"] == 2 * 4
    assert list(tmp_path.iterdir()) == []
