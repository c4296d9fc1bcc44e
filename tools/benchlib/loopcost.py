"""What the request loop itself costs: a 4 KiB read of a warm page, in the daemon's microseconds and instructions.

Microseconds are the daemon's CPU time by the requests that it answered meanwhile, in the program and in the kernel on
its behalf, in an ordinary run. Instructions are counted by callgrind in a run of their own, which is slow and says
nothing about time: two lots of requests, one larger than the other, so that what comes once (the open, the look at
the file) falls out of the difference.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchlib import system
from benchlib.bench import NATIVE, PYFUSE3, RING, Bench
from benchlib.callgrind import Callgrind
from benchlib.fio import FioJob, run_fio
from benchlib.memory import file_in, warm_file

_REQUEST = 4096
_FEW, _MANY = 1_000, 6_000  # requests under callgrind


@dataclass(frozen=True)
class LoopCost:
    """Per request. ``user_us``, ``system_us``: the daemon's CPU time. ``instructions``: of the daemon's program, by
    library and summed; None where they were not counted."""

    target: str
    clients: int
    rate: float
    user_us: float
    system_us: float
    instructions: float | None = None
    instructions_by_object: dict[str, float] | None = None


def loop_cost_steps(bench: Bench) -> int:
    targets = _targets(bench)
    return len(targets) * len(_clients(bench)) + len(_counted(targets))


def run_loop_cost(bench: Bench, step: Callable[[str], None]) -> list[LoopCost]:
    """``step(what)`` is called before each piece of work, :func:`loop_cost_steps` times in all."""
    targets, found = _targets(bench), []
    for target in targets:
        for clients in _clients(bench):
            step(f"loop cost: {target}, {clients} clients")
            found.append(_timed(bench, target, clients))
        bench.drop(target, "memory")
    for target in _counted(targets):
        step(f"loop cost: {target} under callgrind")
        counted = _instructions(bench, bench.instrumented(target))
        bench.drop(target, "callgrind")
        found = [
            replace(each, instructions=sum(counted.values()), instructions_by_object=counted)
            if each.target == target and each.clients == 1
            else each
            for each in found
        ]
    return found


def _targets(bench: Bench) -> list[str]:
    return bench.chosen(NATIVE, RING, PYFUSE3)


def _counted(targets: list[str]) -> list[str]:
    """Not native-ring: under valgrind, which knows nothing of it, FUSE over io_uring comes to a standstill."""
    return [target for target in targets if target == NATIVE]


def _clients(bench: Bench) -> list[int]:
    return sorted({1, bench.options.threads})


def _timed(bench: Bench, target: str, clients: int) -> LoopCost:
    place = bench.memory(target)
    warm_file(bench, place, check_all=True)
    file = file_in(bench, place)
    job = FioJob((file,), "randread", _REQUEST, jobs=clients, engine="psync", seconds=bench.options.seconds)
    before = system.user_and_system(place.pids())
    done = run_fio(job)
    after = system.user_and_system(place.pids())
    requests = done.latency.samples
    user, kernel = ((b - a) / requests * 1e6 for a, b in zip(before, after, strict=True))
    return LoopCost(target, clients, requests / done.seconds, user, kernel)


def _instructions(bench: Bench, place: Callgrind) -> dict[str, float]:
    """Per request, by library, the largest first."""
    warm_file(bench, place, check_all=True)
    counts: list[Counter[str]] = []
    for requests in (_FEW, _FEW, _MANY):  # the first lot only to have everything done once
        size = requests * _REQUEST
        place.count()
        run_fio(FioJob((file_in(bench, place),), "randread", _REQUEST, size=size, engine="psync"))
        counts.append(place.counted())
    _, few, many = counts
    per_request = {name: (many[name] - few[name]) / (_MANY - _FEW) for name in many}
    return {name: cost for name, cost in sorted(per_request.items(), key=lambda item: -item[1]) if cost >= 1}
