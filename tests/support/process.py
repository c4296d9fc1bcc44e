"""Running a function in forked children: as another user, or several at once.

A child is forked, not spawned, so that it can use closures; it leaves by ``os._exit`` and so never runs
pytest's own clean-up. What it returned or raised comes back pickled through a pipe. A child that dies of a
signal (SIGBUS from a mapping, say) fails the test and not the test run.
"""

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

NOBODY = 65534


class ChildError(AssertionError):
    """The child died without an answer, or did not answer in time."""


class Child:
    """One forked child running ``function()``; ``result()`` waits, returns or raises what the function did."""

    def __init__(
        self, function: Callable[[], Any], *, uid: int | None = None, gid: int | None = None, groups: Sequence[int] = ()
    ) -> None:
        self._pipe, far_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._pipe)
                if uid is not None:
                    os.setgroups(list(groups))
                    os.setgid(uid if gid is None else gid)
                    os.setuid(uid)
                outcome = _outcome(function)
                with os.fdopen(far_end, "wb") as stream:
                    stream.write(pickle.dumps(outcome))
                status = 0
            finally:
                os._exit(status)
        os.close(far_end)

    def result(self, timeout: float = 60) -> Any:
        answer = self._receive(time.monotonic() + timeout)
        _, status = os.waitpid(self.pid, 0)
        if not answer:
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
            raise ChildError(f"child {self.pid} {how} before it answered")
        value, error, trace = pickle.loads(answer)
        if error is not None:
            error.add_note(f"in a child process:\n{trace}")
            raise error
        return value

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _receive(self, deadline: float) -> bytes:
        chunks: list[bytes] = []
        with os.fdopen(self._pipe, "rb", buffering=0) as stream:
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([stream], [], [], left)[0]:
                    self.kill()
                    os.waitpid(self.pid, 0)
                    raise ChildError(f"child {self.pid} gave no answer in time and was killed")
                chunk = stream.read(1 << 16)
                if not chunk:
                    return b"".join(chunks)
                chunks.append(chunk)


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None, str]:
    try:
        return function(), None, ""
    except BaseException as error:  # noqa: BLE001 - every failure travels to the parent, which raises it
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - hypothesis and pytest have exceptions that do not pickle
            error = AssertionError(f"{type(error).__name__}: {error}")
        return None, error, trace


def in_child(
    function: Callable[[], Any],
    *,
    uid: int | None = None,
    gid: int | None = None,
    groups: Sequence[int] = (),
    timeout: float = 60,
) -> Any:
    """``function()`` in a forked child, as ``uid``, ``gid`` (default: the same number) and ``groups`` when given."""
    return Child(function, uid=uid, gid=gid, groups=groups).result(timeout)


def all_at_once(functions: Sequence[Callable[[], Any]], timeout: float = 120) -> list[Any]:
    """Each function in a child of its own, concurrently; their results in order, or the first failure."""
    deadline = time.monotonic() + timeout
    children = [Child(function) for function in functions]
    results, failures = [], []
    for child in children:
        try:
            results.append(child.result(max(0.1, deadline - time.monotonic())))
        except Exception as error:  # noqa: BLE001 - all children are collected before one failure is raised
            failures.append(error)
    if failures:
        raise failures[0]
    return results
