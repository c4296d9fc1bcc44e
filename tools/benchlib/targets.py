"""The file systems under test: a kvfs mount with a store of its own, or a plain directory.

A target gives directories to work in, gets cold on demand, and says what its daemon has used. Everything that it
makes lies under one work directory and goes when it is closed, also after an interrupt.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchlib import system
from benchlib.system import BenchError

_COMMAND_TIMEOUT = 300  # s: a command that needs longer hangs
_DAEMON_EXIT = 20.0  # s


class Directory:
    """A directory on the machine's own file system; ``name`` is that file system's type, such as ext4."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.root.mkdir()

    def directory(self, name: str) -> Path:
        """The directory ``name`` of this target, made when absent."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path

    def make_cold(self) -> None:
        """Forget what the target itself caches. The kernel's caches are the caller's to drop, for all at once."""

    def pids(self) -> list[int]:
        """The target's daemon: none, the kernel does the work for its callers."""
        return []

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


class Kvfs:
    """A store in a regular file, mounted with ``kvfs mount`` and the given options."""

    def __init__(self, name: str, command: Path, work: Path, size: int, options: Sequence[str] = ()) -> None:
        self.name = name
        self.root = work / f"{name}-mnt"
        self.store = work / f"{name}.store"
        self._log = work / f"{name}.log"
        self._command = command
        self._size = size
        self._options = options
        self.is_native = "native" in options  # its data path
        self._pids: list[int] = []
        self.root.mkdir()

    def mount(self) -> float:
        """Mount, formatting a store that is not there; seconds until the mount answered."""
        begin = time.monotonic()
        self._start()
        stats = self.root / ".kvfs" / "stats"
        said = json.loads(stats.read_text())
        seconds = time.monotonic() - begin
        self._pids = system.process_tree(said["pid"])
        self._check_loop(said)
        return seconds

    def _check_loop(self, stats: dict[str, Any]) -> None:
        """A mount never fails for want of rings; a figure that names them has to."""
        if "uring" in self._options:
            kind = stats["components"]["splitter"]["loop"]["kind"]
            if kind != "uring":
                raise BenchError(f"{self.name}: expected requests to come by rings, found {kind}", "see kvfsctl doctor")

    def _start(self) -> None:
        """Returns when the mount answers."""
        self._run("mount", *self._arguments())

    def _arguments(self) -> list[str]:
        options = ["--size", str(self._size), "--log", str(self._log), *self._options]
        return [*options, str(self.store), str(self.root)]

    def umount(self) -> None:
        """Unmount and wait until the daemon has let go of the store."""
        self._run("umount", str(self.root))
        self._wait_for_daemon()

    def kill(self) -> None:
        """End the daemon the hard way; the mount that it leaves is cleared with ``kvfs umount``."""
        self._signal_all()
        self._wait_for_daemon()
        self._run("umount", str(self.root))

    def directory(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path

    def make_cold(self) -> None:
        self.umount()
        self.mount()

    def resident(self) -> int:
        return system.resident_bytes(self.pids())

    def pids(self) -> list[int]:
        """The daemon and the children that it had when the mount answered."""
        return [pid for pid in self._pids if system.is_running(pid)]

    def close(self) -> None:
        """Unmount, whatever state the mount is in, and remove the store."""
        try:
            if system.is_mounted(self.root):
                self.umount()
        except BenchError as error:
            print(f"bench: {error}; detaching {self.root}", file=sys.stderr)
            detach = ["umount", "-l"] if system.is_root() else ["fusermount3", "-uz"]
            system.run_command([*detach, str(self.root)], _COMMAND_TIMEOUT)
            self._signal_all()
        self.store.unlink(missing_ok=True)
        if not system.is_mounted(self.root):
            self.root.rmdir()

    def _run(self, *arguments: str) -> None:
        try:
            system.run_command([str(self._command), *arguments], _COMMAND_TIMEOUT)
        except BenchError as error:  # the log goes with the work directory
            log = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
            raise BenchError(error.message, f"its log ends: {' / '.join(log[-3:])}" if log else "") from None

    def _signal_all(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):  # a child that ended with its parent
                os.kill(pid, signal.SIGKILL)

    def _wait_for_daemon(self) -> None:
        deadline = time.monotonic() + _DAEMON_EXIT
        while left := self.pids():
            if time.monotonic() > deadline:
                raise BenchError(f"expected kvfs to end with its mount, process {left[0]} is still there")
            time.sleep(0.005)
        self._pids = []


Target = Directory | Kvfs
