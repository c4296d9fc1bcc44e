"""What the kernel says of processes, memory and file systems, and its caches dropped."""

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from kvfs.errors import KvfsError

_TICK = 1 / os.sysconf("SC_CLK_TCK")


class BenchError(KvfsError):
    """The benchmark cannot be run here, or what it measures failed."""


def run_command(command: Sequence[str], timeout: float) -> str:
    """What it printed, both streams together. BenchError with that when it fails or is not done after ``timeout`` s."""
    shown = " ".join(command)
    with tempfile.TemporaryFile() as output:  # not a pipe: a daemon that it starts may keep that open
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise BenchError(f"{shown}: expected it to end within {timeout:.0f} s, it did not") from None
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if status != 0:
        raise BenchError(f"{shown}: exit status {status}: {said}")
    return said


def is_root() -> bool:
    return os.geteuid() == 0


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(pid: int) -> list[int]:
    """``pid`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat_fields(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):  # ended since the listing
                continue
            children.setdefault(parent, []).append(int(entry.name))
    tree = [pid]
    for member in tree:
        tree.extend(children.get(member, ()))
    return tree


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads, ended ones included; resolution 10 ms."""
    return sum(int(ticks) for pid in pids for ticks in _stat_fields(pid)[11:13]) * _TICK


def resident_bytes(pids: Iterable[int]) -> int:
    """VmRSS of the processes: heap, stacks, buffers and the program's own pages."""
    total = 0
    for pid in pids:
        match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        total += int(match[1]) * 1024 if match else 0
    return total


def is_running(pid: int) -> bool:
    try:
        return _stat_fields(pid)[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def drop_caches(directories: Iterable[Path]) -> None:
    """Forget cached pages, names and inodes: all of them as root, else the pages of the files in ``directories``."""
    os.sync()
    if is_root():
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)


def mounts() -> list[tuple[str, str]]:
    """(mount point, file system type) in mount order. Not os.path.ismount(): that fails on a dead daemon's mount."""
    table = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        table.append((re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4]), after.split()[0]))
    return table


def is_mounted(path: Path) -> bool:
    return any(point == str(path) for point, _ in mounts())


def filesystem_type(path: Path) -> str:
    """Type of the file system that ``path``, which exists, is on."""
    resolved = path.resolve()
    holders = [
        (len(point), order, kind) for order, (point, kind) in enumerate(mounts()) if resolved.is_relative_to(point)
    ]
    return max(holders)[2]  # the longest mount point; of several on one, the last


def free_bytes(path: Path) -> int:
    """What an unprivileged user may still write there."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def memory_bytes(field: str) -> int:
    """A field of /proc/meminfo, such as MemTotal or MemAvailable."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if match is None:
        raise BenchError(f"/proc/meminfo: expected the field {field}, found none")
    return int(match[1]) * 1024


def describe() -> dict[str, str | int | float]:
    """The machine as far as figures depend on it."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "kernel": platform.release(),
        "cpu": model[1] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes("MemTotal"),
        "load_average": os.getloadavg()[0],
    }
