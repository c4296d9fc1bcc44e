"""What the kernel says of processes, memory and file systems, and its caches dropped."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kvfs.errors import KvfsError

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_KILL_PATIENCE = 2.0  # s
_COMPILE_TIMEOUT = 120.0  # s
_FLAGS = 6  # of the fields of /proc/PID/stat from the third on
_KERNEL_THREAD = 0x0020_0000  # PF_KTHREAD in these flags
_NOT_ATTRIBUTED = (3, 4, 5, 6)  # of the first line of /proc/stat: idle, iowait, irq, softirq


class BenchError(KvfsError):
    """The benchmark cannot be run here, or what it measures failed."""


def run_command(
    command: Sequence[str], timeout: float, *, given: bytes = b"", environment: Mapping[str, str] | None = None
) -> bytes:
    """What it printed on standard output. BenchError with all that it said when it fails or is not done in time.

    ``timeout``: seconds. ``given``: its standard input. ``environment``: variables added to this process's own.
    """
    shown = " ".join(command)
    # files, not pipes: a daemon that it starts may keep those open
    with tempfile.TemporaryFile() as standard_input, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        standard_input.write(given)
        standard_input.seek(0)
        process = subprocess.Popen(
            command, stdin=standard_input, stdout=out, stderr=err, env={**os.environ, **(environment or {})}
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise BenchError(f"{shown}: expected it to end within {timeout:.0f} s, it did not") from None
        except BaseException:
            _kill(process)
            raise
        out.seek(0)
        err.seek(0)
        printed, said = out.read(), err.read()
    if status != 0:
        message = b" ".join(part.strip() for part in (printed, said) if part.strip()).decode(errors="replace")
        raise BenchError(f"{shown}: exit status {status}: {message}")
    return printed


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Not waited for without a limit: whoever waits for a file system that hangs ends only when that is unmounted."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_PATIENCE)


def compile_cpp(source: Path, target: Path, *options: str) -> None:
    """Compile and link ``source`` with the system's compiler, or CXX."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise BenchError(f"expected a C++ compiler for {source.name}, found none", "install g++")
    common = ["-std=c++20", "-O2", "-pthread", "-o", str(target)]
    run_command([*compiler.split(), *common, str(source), *options], _COMPILE_TIMEOUT)


def is_root() -> bool:
    return os.geteuid() == 0


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _processes() -> Iterator[tuple[int, list[str]]]:
    """(pid, :func:`_stat_fields`) of all that this process may see."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), _stat_fields(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):  # ended since the listing
                continue


def process_tree(pid: int) -> list[int]:
    """``pid`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for child, fields in _processes():
        children.setdefault(int(fields[1]), []).append(child)
    tree = [pid]
    for member in tree:
        tree.extend(children.get(member, ()))
    return tree


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads, ended ones included; resolution 10 ms."""
    return sum(int(ticks) for pid in pids for ticks in _stat_fields(pid)[11:13]) * _TICK


def user_and_system(pids: Iterable[int]) -> tuple[float, float]:
    """As :func:`cpu_seconds`, apart."""
    used = [_stat_fields(pid)[11:13] for pid in pids]
    return sum(int(user) for user, _ in used) * _TICK, sum(int(system) for _, system in used) * _TICK


def kernel_threads() -> dict[int, float]:
    """CPU seconds that each kernel thread has used: writeback, block devices, loop devices, reclaim. By thread id."""
    used = {}
    for pid, fields in _processes():
        if int(fields[_FLAGS]) & _KERNEL_THREAD:
            try:
                used[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
            except (FileNotFoundError, ProcessLookupError):  # ended, or a kernel that does not count so finely
                used[pid] = sum(map(int, fields[11:13])) * _TICK
    return used


def machine_cpu() -> float:
    """CPU seconds that all processes of the machine have used; what hypervisors took for others (steal) counts too.

    Not interrupts: they belong to whoever waits for them, and nobody is billed.
    """
    fields = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks for number, ticks in enumerate(fields) if number not in _NOT_ATTRIBUTED) * _TICK


def busy_cpus(seconds: float) -> float:
    """CPUs that are in use while this process does nothing for ``seconds``, on average."""
    used, begin = machine_cpu(), time.monotonic()
    time.sleep(seconds)
    return (machine_cpu() - used) / (time.monotonic() - begin)


def device_read_bytes(pids: Iterable[int]) -> int:
    """Bytes that block devices read for these processes so far, those of ended threads included."""
    total = 0
    for pid in pids:
        match = re.search(r"^read_bytes: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
        total += int(match[1]) if match else 0
    return total


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
