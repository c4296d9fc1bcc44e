"""Clients in processes of their own, which say what they have done every second until they are told to stop.

One pipe per process, one way each: the child sends its counts, or the error that ended it; whatever the parent sends
means stop. A child that says nothing for ``_PATIENCE`` hangs in the mount, and that is a finding.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing.connection import Connection, wait
from pathlib import Path

from kvfs.errors import KvfsError
from soaklib.clients import Client, Counts
from soaklib.content import SoakError

_EVERY = 1.0  # s between reports
_PATIENCE = 90.0  # s
_KILL_PATIENCE = 2.0  # s


class Crew:
    """``kinds``: a process each, in ``root``. Use as a context; what is left at its end is killed."""

    def __init__(self, kinds: Sequence[type[Client]], root: Path, most_full: float, seed: int) -> None:
        self._pipes: list[Connection] = []
        self._pids: list[int] = []
        self._said: dict[int, tuple[Counts, bool]] = {}  # by number: counts, and whether it has seen the store full
        self._heard: list[float] = []
        self._names = [f"{kind.style}-{number}" for number, kind in enumerate(kinds)]
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kind in enumerate(kinds):
            ours, theirs = multiprocessing.Pipe()
            pid = os.fork()
            if pid == 0:
                for pipe in (*self._pipes, ours):
                    pipe.close()
                _be_client(kind, root / self._names[number], most_full, seed + number, theirs)
            theirs.close()
            self._pipes.append(ours)
            self._pids.append(pid)
            self._heard.append(time.monotonic())

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        left, deadline = set(self._pids), time.monotonic() + _KILL_PATIENCE
        while left and time.monotonic() < deadline:  # one that hangs ends with the mount
            left -= {pid for pid in left if os.waitpid(pid, os.WNOHANG)[0] == pid}
            time.sleep(0.01)
        self._pids.clear()

    def listen(self, seconds: float) -> None:
        """Take reports for so long. Raises what ended a client; SoakError for one that is silent."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for pipe in wait(self._pipes, left):
                assert isinstance(pipe, Connection)
                self._take(self._pipes.index(pipe))
        for number, heard in enumerate(self._heard):
            if time.monotonic() - heard > _PATIENCE:
                raise SoakError(f"{self._names[number]}: no word for {_PATIENCE:.0f} s", "a call into the mount hangs")

    def stop(self) -> None:
        """Let every client end what it is at, and leave."""
        for pipe in self._pipes:
            pipe.send_bytes(b"stop")
        deadline = time.monotonic() + _PATIENCE
        for number in range(len(self._pipes)):
            while self._take(number, deadline):
                pass
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pids.clear()

    def counts(self) -> Counts:
        """Of all together."""
        total = Counts()
        for counts, _ in self._said.values():
            for field in fields(Counts):
                setattr(total, field.name, getattr(total, field.name) + getattr(counts, field.name))
        return total

    def by_style(self) -> dict[str, Counts]:
        return {self._names[number]: counts for number, (counts, _) in self._said.items()}

    def store_was_full(self) -> bool:
        return any(filled for _, filled in self._said.values())

    def _take(self, number: int, deadline: float | None = None) -> bool:
        """One report. False for the last."""
        pipe = self._pipes[number]
        if deadline is not None and not pipe.poll(max(0.0, deadline - time.monotonic())):
            raise SoakError(f"{self._names[number]}: did not stop", "a call into the mount hangs")
        try:
            said = pipe.recv()
        except EOFError:
            raise SoakError(f"{self._names[number]}: ended without a word", "its own message is above") from None
        self._heard[number] = time.monotonic()
        if isinstance(said, BaseException):
            raise SoakError(f"{self._names[number]}: {said}") from said
        if said is None:
            return False
        self._said[number] = said
        return True


def _be_client(kind: type[Client], directory: Path, most_full: float, seed: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    status = 1
    try:
        try:
            client = kind(directory, most_full, seed)
            told = 0.0
            while not pipe.poll():
                client.step()
                if time.monotonic() - told >= _EVERY:
                    told = time.monotonic()
                    pipe.send((client.counts, client.filled))
            client.close()
            pipe.send((client.counts, client.filled))
            pipe.send(None)
        except (OSError, KvfsError) as error:
            pipe.send(error)
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)
