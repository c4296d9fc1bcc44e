"""fio: what the device gives without a file system of ours, asked with the same requests; and small random reads.

Front to back: one fio job that keeps as many requests in flight as there are clients (``iodepth``). Not one job per
client: fio times each job by itself and reports the longest, which is too good when the jobs do not quite overlap.
Random reads are also where Python's clients would be the limit, so there fio asks on both sides, file systems included:
one job per client, all for the same fixed time.

Parameters as in fio(1); JSON output as of fio 3.33, of which only what is named here is read.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchlib.figures import Latency, Measurement
from benchlib.system import BenchError, run_command

_TIMEOUT = 600  # s


@dataclass(frozen=True)
class FioJob:
    """One or more files of ``paths``, by requests of ``request`` bytes.

    ``mode`` read or write: ``size`` bytes from ``offset`` on, front to back, ``loops`` times over; a write ends with
    an fsync inside fio's own timing, as the clients' writes do. ``mode`` randread: anywhere in the files, by
    ``jobs`` threads with a request each, for ``seconds`` or, when that is 0, ``size`` bytes.
    """

    paths: tuple[Path, ...]
    mode: str
    request: int
    offset: int = 0
    size: int = 0
    depth: int = 1
    jobs: int = 1
    engine: str = "io_uring"
    direct: bool = True
    loops: int = 1
    seconds: float = 0.0


def require_fio() -> None:
    if shutil.which("fio") is None:
        raise BenchError(
            "expected fio, the peer that raw speed is measured with, found none", "install the package fio"
        )


def command_line(job: FioJob) -> list[str]:
    if job.mode == "randread":
        timed = ["--time_based", f"--runtime={round(job.seconds * 1e3)}ms"]
        extent = ["--norandommap", *(timed if job.seconds else [f"--io_size={job.size}"])]
    else:
        extent = [f"--offset={job.offset}", f"--size={job.size}", f"--loops={job.loops}"]
    return [
        "fio",
        "--output-format=json+",
        "--name=peer",
        f"--filename={':'.join(str(path).replace(':', chr(92) + ':') for path in job.paths)}",
        f"--rw={job.mode}",
        *extent,
        f"--bs={job.request}",
        f"--ioengine={job.engine}",
        f"--iodepth={job.depth}",
        "--thread",
        f"--numjobs={job.jobs}",
        "--group_reporting",
        f"--direct={int(job.direct)}",
        "--lat_percentiles=1",  # lat_ns: submission and completion, what a caller waits for
        "--clat_percentiles=0",
        "--fallocate=none",  # the file stays in the state that it was given
        "--allow_file_create=0",
        "--invalidate=0",
        "--fadvise_hint=0",
        f"--end_fsync={int(job.mode == 'write')}",
    ]


def run_fio(job: FioJob) -> Measurement:
    """BenchError when fio fails, or did less or more than it was asked to."""
    direction = "write" if job.mode == "write" else "read"
    measurement = parse(run_command(command_line(job), _TIMEOUT).decode(), direction)
    expected = job.size * job.loops
    if expected and measurement.units != expected:
        raise BenchError(f"fio: expected {expected} bytes to {job.mode}, it did {measurement.units}")
    return measurement


def parse(output: str, direction: str) -> Measurement:
    """The measurement of the one job in fio's JSON; notes that fio prints before it are skipped."""
    start = output.find("{")
    if start < 0:
        raise BenchError(f"fio: expected JSON, found {output[:200]!r}")
    job: dict[str, Any] = json.loads(output[start:])["jobs"][0]
    if job["error"]:
        raise BenchError(f"fio: the job failed with errno {job['error']}")
    done = job[direction]
    if not done["io_bytes"]:
        raise BenchError("fio: expected bytes, it moved none")
    return Measurement(
        seconds=done["runtime"] / 1e3,
        units=done["io_bytes"],
        latency=_latency(done["lat_ns"]["bins"]),
        client_cpu=(job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3,
    )


def _latency(bins: dict[str, int]) -> Latency:
    """fio's histogram: ns (middle of a bin, about 1 % wide) to count."""
    ordered = sorted((int(ns), count) for ns, count in bins.items())
    return Latency(
        np.array([ns for ns, _ in ordered], dtype=np.int64), np.array([count for _, count in ordered], dtype=np.int64)
    )
