"""The side that asks a ``worker`` to make or delete a controller, and waits for it no longer than it said."""

import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from kvfs.errors import FabricError, TimedOut

_WORKER = Path(__file__).with_name("worker.py")
_GRACE = 5.0  # s for a worker to delete what it made; longer, and it does so alone


class Deadline:
    """``seconds`` from now on, whatever it is spent on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self._at - time.monotonic())

    @property
    def is_over(self) -> bool:
        return self.left() == 0.0


class Refusal(Exception):
    """The kernel's errno for a controller that it did not make, and what it said of it in its log."""

    def __init__(self, code: int, log: tuple[str, ...], *, at_open: bool) -> None:
        super().__init__(code, log)
        self.errno = code
        self.log = log
        self.at_open = at_open  # /dev/nvme-fabrics itself could not be opened


class Lease:
    """A controller on loan: deleted when the ``with`` ends, unless ``keep`` was called."""

    def __init__(self, worker: "_Worker", instance: int) -> None:
        self.name = f"nvme{instance}"
        self._worker = worker

    def keep(self) -> None:
        self._worker.say(b"keep\n")


@contextmanager
def make_controller(options: str, deadline: Deadline) -> Iterator[Lease]:
    """A controller by the kernel's ``options``. Raises Refusal, TimedOut, FabricError."""
    with _Worker({"do": "connect", "options": options}) as worker:
        answer = worker.answer(deadline)
        if "errno" in answer:
            raise Refusal(int(answer["errno"]), tuple(answer["log"]), at_open=bool(answer.get("open")))
        yield Lease(worker, int(answer["instance"]))


def delete_controller(name: str, deadline: Deadline) -> None:
    """Returns when it is gone; no error when it is so already. Raises TimedOut, OSError."""
    with _Worker({"do": "disconnect", "name": name}) as worker:
        answer = worker.answer(deadline)
        if "errno" in answer:
            raise OSError(int(answer["errno"]), os.strerror(int(answer["errno"])), name)


class _Worker:
    def __init__(self, request: dict[str, str]) -> None:
        # a session of its own: Ctrl-C is for whoever asked, who then ends the lease
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._said = b""
        try:
            self.say(json.dumps(request).encode() + b"\n")
        except BaseException:
            self._end(0.0)
            raise

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(_GRACE)

    def say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FabricError(*_DIED) from None

    def answer(self, deadline: Deadline) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._said:
            if not select.select([pipe], [], [], deadline.left())[0]:
                self._process.terminate()
                raise TimedOut(f"no end within {deadline.seconds:g} s")
            piece = os.read(pipe, 65536)
            if not piece:
                raise FabricError(*_DIED)
            self._said += piece
        answer: dict[str, Any] = json.loads(self._said)
        return answer

    def _end(self, grace: float) -> None:
        """Close both pipes, which ends a lease. What the kernel does not end in time goes on without us, to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            _left_alone.append(self._process)
        self._process.stdout.close()
        _left_alone[:] = [each for each in _left_alone if each.poll() is None]


_DIED = ("the process that speaks to the kernel ended without an answer", "see the kernel log")
_left_alone: list[subprocess.Popen[bytes]] = []  # to be reaped when the next one ends
