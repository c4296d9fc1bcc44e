"""The command: what it refuses, and one short run that is checked from the outside."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"
_KVFS = Path(sys.executable).parent / "kvfs"


@pytest.fixture
def kvfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Offers what part 1 offered, and cannot mount."""
    command = tmp_path_factory.mktemp("command") / "kvfs"
    command.write_text('#!/bin/sh\n[ "$2" = --help ] && echo "--data-path <pyfuse3>  Who serves." && exit\nexit 1\n')
    command.chmod(0o755)
    return command


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_BENCH, *arguments], capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--only", "nothing"], "no row is called nothing; rows: cold-direct-2m"),
        (["--target", "native"], "found native"),
        (["--scale", "--loop-cost"], "found several"),
        (["--target", "xfs5"], "expected some of pyfuse3, raw, "),
        (["--data", "1M"], "expected one 32 MiB file per client, 128 MiB, found 1 MiB"),
        (["--store-size", "1G"], "expected three times --data, 3 GiB, or more, found 1 GiB"),
        (["--request", "1000"], "expected a multiple of 4 KiB"),
        (["--directory", "/nowhere"], "expected a directory"),
        (["--json", "/nowhere/file"], "no such directory"),
    ],
)
def test_bad_options_get_one_line_and_status_2(arguments: list[str], expected: str, kvfs: Path, tmp_path: Path) -> None:
    done = _bench("--kvfs", str(kvfs), "--directory", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mount_that_fails_is_said_and_cleared(kvfs: Path, tmp_path: Path) -> None:
    done = _bench("--quick", "--kvfs", str(kvfs), "--directory", str(tmp_path), "--only", "small-files")
    assert done.returncode == 1
    assert f"{kvfs} mount" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_no_kvfs_is_said(tmp_path: Path) -> None:
    done = _bench("--kvfs", "/bin/false", "--directory", str(tmp_path))
    assert done.returncode == 1
    assert "/bin/false mount --help: exit status 1" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
@pytest.mark.skipif(not _KVFS.exists(), reason="NOT TESTED: needs the kvfs command")
def test_a_short_run(tmp_path: Path) -> None:
    small = ["--quick", "--rounds", "1", "--data", "128M", "--store-size", "1G"]
    names = ["cold-direct-2m", "write-32m", "lookup-repeated", "loop-4k-4t"]
    rows_chosen = [word for name in names for word in ("--only", name)]
    targets = [word for name in ("native", "pyfuse3", "raw") for word in ("--target", name)]
    done = _bench("--directory", str(tmp_path), "--json", "-", *small, *rows_chosen, *targets)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {row["name"]: row for row in result["rows"]}
    assert sorted(rows) == sorted(names)
    for row in rows.values():
        for name, target in row["targets"].items():
            assert target["rate"]["median"] > 0
            assert (target["ratio_to_peer"] is None) == (name == row["peer"] or row["peer"] not in row["targets"])
            assert target["latency_ns"]["p50"] > 0
            assert (target["daemon_cpu"] is None) == (name not in ("native", "native-ring", "pyfuse3"))
    for name in ("cold-direct-2m", "write-32m"):
        kvfs, raw = rows[name]["targets"]["pyfuse3"], rows[name]["targets"]["raw"]
        ratio = kvfs["ratio_to_peer"]
        assert ratio["min"] <= ratio["median"] <= ratio["max"]
        assert ratio["min"] <= kvfs["rate"]["max"] / raw["rate"]["min"]
        assert kvfs["daemon_cpu"]["max"] > 0
    assert rows["cold-direct-2m"]["targets"]["pyfuse3"]["latency_ns"]["samples"] == 128
    assert rows["cold-direct-2m"]["targets"]["pyfuse3"]["device_bytes"] >= 128 << 20
    assert rows["write-32m"]["targets"]["raw"]["latency_ns"]["samples"] == 4
    for target in rows["loop-4k-4t"]["targets"].values():
        # no file's bytes: a mount reads some 70 KB a second to see whether the store is still its own
        assert target["device_bytes"] < 1 << 20
    for goal in (goal for row in rows.values() for goal in row["goals"]):
        assert goal["met"] == (goal["found"]["median"] >= goal["asked"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
@pytest.mark.skipif(not _KVFS.exists(), reason="NOT TESTED: needs the kvfs command")
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="NOT TESTED: needs valgrind")
def test_what_a_request_costs(tmp_path: Path) -> None:
    done = _bench("--directory", str(tmp_path), "--json", "-", "--quick", "--loop-cost", "--target", "native")
    assert done.returncode == 0, done.stderr
    one, many = json.loads(done.stdout)["loop_costs"]
    assert (one["target"], one["clients"], many["clients"]) == ("native", 1, 4)
    parts = one["instructions_by_object"]
    assert any(name.startswith("_native.") for name in parts)
    assert 0 < sum(parts.values()) <= one["instructions"] < 100_000  # of Python's there would be more
    assert one["system_us"] > 0
    assert list(tmp_path.iterdir()) == []
