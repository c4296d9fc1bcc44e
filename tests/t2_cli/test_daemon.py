"""A service in a process of its own: what its caller learns, and what it inherits."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.mount import wait_for

from kvfs.cli.daemon import run_detached
from kvfs.errors import KvfsError, VolumeInUse

Ready = Callable[[], None]


def end(pid: int) -> int:
    """Ask the daemon, a child of this process, to end; its exit status, or minus the signal."""
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_returns_once_the_service_is_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def service(ready: Ready) -> None:
        gate.touch()
        ready()
        signal.pause()

    pid = run_detached(service, tmp_path / "log")
    assert gate.exists()
    assert pid != os.getpid()
    end(pid)


def test_the_daemon_stands_alone(tmp_path: Path) -> None:
    """Own session, no directory kept busy, nothing inherited but /dev/null and the log."""
    report = tmp_path / "report"

    def service(ready: Ready) -> None:
        descriptors = {}
        for link in Path("/proc/self/fd").iterdir():
            try:
                descriptors[link.name] = os.readlink(link)
            except FileNotFoundError:
                continue  # the listing's own
        report.write_text(
            json.dumps([os.getsid(0), os.getpid(), os.getcwd(), descriptors, os.environ.get("NOTIFY_SOCKET")])
        )
        ready()

    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    os.environ["NOTIFY_SOCKET"] = "/nowhere"
    try:
        pid = run_detached(service, tmp_path / "log")
    finally:
        os.close(inherited)
        del os.environ["NOTIFY_SOCKET"]
    os.waitpid(pid, 0)
    session, own, directory, descriptors, notify = json.loads(report.read_text())
    assert session == own == pid
    assert directory == "/"
    assert notify is None
    log = str(tmp_path / "log")
    assert {name: descriptors.pop(name) for name in "012"} == {"0": "/dev/null", "1": log, "2": log}
    assert all(target.startswith("pipe:") for target in descriptors.values()), descriptors


def test_output_and_records_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "er" / "log"

    def service(ready: Ready) -> None:
        os.write(1, b"native says this\n")
        ready()
        raise VolumeInUse("after it was ready", "do that")

    pid = run_detached(service, log)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    text = log.read_text()
    assert "native says this\n" in text
    assert "ERROR kvfs: after it was ready; do that" in text


def test_a_failure_before_that_is_the_callers(tmp_path: Path) -> None:
    def service(ready: Ready) -> None:
        raise VolumeInUse("found it in use", "wait")

    with pytest.raises(VolumeInUse, match="found it in use; wait"):
        run_detached(service, tmp_path / "log")
    assert (tmp_path / "log").read_text() == ""


def test_a_bug_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    def service(ready: Ready) -> None:
        raise ZeroDivisionError("oops")

    with pytest.raises(KvfsError, match=r"unexpected ZeroDivisionError: oops; see .*/log"):
        run_detached(service, tmp_path / "log")
    assert "Traceback" in (tmp_path / "log").read_text()


def test_a_crash_is_told_from_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KvfsError, match="the daemon was killed by SIGKILL before the mount answered; see "):
        run_detached(lambda ready: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "log")


def test_a_service_that_never_was_ready_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KvfsError, match="ended with status 0 before the mount answered"):
        run_detached(lambda ready: None, tmp_path / "log")


def test_an_interrupt_ends_the_daemon(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def service(ready: Ready) -> None:
        started.write_text(str(os.getpid()))
        signal.pause()

    class Interrupt:
        def __enter__(self) -> None:
            wait_for(started.exists, "the daemon's start")
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        run_detached(service, tmp_path / "log", meanwhile=Interrupt)
    assert not Path("/proc", started.read_text()).exists()


def test_a_log_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(KvfsError, match=r": cannot write the log: .*; name another file with --log"):
        run_detached(lambda ready: ready(), tmp_path)
