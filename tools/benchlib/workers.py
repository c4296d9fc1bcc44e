"""Forked clients that start together and bring home their latencies and CPU time.

Protocol, over one pipe per worker: the child prepares and sends "ready"; when all are ready the parent sends "go" to
each; the child runs and sends its result, or an error at either point. The parent never waits without a limit: a
file system that hangs leaves children that cannot even be killed, so they are signalled, not waited for, and end
when the mount is taken down.
"""

import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from benchlib.figures import Latency, Measurement
from benchlib.system import BenchError
from benchlib.workloads import Workload
from kvfs.errors import KvfsError

_PATIENCE = 600.0  # s
_KILL_PATIENCE = 2.0  # s; what is left then ends with the mount that holds it


@dataclass(frozen=True)
class _Result:
    begin: float
    end: float
    units: int
    latency: Latency
    cpu: float


def run_together(workloads: Sequence[Workload], patience: float = _PATIENCE) -> Measurement:
    """Run each workload in a process of its own. Raises what one of them raised; BenchError when one hangs or dies."""
    pipes: list[Connection] = []
    pids: list[int] = []
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        for workload in workloads:
            ours, theirs = multiprocessing.Pipe()
            pid = os.fork()
            if pid == 0:
                for pipe in (*pipes, ours):  # else a parent that dies leaves children that wait for ever
                    pipe.close()
                _be_child(workload, theirs)
            theirs.close()
            pids.append(pid)
            pipes.append(ours)
        deadline = time.monotonic() + patience
        for pipe in pipes:
            _receive(pipe, deadline)
        for pipe in pipes:
            pipe.send_bytes(b"go")
        deadline = time.monotonic() + patience
        results = [_receive(pipe, deadline) for pipe in pipes]
    except BaseException:
        _kill(pids)
        raise
    finally:
        for pipe in pipes:
            pipe.close()
    for pid in pids:
        os.waitpid(pid, 0)
    return _combined([result for result in results if result is not None])


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    left, deadline = set(pids), time.monotonic() + _KILL_PATIENCE
    while left and time.monotonic() < deadline:
        left -= {pid for pid in left if os.waitpid(pid, os.WNOHANG)[0] == pid}
        time.sleep(0.01)


def _combined(results: list[_Result]) -> Measurement:
    return Measurement(
        seconds=max(result.end for result in results) - min(result.begin for result in results),
        units=sum(result.units for result in results),
        latency=Latency.merged([result.latency for result in results]),
        client_cpu=sum(result.cpu for result in results),
    )


def _be_child(workload: Workload, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent cleans up, and kills this process first
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = 1
    try:
        answer: object = None
        try:
            workload.prepare()
            pipe.send_bytes(pickle.dumps(None))
            pipe.recv_bytes()
            answer = _timed(workload)
        except (OSError, KvfsError) as error:
            answer = error
        pipe.send_bytes(pickle.dumps(answer))
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)


def _timed(workload: Workload) -> _Result:
    samples: list[int] = []
    cpu = _own_cpu()
    begin = time.monotonic()
    units = workload.run(samples)
    end = time.monotonic()
    cpu = _own_cpu() - cpu
    return _Result(begin, end, units, Latency.of(np.array(samples, dtype=np.int64)), cpu)


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _receive(pipe: Connection, deadline: float) -> _Result | None:
    if not pipe.poll(max(0.0, deadline - time.monotonic())):
        raise BenchError("a client gave no answer in time", "the file system under test hangs")
    try:
        answer = pickle.loads(pipe.recv_bytes())
    except EOFError:
        raise BenchError("a client ended without an answer", "its own message is above") from None
    if isinstance(answer, BaseException):
        raise answer
    assert answer is None or isinstance(answer, _Result)
    return answer
