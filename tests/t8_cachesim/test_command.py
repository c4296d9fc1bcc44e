"""``kvfs-replay cachesim`` as a person, or a machine, calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = [
    {"timestamp": 1000 * turn, "input_length": 512 * blocks, "hash_ids": list(range(first, first + blocks))}
    for turn in range(20)
    for first, blocks in ((0, 4 + turn), (1000 + 10 * turn, 3))
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "kvfs-replay"
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_a_table_for_people(trace: Path) -> None:
    done = replay("cachesim", "--trace", trace, "--capacity", "10%,50%", "--policy", "kvfs,lru")
    assert (done.returncode, done.stderr) == (0, "")
    assert "40 requests, 330 references, 83 blocks" in done.stdout
    for word in ("kvfs", "lru", "10%", "50%"):
        assert word in done.stdout


def test_json_for_machines(trace: Path) -> None:
    done = replay("cachesim", "--trace", trace, "--capacity", "100%", "--capacity", "20M", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["requests"], report["references"], report["footprint_blocks"]) == (40, 330, 83)
    rows = {(row["policy"], row["capacity"]): row for row in report["rows"]}
    assert {policy for policy, _ in rows} == {"kvfs", "lru", "s3fifo", "arc", "min", "ideal"}
    assert {rows[policy, "100%"]["prefix_hit_percent"] for policy, _ in rows} == {round(100 * 247 / 330, 3)}
    assert {row["capacity_blocks"] for row in rows.values() if row["capacity"] == "20M"} == {10}
    assert rows["min", "20M"]["prefix_hit_percent"] > rows["lru", "20M"]["prefix_hit_percent"]


def test_json_into_a_file_beside_the_table(trace: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    done = replay("cachesim", "--trace", trace, "--capacity", "10%", "--policy", "lru", "--json", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lru" in done.stdout
    assert json.loads(target.read_text())["rows"][0]["policy"] == "lru"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--capacity", "10%", "--policy", "lru,fifo"), 2, "found 'fifo'"),
        (("--capacity", "0%"), 2, "found '0%'"),
        (("--capacity", "x"), 2, "found 'x'"),
        (("--capacity", ","), 2, "expected a capacity"),
        (("--capacity", "1M", "--block-size", "4M"), 2, "at least one block of 4 MiB"),
        ((), 2, "--capacity"),
    ],
)
def test_one_line_says_what_was_wrong(trace: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    done = replay("cachesim", "--trace", trace, *arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_trace_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    done = replay("cachesim", "--trace", path, "--capacity", "5%")
    assert (done.returncode, done.stderr) == (1, f"kvfs-replay: {path}: No such file or directory\n")
    path.write_text("hello\n")
    done = replay("cachesim", "--trace", path, "--capacity", "5%")
    assert done.returncode == 1
    assert done.stderr.startswith(f"kvfs-replay: {path}:1: expected a JSON object")
