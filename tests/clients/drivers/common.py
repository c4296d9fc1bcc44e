"""What every driver shares: its command line, bytes that can be recomputed, checks, and the answer.

A driver runs in the clients' own environment as ``driver.py PHASE DIRECTORY [OPTIONS as JSON]`` and uses a
client the way its engine would. It prints its answer as one JSON line, the last of its output, which
``conftest.Clients.run`` reads; it exits with a traceback when the client or the file system let it down.
Phases are separate processes, so what a later one finds has gone through the file system.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 120.0  # s: for a client's own threads to finish

# bytes of bf16 KV per token, and the sizes of pages that follow from them
LLAMA_8B = {"layers": 32, "heads": 8, "head_size": 128}  # 128 KiB: 16 tokens 2 MiB, 256 tokens 32 MiB
QWEN_7B = {"layers": 28, "heads": 4, "head_size": 128}  # 57,344 B: 98 tokens 5.6 MB
SMOL_135M = {"layers": 30, "heads": 3, "head_size": 64}  # 23,040 B: odd numbers of tokens are no multiple of 4 KiB
MODELS = {"llama-8b": LLAMA_8B, "qwen-7b": QWEN_7B, "smol-135m": SMOL_135M}


def page_bytes(seed: int, size: int) -> np.ndarray:
    """``size`` bytes that depend on ``seed`` alone: any process can say what a page has to hold."""
    words = np.random.Generator(np.random.PCG64(seed)).integers(0, 1 << 64, -(-size // 8), dtype=np.uint64)
    return words.view(np.uint8)[:size]


def check(condition: object, message: str) -> None:
    """An assertion that ``python -O`` keeps."""
    if not condition:
        raise AssertionError(message)


def check_bytes(found: Any, seed: int, what: str) -> None:
    """Every byte of ``found`` is that of ``page_bytes(seed)``, or the first wrong one is named."""
    got = np.frombuffer(found, dtype=np.uint8)
    wanted = page_bytes(seed, got.size)
    if not np.array_equal(got, wanted):
        wrong = np.flatnonzero(got != wanted)
        raise AssertionError(
            f"{what}: {wrong.size} of {got.size} bytes are wrong, the first at {wrong[0]}: "
            f"expected {wanted[wrong[0]]:#04x}, found {got[wrong[0]]:#04x}"
        )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        check(time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.002)


def at_once(*actions: Callable[[], None]) -> None:
    """Each in a thread of its own; when all have ended, the first failure of any."""
    with ThreadPoolExecutor(len(actions)) as pool:
        started = [pool.submit(action) for action in actions]
    for action in started:
        action.result()


def main(phases: dict[str, Callable[[Path, dict[str, Any]], dict[str, Any]]]) -> None:
    """Run the phase that the command line names and print its answer."""
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in phases:
        sys.exit(f"usage: {sys.argv[0]} {{{'|'.join(phases)}}} DIRECTORY [OPTIONS as JSON]")
    options = json.loads(sys.argv[3]) if len(sys.argv) == 4 else {}
    answer = phases[sys.argv[1]](Path(sys.argv[2]), options)
    print(json.dumps(answer), flush=True)
