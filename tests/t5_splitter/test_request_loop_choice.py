"""--request-loop auto: what is faster here, measured once, and never a reason not to mount."""

import os
import tempfile
from pathlib import Path

import pytest
from rings import Parameter

from kvfs import paths
from kvfs.errors import MountError
from kvfs.fs import request_loop
from kvfs.fs.request_loop import Machine, Outcome

FASTER = {"small": 1.5, "large": 1.2}
SLOWER = {"small": 0.9, "large": 1.1}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setattr(paths, "state_directory", lambda: directory)
    return directory


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_loop, "offered", lambda: True)


def never(threads: int = 0) -> Outcome:
    raise AssertionError("measured")


@pytest.mark.parametrize(
    ("ratios", "loop"),
    [
        (FASTER, "uring"),
        (SLOWER, "clones"),
        ({"small": 1.05, "large": 1.05}, "clones"),  # not worth it
        ({"small": 3.0, "large": 0.5}, "clones"),  # too dear where it loses
        ({}, "clones"),
    ],
)
def test_rings_have_to_be_worth_it(ratios: dict[str, float], loop: str) -> None:
    assert Outcome(Machine.here(0), ratios).loop == loop


def test_nothing_is_measured_where_the_kernel_offers_no_rings(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(request_loop, "offered", lambda: False)
    monkeypatch.setattr(request_loop, "measure", never)
    request_loop.remember(Outcome(Machine.here(0), FASTER))  # from when it did
    assert request_loop.choose() == "clones"


@pytest.mark.usefixtures("offered")
def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_loop, "measure", lambda threads: Outcome(Machine.here(threads), FASTER))
    assert request_loop.choose() == "uring"
    monkeypatch.setattr(request_loop, "measure", never)
    assert request_loop.choose() == "uring"
    with pytest.raises(AssertionError, match="measured"):  # another number of threads is another matter
        request_loop.choose(threads=7)


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"machine": {}, "ratios": {}}'])
def test_a_memory_that_makes_no_sense_is_none(content: bytes, state: Path) -> None:
    state.mkdir()
    (state / "request-loop.json").write_bytes(content)
    assert request_loop.remembered() is None


def test_what_another_kernel_showed_is_not_believed() -> None:
    machine = Machine(
        "1.2.3", *(getattr(Machine.here(0), name) for name in ("cpus", "usable_cpus", "threads", "version"))
    )
    request_loop.remember(Outcome(machine, FASTER))
    assert request_loop.remembered() is None


def test_a_place_that_cannot_be_written_is_no_error(state: Path) -> None:
    state.write_bytes(b"a file in the directory's place")
    request_loop.remember(Outcome(Machine.here(0), FASTER))
    assert request_loop.remembered() is None


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("error", [MountError("cannot mount"), OSError(5, "Input/output error")])
def test_a_measurement_that_fails_means_clones(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(threads: int) -> Outcome:
        raise error

    monkeypatch.setattr(request_loop, "measure", fail)
    assert request_loop.choose() == "clones"
    assert "clones are taken" in caplog.text
    assert request_loop.remembered() is None


@pytest.mark.root
def test_a_measurement_leaves_nothing_behind(
    parameter: Parameter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    descriptors = set(os.listdir("/proc/self/fd"))
    with parameter.on():
        outcome = request_loop.measure()
    assert outcome.machine == Machine.here(0)
    assert len(outcome.ratios) >= 3
    assert all(ratio > 0 for ratio in outcome.ratios.values())
    assert os.listdir(tmp_path / "tmp") == []
    assert "kvfs-trial" not in Path("/proc/self/mountinfo").read_text()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert not [name for name in thread_names() if name.startswith("kvfs-ring")]


def thread_names() -> list[str]:
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
