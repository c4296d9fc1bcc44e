"""Rows that read from memory through the request loop: what a request costs when no device is waited for.

All of it by O_DIRECT, so that each request reaches the daemon, from one file of 8 MiB that has been read before:

* native, native-ring: a warm page, mounted so that the request loop answers and not the page itself (passthrough);
* pyfuse3: its store's granule cache, 16 MiB, which answers requests below 256 KiB. Larger ones never come from there:
  they read a file of 8 MiB that is one hole, which costs the store less than any cached byte could.

The daemons' reads from devices are counted meanwhile, and reported when there were any.
"""

from pathlib import Path

from benchlib.bench import MIB, NATIVE, PYFUSE3, RING, Bench
from benchlib.figures import Measurement
from benchlib.fio import FioJob
from benchlib.goals import Goal
from benchlib.targets import Kvfs
from benchlib.workloads import FileSet

_FILE_BYTES = 8 * MIB
_CACHED_REQUEST = 64 * 1024  # the granule cache keeps what was read by requests below its granule of 256 KiB


class FromMemory:
    """O_DIRECT reads of ``request`` bytes, anywhere in the file, by fio's psync engine: one at a time per client."""

    peer = PYFUSE3
    in_memory = True

    def __init__(self, bench: Bench, request: int, clients: int, *goals: Goal) -> None:
        size = f"{request // MIB}m" if request >= MIB else f"{request // 1024}k"
        self.name = f"loop-{size}-{clients}t"
        self.title = f"{size.upper()[:-1]} {'MiB' if request >= MIB else 'KiB'} random O_DIRECT reads from memory"
        self.title += f" through the request loop, {clients} client{'s' if clients > 1 else ''}"
        self.unit = "B" if request > 4096 else "op"
        self.targets = bench.chosen(NATIVE, RING, PYFUSE3)
        self.goals = goals
        self._request = request
        self._clients = clients

    def prepare(self, bench: Bench, turn: int) -> None:
        for target in self.targets:
            warm_file(bench, bench.memory(target), check_all=turn == 0)

    def measure(self, bench: Bench, target: str, turn: int) -> Measurement:
        place = bench.memory(target)
        file = _hole(place) if target == PYFUSE3 and self._request > _CACHED_REQUEST else file_in(bench, place)
        seconds = bench.options.seconds
        job = FioJob((file,), "randread", self._request, jobs=self._clients, engine="psync", seconds=seconds)
        return bench.fio(place, job, counts_requests=self.unit == "op")

    def finish(self, bench: Bench, turn: int) -> None:
        pass


def warm_file(bench: Bench, place: Kvfs, *, check_all: bool) -> None:
    """Make the file where it is not there, and bring it into the daemon's memory."""
    file = file_in(bench, place)
    if not file.exists():
        bench.publish(place, file.parent, _file(bench), direct=True, durable=True)
    if place.is_native:
        bench.warm(place, file.parent, _file(bench), check_all=check_all)
    else:
        request = _CACHED_REQUEST
        bench.read(place, file.parent, _file(bench), direct=True, check_all=check_all, clients=1, request=request)


def file_in(bench: Bench, place: Kvfs) -> Path:
    return Path(_file(bench).paths_in(place.directory("memory"))[0])


def _file(bench: Bench) -> FileSet:
    return bench.shared_file("memory", _FILE_BYTES)


def _hole(place: Kvfs) -> Path:
    path = place.directory("memory") / "hole"
    with path.open("ab") as file:
        file.truncate(_FILE_BYTES)
    return path
