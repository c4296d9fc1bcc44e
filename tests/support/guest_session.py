"""Tests marked ``guest`` run in a virtual machine (``tools/guest``), all in one pytest session there, and are
reported here.

Here pytest collects them as any other test. When the first one's turn comes the guest is started with the names of
all of them; inside, each report is written to /run/guest/result as a line of JSON, which is a file here that grows. A
test's turn here is to wait for its own reports and to pass them on: outcome, text of a failure, captured output and
duration are the guest's. When no guest can be had they are skipped with the reason, and fail in CI. A test that the
guest did not get to fails with the end of what the guest said.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
UNAVAILABLE = 120  # exit status of tools/guest
DRIVES = "4x512M"
_TIMEOUT = "15m"  # that nothing hangs in: they take a third of it on an idle machine
_RESULT = Path("/run/guest/result")
_PATIENCE = 15.0  # s that tools/guest has to end in
_SHOWN = 8000  # characters of what the guest said
_KEY = pytest.StashKey["GuestSession"]()


def is_inside() -> bool:
    """Whether this process runs in the guest."""
    return os.environ.get("KVFS_GUEST") == "1"


def write_report(config: pytest.Config, report: pytest.TestReport) -> None:
    """Inside: send one report out. Nowhere to send it is no error: somebody runs pytest in a guest by hand."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    with _RESULT.open("a") as port:
        port.write(json.dumps(data) + "\n")


def run_outside(item: pytest.Item) -> None:
    """Outside: one test's turn."""
    session = item.config.stash.get(_KEY, None)
    if session is None:
        session = item.config.stash[_KEY] = GuestSession(item.session)
        item.config.add_cleanup(session.close)
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in session.reports(item):
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


class GuestSession:
    """The one guest of this pytest session."""

    def __init__(self, session: pytest.Session) -> None:
        self._config = session.config
        self._place = tempfile.TemporaryDirectory(prefix="kvfs-guest-session-")
        self._result = Path(self._place.name) / "result"
        self._log = Path(self._place.name) / "log"
        self._result.touch()
        self._stream = self._result.open("rb")
        self._partial = b""
        self._has_been_quoted = False
        self._pending: dict[str, list[dict[str, Any]]] = {}
        names = [item.nodeid for item in session.items if item.get_closest_marker("guest")]
        inside = [".venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *names]
        command = [CHECKOUT / "tools/guest", "--drives", DRIVES, "--timeout", _TIMEOUT, "--result", self._result]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--directory", CHECKOUT, "--", *inside], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def close(self) -> None:
        """End the guest, also when it is not done."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._stream.close()
        self._place.cleanup()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Those of one test, as they come; one that says why when the guest ended before."""
        while True:
            is_over = self._process.poll() is not None
            self._receive()
            for data in self._pending.pop(item.nodeid, []):
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                if isinstance(report.longrepr, list):  # where a test skipped; JSON has no tuples
                    report.longrepr = tuple(report.longrepr)
                yield report
                if report.when == "teardown":
                    return
            if is_over:
                yield self._missing(item)
                return
            time.sleep(0.05)

    def _receive(self) -> None:
        *lines, self._partial = (self._partial + self._stream.read()).split(b"\n")
        for line in lines:
            data = json.loads(line)
            self._pending.setdefault(data["nodeid"], []).append(data)

    def _missing(self, item: pytest.Item) -> pytest.TestReport:
        said = self._log.read_text(errors="replace").strip()
        if self._process.returncode == UNAVAILABLE:
            reason = f"NOT TESTED: {said.splitlines()[-1]}"
            if not os.environ.get("KVFS_CI"):
                path, line, _ = item.location
                return _report(item, "skipped", (path, line or 0, f"Skipped: {reason}"))
            return _report(item, "failed", f"{reason}\nCI must not skip")
        how = f"tools/guest ended with {self._process.returncode} before this test was done"
        if self._has_been_quoted:
            return _report(item, "failed", f"{how}: see the first test that says so")
        self._has_been_quoted = True
        return _report(item, "failed", f"{how}; it said:\n{said[-_SHOWN:]}")


def _report(item: pytest.Item, outcome: Any, text: Any) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, outcome, text, "call")
