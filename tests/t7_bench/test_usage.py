"""Who used the machine while something was measured, and what is said when others did."""

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from benchlib import notes, system, usage
from benchlib.figures import Latency, Measurement
from benchlib.goals import Goal, verdicts
from benchlib.schedule import RowResult
from benchlib.tables import _asked
from benchlib.usage import watched

_DONE = Measurement(1.0, 1, Latency.of([1]), 0.0)
_USED = 0.2  # CPU seconds, twenty ticks of the clock


@pytest.fixture
def busy() -> Iterator[int]:
    """The id of a process that does nothing but work."""
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    yield process.pid
    process.kill()
    process.wait()


def _until_used(pid: int) -> Measurement:
    end = system.cpu_seconds([pid]) + _USED
    while system.cpu_seconds([pid]) < end:
        pass
    return _DONE


def test_a_daemon_is_billed(busy: int) -> None:
    measured = watched([busy], lambda: _until_used(busy))
    assert measured.daemon_cpu is not None
    assert measured.daemon_cpu >= _USED - 0.02
    assert measured.device_bytes == 0


def test_others_are_foreign(busy: int) -> None:
    measured = watched([], lambda: _until_used(busy))
    assert measured.daemon_cpu is None
    assert measured.device_bytes is None
    assert measured.foreign_cpus > 0


def test_what_is_left_is_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 s of the machine: 3 of clients, 2 of the daemon, 1 of kernel threads, one new, 4 of others, in 8 s."""

    def gives(module: Any, name: str, *values: Any) -> None:
        answers = iter(values)
        monkeypatch.setattr(module, name, lambda *_: next(answers))

    gives(usage, "_own", 5.0, 8.0)
    gives(system, "machine_cpu", 100.0, 110.0)
    gives(system, "cpu_seconds", 1.0, 3.0)
    gives(system, "device_read_bytes", 10, 4106)
    gives(system, "kernel_threads", {2: 7.0, 3: 1.0}, {2: 7.25, 4: 0.75})
    monkeypatch.setattr(usage, "time", SimpleNamespace(monotonic=iter([50.0, 58.0]).__next__))
    measured = watched([77], lambda: _DONE)
    assert (measured.daemon_cpu, measured.kernel_cpu, measured.device_bytes) == (2.0, 1.0, 4096)
    assert measured.foreign_cpus == 0.5


class _Row:
    name = "warm"
    title = "a row"
    unit = "B"
    peer = "ext4"
    in_memory = True
    targets = ("native", "ext4")
    goals = (Goal("native", "ext4", 0.9), Goal("native", "pyfuse3", 2.0), Goal("native", "tmpfs", 0.5))


def _result(**changes: object) -> RowResult:
    def rounds(*rates: int, **more: object) -> list[Measurement]:
        return [Measurement(1.0, rate, Latency.of([1]), 0.0, **more) for rate in rates]  # type: ignore[arg-type]

    measured = {"native": rounds(950, 80, 1000, **changes), "ext4": rounds(1000, 100, 1000), "tmpfs": rounds(9, 9, 9)}
    return RowResult(_Row(), measured)  # type: ignore[arg-type]


def test_goals_are_judged_by_the_median_of_the_rounds_ratios() -> None:
    result = _result()
    found = verdicts(_Row.goals, result.measured)
    assert [each.goal.peer for each in found] == ["ext4", "tmpfs"]  # pyfuse3 was not measured
    assert found[0].is_met
    assert (found[0].found.median, found[0].found.minimum) == (0.95, 0.8)
    assert _asked(found[0], "ext4") == "0.90 met"
    assert _asked(found[1], "ext4").startswith("0.50 of tmpfs (105.")
    assert notes.summary([result]) == "asked: 2 of 2 met"


def test_a_missed_goal_is_named() -> None:
    result = _result()
    result.measured["native"] = result.measured["tmpfs"]
    said = notes.summary([result]).splitlines()
    assert said == ["asked: 1 of 2 met", "  missed: warm native 0.01 of ext4, asked 0.90"]


def test_what_makes_figures_doubtful_is_said() -> None:
    quiet = {"cpus": 4, "busy_cpus": 0.1}
    assert notes.warnings(quiet, [_result(device_bytes=1, foreign_cpus=0.3)]) == []
    assert "1.5 CPUs were busy" in notes.warnings({"cpus": 4, "busy_cpus": 1.5}, [])[0]
    assert "warm native 0.9" in notes.warnings(quiet, [_result(foreign_cpus=0.9)])[0]
    assert notes.warnings(quiet, [_result(device_bytes=406)]) == [
        "warm native: not from memory, 60% as much was read from a device"
    ]
