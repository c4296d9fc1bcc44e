"""Which request loop a mount gets with ``--request-loop auto``: the one that is faster on this machine.

Rings win where many small requests are in flight, clones may where one client has few CPUs or a machine has many; so
it is measured. Each loop serves a file system of one file in memory, mounted in a directory of its own and detached as
soon as the file is open: nothing stays behind, whatever happens to this process. The loops take turns, many short
ones, and the best of each counts: what else the machine does can only make a turn worse.

It takes about a second, once: the outcome is kept per kernel, number of CPUs and version of kvfs. Where the kernel
does not offer rings, there is nothing to measure.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Literal

import msgspec

from kvfs import __version__, paths
from kvfs._native import Trial, read_rate
from kvfs.errors import KvfsError
from kvfs.fs.device import detach_device, mount_device

log = logging.getLogger(__name__)

Loop = Literal["clones", "uring"]

# name: (readers, bytes of a request)
_PATTERNS = {"4 KiB x 4": (4, 4096), "4 KiB x 1": (1, 4096), "1 MiB x 4": (4, 1 << 20)}
_ROUNDS = 8
_SECONDS = 0.02  # of one loop in one pattern
# Rings have to be worth it on the whole, and to cost little where they lose.
_LEAST_MEAN, _LEAST = 1.1, 0.75


class Machine(msgspec.Struct, frozen=True):
    """What an outcome holds for. ``threads``: asked for of the loop, 0 by cores."""

    kernel: str
    cpus: int
    usable_cpus: int
    threads: int
    version: str

    @classmethod
    def here(cls, threads: int) -> "Machine":
        usable = len(os.sched_getaffinity(0))
        return cls(os.uname().release, os.cpu_count() or 1, usable, threads, __version__)


class Outcome(msgspec.Struct, frozen=True):
    """``ratios``: reads per second by ring, of those by clones, by pattern."""

    machine: Machine
    ratios: dict[str, float]

    @property
    def loop(self) -> Loop:
        values = self.ratios.values()
        mean = prod(values) ** (1 / len(values)) if values else 0.0
        return "uring" if mean >= _LEAST_MEAN and min(values) >= _LEAST else "clones"

    def __str__(self) -> str:
        return ", ".join(f"{pattern}: {ratio:.2f}" for pattern, ratio in self.ratios.items())


def choose(threads: int = 0) -> Loop:
    """The loop for a mount with ``threads`` (0: by cores). Measures when that was not done yet; never fails."""
    if not offered():
        return "clones"
    outcome = remembered(threads)
    if outcome is None:
        try:
            outcome = measure(threads)
        except (OSError, KvfsError) as error:
            log.warning("the request loops could not be compared, and clones are taken: %s", error)
            return "clones"
        remember(outcome)
    log.info("request loop %s: by ring, of clones: %s", outcome.loop, outcome)
    return outcome.loop


def offered() -> bool:
    """Whether the kernel offers rings to a mount that is made now."""
    try:
        return Path("/sys/module/fuse/parameters/enable_uring").read_text().strip() in ("Y", "1")
    except OSError:
        return False


def measure(threads: int = 0) -> Outcome:
    """Compare the two for a second. Raises KvfsError or OSError: cannot mount, or the kernel gives no rings."""
    with ExitStack() as stack:
        clones = stack.enter_context(_mounted("clones", threads))
        rings = stack.enter_context(_mounted("uring", threads))
        best = {pattern: [0.0, 0.0] for pattern in _PATTERNS}
        for _ in range(_ROUNDS):
            for pattern, (readers, size) in _PATTERNS.items():
                for index, file in enumerate((clones, rings)):
                    best[pattern][index] = max(best[pattern][index], read_rate(file, readers, size, _SECONDS))
    return Outcome(Machine.here(threads), {pattern: round(ring / clone, 3) for pattern, (clone, ring) in best.items()})


@contextmanager
def _mounted(loop: Loop, threads: int) -> Iterator[int]:
    """A descriptor of the file, for O_DIRECT. Only it keeps the file system: nobody else sees or finds it."""
    with tempfile.TemporaryDirectory(prefix="kvfs-trial-") as directory:
        mountpoint = Path(directory)
        device = mount_device(mountpoint, "kvfs-trial", ())
        watched = os.dup(device)
        trial = Trial(device, threads=threads, loop=loop)
        try:
            try:
                trial.start()
                if trial.loop != loop:
                    raise OSError(f"expected the request loop {loop}, found {trial.loop}")
                file = os.open(mountpoint / "file", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            finally:
                detach_device(mountpoint, watched)
                os.close(watched)
            try:
                yield file
            finally:
                os.close(file)
        finally:
            trial.close()


def remembered(threads: int = 0) -> Outcome | None:
    """What was measured on this machine as it is now."""
    try:
        outcome = msgspec.json.decode(_memory().read_bytes(), type=Outcome)
    except (OSError, msgspec.MsgspecError):
        return None
    return outcome if outcome.machine == Machine.here(threads) and outcome.ratios else None


def remember(outcome: Outcome) -> None:
    """For the next mount. Without a place to write to, each mount measures."""
    memory = _memory()
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        fresh = memory.with_name(f"{memory.name}.{os.getpid()}")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=2) + b"\n")
        fresh.replace(memory)


def _memory() -> Path:
    return paths.state_directory() / "request-loop.json"
