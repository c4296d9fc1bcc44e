"""A real client in a process of its own: how its driver is run, what it said, and how it opened its files."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DRIVERS = Path(__file__).parent / "drivers"
DRIVER_TIMEOUT = 280  # s; less than a test's time-out, so that the driver's output is seen
TAIL = 6000  # characters of a failed driver's output
SOURCES = {"vllm_fs_tier": "vllm", "sglang_hicache_file": "sglang"}  # drivers of clients that are not installed
# nobody's usage is reported, nothing is looked for on a hub
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "LMCACHE_TRACK_USAGE": "false",
    "NIXL_LOG_LEVEL": "INFO",
}
_OPEN = re.compile(r'open(?:at\(AT_FDCWD, |\()"([^"]*)", ([A-Z_|]+)')


@dataclass(frozen=True)
class Open:
    """One open() of a client: the file, relative to the working directory, and the flags."""

    name: str
    flags: frozenset[str]


@dataclass(frozen=True)
class Answer:
    """What a driver said: its answer, all its output, and (None without strace) what it opened where it works."""

    facts: dict[str, Any]
    output: str
    opens: list[Open] | None

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def assert_opened(self, pattern: str, with_flags: str = "", without: str = "", access: str = "") -> None:
        """Some file was opened whose name matches, and (of those opened with ``access``) every one with these flags."""
        if self.opens is None:
            warnings.warn("NOT TESTED: how the client opens its files (needs strace)", stacklevel=2)
            return
        wanted, unwanted = set(with_flags.split()), set(without.split())
        files = [file for file in self.opens if re.search(pattern, file.name) and (not access or access in file.flags)]
        assert files, f"no file opened {access} that matches {pattern!r}; opened were {self.opens[:20]}"
        wrong = [file for file in files if not wanted <= file.flags or unwanted & file.flags]
        assert not wrong, f"expected flags {with_flags} and not {without}, found {wrong[:5]}"


class Clients:
    """The environment, and a way to run a driver in it."""

    def __init__(self, environment: Path, home: Path) -> None:
        self.environment = environment
        self.home = home
        self.trace = home / "trace"
        self.strace = _working_strace(self.trace)

    def run(self, driver: str, phase: str, directory: Path, **options: Any) -> Answer:
        """Run one phase of a driver in a process of its own; its output is the failure's message when it fails."""
        what = f"{driver} {phase} {options}"
        python, script = self.environment / "venv/bin/python", DRIVERS / f"{driver}.py"
        command = [str(python), str(script), phase, str(directory), json.dumps(options)]
        if self.strace:
            command = [self.strace, "-f", "-qq", "-etrace=open,openat", "-esignal=none", f"-o{self.trace}", *command]
        code, output = self._communicate(command, self._variables(driver))
        if code is None:
            pytest.fail(f"{what}: no end within {DRIVER_TIMEOUT} s\n{output[-TAIL:]}", pytrace=False)
        if code != 0:
            pytest.fail(f"{what}: exit {code}\n{output[-TAIL:]}", pytrace=False)
        facts = json.loads(output.rstrip().rpartition("\n")[2])
        return Answer(facts, output, _opens(self.trace, directory) if self.strace else None)

    def _variables(self, driver: str) -> dict[str, str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        variables |= OFFLINE | {"HOME": str(self.home)}
        if source := SOURCES.get(driver):
            variables["PYTHONPATH"] = str(self.environment / "src" / source)
        return variables

    def _communicate(self, command: list[str], variables: dict[str, str]) -> tuple[int | None, str]:
        """Exit status (None: it had to be killed) and output, of a process group that does not outlive the call.

        Output goes through a file: what strace traced outlives strace when that is killed, and would keep a pipe open.
        """
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=variables,
                start_new_session=True,
            )
            code: int | None = None
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(DRIVER_TIMEOUT)
            finally:
                if process.returncode is None:  # not reaped, so the number is still that of its group
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            output.seek(0)
            return code, output.read().decode(errors="replace")


def _working_strace(trace: Path) -> str | None:
    """The command, where it exists and the kernel lets it trace."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    attempt = subprocess.run([strace, f"-o{trace}", "true"], capture_output=True, timeout=60, check=False)
    return strace if attempt.returncode == 0 else None


def _opens(trace: Path, directory: Path) -> list[Open]:
    with trace.open(errors="replace") as lines:
        calls = [match for line in lines if (match := _OPEN.search(line))]
    inside = f"{directory}/"
    return [
        Open(call[1].removeprefix(inside), frozenset(call[2].split("|")))
        for call in calls
        if call[1].startswith(inside)
    ]
