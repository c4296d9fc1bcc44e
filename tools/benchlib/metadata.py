"""Metadata calls from native threads: ``client.cpp``, compiled when it is first needed.

A client in Python spends as long on a call of a microsecond as the file system does, and on the same cores: ratios of
such figures come out nearer to 1 than they are.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchlib import pattern
from benchlib.figures import Latency, Measurement
from benchlib.system import BenchError, compile_cpp, run_command
from benchlib.workloads import FileSet

_SOURCE = Path(__file__).with_name("client.cpp")
_PATIENCE = 600.0  # s


class MetadataClient:
    """``work``: a directory for the program."""

    def __init__(self, work: Path) -> None:
        self._program = work / "metadata-client"

    def look_up_absent(self, paths: Sequence[str]) -> Measurement:
        """access(F_OK) of each, by one thread. BenchError when one is there.

        Empty names end before any file system is asked: what the call and the clock cost.
        """
        return self._run(b"", paths, "absent", 1)

    def publish(self, directory: Path, files: FileSet, threads: int) -> Measurement:
        """Create each of ``files`` (4 KiB) under a temporary name, one buffered write, close, rename."""
        block = pattern.as_blocks(bytearray(pattern.BLOCK))
        pattern.fill(block)
        pattern.mark(block, files.first_id)
        return self._run(block.tobytes(), files.paths_in(directory), "publish", threads)

    def _run(self, head: bytes, paths: Sequence[str], operation: str, threads: int) -> Measurement:
        self._build()
        given = head + b"".join(os.fsencode(path) + b"\n" for path in paths)
        answer = run_command([str(self._program), operation, str(threads)], _PATIENCE, given=given)
        return _parse(answer, len(paths))

    def _build(self) -> None:
        if not self._program.exists():
            compile_cpp(_SOURCE, self._program)


def _parse(answer: bytes, expected: int) -> Measurement:
    file = io.BytesIO(answer)
    seconds, cpu, count = file.readline().split()
    samples = np.frombuffer(file.read(), dtype=np.int64)
    if not int(count) == len(samples) == expected:
        raise BenchError(f"expected {expected} latencies of the client, found {len(samples)}")
    return Measurement(float(seconds), expected, Latency.of(samples), float(cpu))
