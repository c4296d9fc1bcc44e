"""The tier gives way before anybody has to wait for memory. /proc and /sys are a directory of the test's here."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from client import MIB, ROOT, Client
from warming import MakeTier, staged

from kvfs._native import default_warm_budget, memory_reading

GIB = 1 << 30
FLOOR = 64 * MIB  # the least that is left to others


class Machine:
    """A fake /proc and /sys below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/self/cgroup", "0::/\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        replacement = file.with_name(file.name + ".new")  # at once, as the tier may be reading
        replacement.write_text(text)
        replacement.rename(file)

    def memory(self, total: int, available: int) -> None:
        self.write("proc/meminfo", f"MemTotal: {total // 1024} kB\nMemAvailable: {available // 1024} kB\n")

    def reading(self) -> tuple[int, int, int]:
        return memory_reading(str(self.root))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.01)


class TestReading:
    def test_the_machine(self, machine: Machine) -> None:
        machine.memory(8 * GIB, 5 * GIB)
        assert machine.reading() == (8 * GIB, 5 * GIB, 8 * GIB // 20)

    def test_floors(self, machine: Machine) -> None:
        machine.memory(512 * MIB, 5 * MIB)
        assert machine.reading()[2] == FLOOR
        machine.memory(512 * GIB, 5 * MIB)
        assert machine.reading()[2] == 2 * GIB

    def test_the_tightest_group_counts(self, machine: Machine) -> None:
        machine.memory(8 * GIB, 5 * GIB)
        machine.write("proc/self/cgroup", "0::/pod/container\n")
        for path, limit, usage, cache in (("", "max", 4 * GIB, 0), ("pod/", GIB, GIB // 2, 0)):
            machine.write(f"sys/fs/cgroup/{path}memory.max", f"{limit}\n")
            machine.write(f"sys/fs/cgroup/{path}memory.current", f"{usage}\n")
            machine.write(f"sys/fs/cgroup/{path}memory.stat", f"anon 1\ninactive_file {cache}\n")
        assert machine.reading()[:2] == (GIB, GIB // 2)
        machine.write("sys/fs/cgroup/pod/container/memory.max", f"{GIB // 2}\n")
        machine.write("sys/fs/cgroup/pod/container/memory.current", f"{GIB // 4}\n")
        machine.write("sys/fs/cgroup/pod/container/memory.stat", f"inactive_file {GIB // 8}\n")
        assert machine.reading()[:2] == (GIB // 2, 3 * GIB // 8), "cold page cache is not in the way"

    def test_groups_of_version_1(self, machine: Machine) -> None:
        machine.memory(8 * GIB, 5 * GIB)
        machine.write("proc/self/cgroup", "5:cpu,cpuacct:/elsewhere\n4:memory:/not/in/this/container\n0::/\n")
        group = "sys/fs/cgroup/memory"
        machine.write(f"{group}/memory.limit_in_bytes", f"{2 * GIB}\n")
        machine.write(f"{group}/memory.usage_in_bytes", f"{GIB}\n")
        machine.write(f"{group}/memory.stat", f"inactive_file 7\ntotal_inactive_file {GIB // 2}\n")
        assert machine.reading()[:2] == (2 * GIB, 3 * GIB // 2)
        machine.write(f"{group}/memory.limit_in_bytes", "9223372036854771712\n")
        assert machine.reading()[:2] == (8 * GIB, 5 * GIB)

    def test_this_machine(self) -> None:
        total, available, floor = memory_reading()
        assert 0 < available < total
        assert 0 < floor < total
        assert default_warm_budget() == total // 4


class TestPressure:
    def test_pages_go_when_memory_does(self, client: Client, machine: Machine, make_tier: MakeTier) -> None:
        machine.memory(GIB, GIB)
        tier = make_tier(16 * MIB, system_root=str(machine.root))
        inos = [client.create(ROOT, b"page%d" % i, bytes(MIB)) for i in range(8)]
        for ino in inos:
            staged(tier, ino)
        machine.memory(GIB, FLOOR - 3 * MIB)
        wait_for(lambda: tier.statistics()["bytes"] <= 5 * MIB)
        machine.memory(GIB, GIB)
        statistics = tier.statistics()
        assert statistics["pressure_shrinks_total"] > 0
        assert statistics["limit_bytes"] <= 5 * MIB, "what was given up is not taken again at once"
        assert tier.find(inos[0]) is None, "the oldest went first"

    def test_without_headroom_nothing_more_is_taken(
        self, client: Client, machine: Machine, make_tier: MakeTier
    ) -> None:
        machine.memory(GIB, FLOOR + MIB // 2)
        tier = make_tier(16 * MIB, system_root=str(machine.root))
        ino = client.create(ROOT, b"page", bytes(MIB))
        assert tier.stage(ino) is None
        assert tier.statistics()["refused_total"] == 1
        machine.memory(GIB, GIB)
        assert tier.stage(ino) is not None
