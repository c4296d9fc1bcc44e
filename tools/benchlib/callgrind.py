"""A kvfs mount whose daemon runs under callgrind: instructions of its own per request, exact and on any machine.

Counting is off while the daemon starts, mounts and warms, as it makes everything some fifty times slower. What the
kernel does for the daemon is not counted: no virtual machine shows that without counters of the processor.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchlib import system
from benchlib.system import BenchError
from benchlib.targets import Kvfs

_UNBLOCK = Path(__file__).with_name("unblock.cpp")
_START_PATIENCE = 180.0  # s: Python starts slowly there
_CONTROL_TIMEOUT = 60.0  # s
_COST = re.compile(r"[+*-]?\d* (\d+)$|\* (\d+)$")
_OBJECT = re.compile(r"c?ob=\((\d+)\)(?: (.*))?$")


def require_callgrind() -> None:
    for name in ("valgrind", "callgrind_control"):
        if shutil.which(name) is None:
            raise BenchError(f"expected {name}, which counts instructions, found none", "install the package valgrind")


class Callgrind(Kvfs):
    """As :class:`Kvfs`; :meth:`counted` gives what the daemon has executed since it was last asked."""

    _process: subprocess.Popen[bytes] | None = None
    _dumps = 0

    def count(self) -> None:
        """Begin to count, from zero."""
        self._control("--instr=on")
        self._control("--zero")

    def counted(self) -> Counter[str]:
        """Instructions by program or library, by its file name, since :meth:`count` or the last call."""
        self._control("--dump")
        self._dumps += 1
        dumped = sorted(self._out.parent.glob(f"{self._out.name}.*"))
        if len(dumped) != self._dumps:
            raise BenchError(f"expected {self._dumps} dumps of callgrind, found {len(dumped)}")
        newest = max(dumped, key=lambda path: int(path.suffix[1:]))
        return by_object(newest.read_text(errors="replace"))

    @property
    def _out(self) -> Path:
        return self.root.with_suffix(".callgrind")

    def _start(self) -> None:
        preload = self.root.with_suffix(".unblock.so")
        system.compile_cpp(_UNBLOCK, preload, "-shared", "-fPIC", "-luring", "-ldl")
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self._out}"]
        command = [*tool, sys.executable, str(self._command), "mount", "--foreground", *self._arguments()]
        with self._log.with_suffix(".valgrind").open("wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "LD_PRELOAD": str(preload), "KVFS_BENCH_MOUNT": str(self.root)},
            )
        deadline = time.monotonic() + _START_PATIENCE
        while not system.is_mounted(self.root):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                last = self._log.with_suffix(".valgrind").read_text(errors="replace").splitlines()[-1:]
                raise BenchError("expected kvfs to mount under valgrind, it did not", " ".join(last))
            time.sleep(0.05)

    def _control(self, option: str) -> None:
        assert self._process is not None
        system.run_command(["callgrind_control", option, str(self._process.pid)], _CONTROL_TIMEOUT)

    def _wait_for_daemon(self) -> None:
        super()._wait_for_daemon()
        if self._process is not None:
            self._process.wait()
            self._process = None


def by_object(dump: str) -> Counter[str]:
    """Self cost by object file of a dump in callgrind's format, version 1, with names compressed.

    ::

        ob=(4) /usr/lib/libc.so.6       objects get a number where they are first named, also by cob=
        fn=(12) memcpy
        16 300                          line, cost; a line may be relative: +3 300, -2 300, * 300
        cob=(5)                         a call: where to, how often, and then a line with the cost of what was called,
        calls=1 0                       which is not this object's own
        16 9000
    """
    names: dict[str, str] = {}
    costs: Counter[str] = Counter()
    current, is_callee = "", False
    for line in dump.splitlines():
        if match := _OBJECT.match(line):
            if match[2] is not None:
                names[match[1]] = Path(match[2]).name
            if line.startswith("ob="):
                current = match[1]
        elif line.startswith("calls="):
            is_callee = True
        elif match := _COST.match(line):
            if not is_callee:
                costs[names.get(current, "?")] += int(match[1] or match[2])
            is_callee = False
    return costs
