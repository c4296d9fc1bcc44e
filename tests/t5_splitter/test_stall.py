"""Python's half stands still: what native code answers goes on, and what Python answers waits without harm."""

import ctypes
import errno
import os
from pathlib import Path

import pytest
from client import check_clean, make_volume
from support.expect import pattern
from support.mount import wait_for
from support.process import Child
from wire import MKDIR, PATIENCE, READDIR, ROOT, STATFS, Wire, read_body


def work(wire: Wire, rounds: int) -> None:
    """What a client on the hot path asks for."""
    for number in range(rounds):
        name = b"page-%d" % number
        data = pattern(100_000, number)
        ino, handle = wire.create(name)
        assert wire.write(ino, handle, 0, data).error == 0
        assert wire.read(ino, handle, 0, 110_000) == (0, data)
        assert wire.release(ino, handle).error == 0
        assert wire.lookup(name).error == 0
        assert wire.ask(STATFS, ROOT).error == 0


@pytest.mark.parametrize("loads", [1, 64, 2000])
def test_requests_that_python_never_answers(wire: Wire, loads: int) -> None:
    """More of them than threads, and than the relay's socket holds."""
    waiting = [wire.send(MKDIR, ROOT, bytes(8) + b"x" * 200 + b"\0") for _ in range(loads)]
    work(wire, 20)
    wait_for(lambda: wire.splitter.statistics()["relay_waiting"] == loads, "all of them relayed")
    for _ in waiting:  # then it wakes up
        request = wire.relayed()
        wire.answer(request, error=errno.EEXIST)
        assert wire.wait(request.unique).error == errno.EEXIST
    wait_for(lambda: wire.in_hand() == 0, "all of them answered")


def test_stopping_does_not_wait_for_python_when_told_so(wire: Wire) -> None:
    waiting = [wire.send(READDIR, ROOT, read_body(0, 0, 4096)) for _ in range(200)]
    wait_for(lambda: wire.splitter.statistics()["relay_waiting"] == len(waiting), "all of them relayed")
    wire.splitter.stop(False)
    assert {wire.wait(unique).error for unique in waiting} == {errno.EIO}


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def test_the_interpreters_lock_is_held(tmp_path: Path) -> None:
    """The kernel's end is another process; in this one no Python runs until that is done, as the lock is never free."""
    volume = make_volume(tmp_path / "store.kvfs")
    wire = Wire(volume)
    client = Child(lambda: work(wire, 50))
    ended = os.pidfd_open(client.pid)
    wait = _PollFd(ended, 1, 0)  # POLLIN
    # PyDLL, unlike CDLL, keeps the lock during the call
    assert ctypes.PyDLL(None).poll(ctypes.byref(wait), 1, PATIENCE * 1000) == 1, "the client was not served"
    os.close(ended)
    client.result()
    wire.close()
    check_clean(volume)
