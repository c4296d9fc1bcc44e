"""What a measurement cost others than its clients: the daemon, the kernel's threads, and who else was there.

::

    all processes of the machine = clients and this process + daemon + kernel threads + foreign

The kernel's threads are all of the machine's: work queues carry no name of who gave them work. So is what is
foreign: whatever is left. Both say what they should on a machine that does nothing else, and the second says whether it
is one.
"""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchlib import system
from benchlib.figures import Measurement


@dataclass(frozen=True)
class _Usage:
    """CPU seconds so far."""

    at: float
    kernel: dict[int, float]
    daemon: float
    device_bytes: int
    own: float
    machine: float

    @classmethod
    def of(cls, pids: Sequence[int]) -> "_Usage":
        return cls(
            at=time.monotonic(),
            kernel=system.kernel_threads(),
            daemon=system.cpu_seconds(pids),
            device_bytes=system.device_read_bytes(pids),
            own=_own(),
            machine=system.machine_cpu(),
        )


def watched(pids: Sequence[int], work: Callable[[], Measurement]) -> Measurement:
    """``work()`` with what was used around it. ``pids``: of the daemon; none where the kernel serves its callers."""
    before = _Usage.of(pids)
    done = work()
    after = _Usage.of(pids)
    kernel = sum(max(0.0, used - before.kernel.get(pid, 0.0)) for pid, used in after.kernel.items())
    daemon = after.daemon - before.daemon
    foreign = after.machine - before.machine - (after.own - before.own) - daemon - kernel
    return replace(
        done,
        daemon_cpu=daemon if pids else None,
        kernel_cpu=kernel,
        device_bytes=after.device_bytes - before.device_bytes if pids else None,
        foreign_cpus=max(0.0, foreign) / (after.at - before.at),
    )


def _own() -> float:
    """This process and the clients that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
