"""A real client in a process of its own: how its driver is run, what it said, and how it opened its files."""

import json
import os
import re
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DRIVERS = Path(__file__).parent / "drivers"
DRIVER_TIMEOUT = 280  # s; less than a test's time-out, so that the driver's output is seen
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
        self.strace = _working_strace(home)

    def run(self, driver: str, phase: str, directory: Path, **options: Any) -> Answer:
        """Run one phase of a driver in a process of its own; its output is the failure's message when it fails."""
        trace = self.home / "trace"
        command = [str(self.environment / "venv/bin/python"), str(DRIVERS / f"{driver}.py"), phase, str(directory)]
        command.append(json.dumps(options))
        if self.strace:
            command = [
                self.strace,
                "-f",
                "-qq",
                "-e",
                "trace=open,openat",
                "-e",
                "signal=none",
                "-o",
                str(trace),
                *command,
            ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= OFFLINE | {"HOME": str(self.home), "PYTHONPATH": ""}
        if source := SOURCES.get(driver):
            environment["PYTHONPATH"] = str(self.environment / "src" / source)
        try:
            process = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=DRIVER_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            pytest.fail(
                f"{driver} {phase} {options}: no end within {DRIVER_TIMEOUT} s\n{_tail(error.output)}", pytrace=False
            )
        output = process.stdout.decode(errors="replace")
        if process.returncode != 0:
            pytest.fail(
                f"{driver} {phase} {options}: exit {process.returncode}\n{_tail(process.stdout)}", pytrace=False
            )
        facts = json.loads(output.rstrip().rpartition("\n")[2])
        return Answer(facts, output, _opens(trace, directory) if self.strace else None)


def _tail(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")[-6000:]


def _working_strace(home: Path) -> str | None:
    """The command, where it exists and the kernel lets it trace."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    attempt = subprocess.run([strace, "-o", str(home / "trace"), "true"], capture_output=True, timeout=60, check=False)
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
