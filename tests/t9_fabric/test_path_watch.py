"""When a store is made writable again by itself, and when that is left to a person: on a store and a /sys made up."""

import errno
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kvfs.fabric.nvme.sysfs import Host
from kvfs.fs.paths import PathWatch


class FakeStore:
    """``failing``: how many recoveries fail before one succeeds, with the errno ``then``."""

    def __init__(self, failing: int = 0) -> None:
        self.failing = failing
        self.then = errno.EIO
        self.recoveries: list[float] = []
        self.state: dict[str, Any] = {"state": "healthy", "error": 0, "failures_total": 0, "last_answer": ""}

    def fail(self, error: int) -> None:
        self.state |= {"state": "read-only", "error": error, "failures_total": self.state["failures_total"] + 1}

    def health(self) -> dict[str, Any]:
        return dict(self.state)

    def recover(self) -> None:
        self.recoveries.append(trio.current_time())
        if self.failing:
            self.failing -= 1
            self.state |= {"error": self.then, "last_answer": "the device cannot be flushed"}
        else:
            self.state |= {"state": "healthy", "error": 0, "last_answer": ""}


class Machine:
    """One controller, nvme1, and its namespace."""

    def __init__(self, root: Path, transport: str = "tcp") -> None:
        self.host = Host(root)
        self.controller = root / "sys/class/nvme/nvme1"
        self.block = root / "sys/class/block/nvme1n1"
        self.device = root / "dev/nvme1n1"
        (self.controller / "nvme1c1n1").mkdir(parents=True)
        self.block.mkdir(parents=True)
        self.device.parent.mkdir()
        self.device.touch()
        for name, text in {"subsysnqn": "nqn.x", "transport": transport, "address": "traddr=10.0.0.1"}.items():
            (self.controller / name).write_text(f"{text}\n")
        for name, text in {"nsid": "1", "size": "2048", "diskseq": "7"}.items():
            (self.block / name).write_text(f"{text}\n")
        self.turn("live")

    def turn(self, state: str) -> None:
        (self.controller / "state").write_text(f"{state}\n")


async def _watched(store: FakeStore, machine: Machine, steps: Any) -> PathWatch:
    watch = PathWatch(store, machine.device, machine.host)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await steps()
        nursery.cancel_scope.cancel()
    return watch


def _run(store: FakeStore, machine: Machine, steps: Any) -> dict[str, Any]:
    watch: PathWatch = trio.run(_watched, store, machine, steps, clock=trio.testing.MockClock(autojump_threshold=0))
    return watch.statistics()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOLINK, errno.ETIMEDOUT])
def test_once_the_path_is_back(tmp_path: Path, error: int) -> None:
    store, machine = FakeStore(), Machine(tmp_path)

    async def steps() -> None:
        machine.turn("connecting")
        store.fail(error)
        await trio.sleep(60)
        assert store.recoveries == []
        machine.turn("live")
        await trio.sleep(5)

    assert _run(store, machine, steps) == {"paths": {"nvme1": "live"}, "losses_total": 1, "returns_total": 1}
    assert len(store.recoveries) == 1


@pytest.mark.parametrize("error", [errno.EBADE, errno.ENODATA, errno.ENOSPC, errno.EILSEQ])
def test_what_the_target_says_itself(tmp_path: Path, error: int) -> None:
    store, machine = FakeStore(), Machine(tmp_path)

    async def steps() -> None:
        store.fail(error)
        await trio.sleep(600)

    assert _run(store, machine, steps)["losses_total"] == 0
    assert store.recoveries == []


def test_a_drive_of_this_machine(tmp_path: Path) -> None:
    store, machine = FakeStore(), Machine(tmp_path, "pcie")

    async def steps() -> None:
        store.fail(errno.EIO)
        await trio.sleep(600)

    assert _run(store, machine, steps) == {"paths": {}, "losses_total": 0, "returns_total": 0}
    assert store.recoveries == []


def test_another_device_of_that_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, machine = FakeStore(), Machine(tmp_path)

    async def steps() -> None:
        store.fail(errno.EIO)
        (machine.block / "diskseq").write_text("8\n")
        await trio.sleep(600)

    _run(store, machine, steps)
    assert store.recoveries == []
    assert [record.message.partition(": ")[2] for record in caplog.records if record.levelname == "ERROR"] == [
        "gone; unmount and mount again once it is back"
    ]


def test_what_fails_is_tried_again_after_longer_and_longer(tmp_path: Path) -> None:
    store, machine = FakeStore(failing=8), Machine(tmp_path)

    async def steps() -> None:
        store.fail(errno.EIO)
        await trio.sleep(600)

    assert _run(store, machine, steps)["returns_total"] == 1
    waits = [after - before for before, after in zip(store.recoveries, store.recoveries[1:], strict=False)]
    assert waits == sorted(waits)
    assert 30 <= waits[-1] < 32
    assert len(store.recoveries) == 9


def test_somebody_else_was_faster(tmp_path: Path) -> None:
    store, machine = FakeStore(), Machine(tmp_path)

    async def steps() -> None:
        machine.turn("connecting")
        store.fail(errno.EIO)
        await trio.sleep(5)
        store.state |= {"state": "healthy", "error": 0}
        machine.turn("live")
        await trio.sleep(5)

    assert _run(store, machine, steps)["returns_total"] == 0
    assert store.recoveries == []


def test_another_host_has_taken_it(tmp_path: Path) -> None:
    """Which the recovery finds: it is not tried again."""
    store, machine = FakeStore(failing=1), Machine(tmp_path)
    store.then = errno.ESTALE

    async def steps() -> None:
        store.fail(errno.EIO)
        await trio.sleep(600)

    assert _run(store, machine, steps)["returns_total"] == 0
    assert len(store.recoveries) == 1
