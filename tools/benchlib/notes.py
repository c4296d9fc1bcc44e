"""What is said around the tables: the machine, how to read them, what was asked, what is missing, what is doubtful."""

from typing import Any

from benchlib.bench import NATIVE, PYFUSE3, Bench
from benchlib.figures import Measurement, Spread
from benchlib.goals import verdicts
from benchlib.schedule import RowResult
from kvfs.units import format_size

_FOREIGN = 0.1  # of the machine's CPUs: more than that in use by others, and a figure is doubtful
_FROM_DEVICE = 0.02  # of the bytes of a row that is to be answered from memory


def machine(environment: dict[str, Any]) -> str:
    return (
        f"{environment['cpus']} CPUs ({environment['cpu']}), {format_size(environment['memory_bytes'])}, "
        f"Linux {environment['kernel']}; at the start load {environment['load_average']:.1f}, "
        f"{environment['busy_cpus']:.1f} CPUs busy with other work; disk with {environment['file_system']}"
    )


def how_to_read(bench: Bench, environment: dict[str, Any]) -> str:
    options = bench.options
    loop = "on a loop device, freshly made" if bench.has_loop else "a directory on the disk's own file system"
    return (
        f"{options.rounds} rounds, {options.threads} clients, reads by {format_size(options.request)}, "
        f"{format_size(options.data)} per row and round, stores of {format_size(options.store_size)}; "
        f"cold: remounted, then {environment['cold']}\n"
        "median (minimum-maximum) over the rounds; a ratio is taken within a round, to the target marked peer; "
        "CPU: processes' own time, the kernel's threads all of the machine's\n"
        f"raw: fio io_uring on the store's own file; {bench.local}: {loop}; "
        f"{NATIVE}: requests through clones of /dev/fuse\n"
        f"loop-*: one file of 8 MiB, on {NATIVE} as a warm page, on {PYFUSE3} in its store's cache of granules; "
        f"requests of 1 MiB never come from there, so on {PYFUSE3} they read a hole of 8 MiB"
    )


def summary(results: list[RowResult]) -> str:
    """How many of the goals are met, and which are not."""
    found = [(result.row.name, each) for result in results for each in verdicts(result.row.goals, result.measured)]
    missed = [
        f"  missed: {name} {each.goal.target} {each.found.median:.2f} of {each.goal.peer}, asked {each.goal.ratio:.2f}"
        for name, each in found
        if not each.is_met
    ]
    return "\n".join([f"asked: {len(found) - len(missed)} of {len(found)} met", *missed])


def warnings(environment: dict[str, Any], results: list[RowResult]) -> list[str]:
    """What makes figures of this run doubtful, a line each."""
    lines = []
    limit = _FOREIGN * environment["cpus"]
    if environment["busy_cpus"] > limit:
        busy = environment["busy_cpus"]
        lines.append(f"FOREIGN LOAD: {busy:.1f} CPUs were busy before this run began, its ratios cannot be relied upon")
    doubtful = [
        f"{result.row.name} {target} {taken:.1f}"
        for result in results
        for target, measured in result.measured.items()
        if (taken := Spread.of(one.foreign_cpus for one in measured).median) > limit
    ]
    if doubtful:
        lines.append(f"FOREIGN LOAD: others kept CPUs busy while these were measured: {', '.join(doubtful)}")
    for result in results:
        for target, measured in result.measured.items():
            read, bytes_done = device_bytes(measured), _bytes(result.row.unit, measured)
            if result.row.in_memory and read and read > _FROM_DEVICE * bytes_done:
                share = read / bytes_done
                lines.append(f"{result.row.name} {target}: not from memory, {share:.0%} as much was read from a device")
    return lines


def missing(bench: Bench) -> list[str]:
    """What this kvfs or this machine does not have, a line each."""
    offer, lines = bench.offer, []
    if "native" not in offer.data_paths:
        lines.append("native: this kvfs has no --data-path native")
    elif offer.ring_problem:
        lines.append(f"native-ring: {offer.ring_problem}")
    if "native" in offer.data_paths and not offer.skips_passthrough:
        lines.append("this kvfs has no --no-passthrough: rows loop-* of native may show its warm pages, not its loop")
    if not bench.has_loop:
        lines.append(f"ext4 on a loop device: that takes root and losetup; {bench.local} is the disk's own file system")
    return lines


def _bytes(unit: str, measured: list[Measurement]) -> int:
    """Of operations, no bytes are known: 4 KiB each, as in those rows that read."""
    return sum(one.units for one in measured) * (1 if unit == "B" else 4096)


def device_bytes(measured: list[Measurement]) -> int | None:
    """All rounds together."""
    read = [one.device_bytes for one in measured if one.device_bytes is not None]
    return sum(read) if read else None
