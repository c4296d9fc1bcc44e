"""Readers and writers of pages in a mount, each in a thread, who keep count of what they saw.

What counts as seen: every byte of a page that was read is verified; a page whose rename is durable is acknowledged
and must be there from then on, in that version or a later one. An error is noted with its errno and the seconds that
the call took; the client goes on.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from support.direct import direct_read
from support.pages import make_page, page_version

_PAUSE = 0.05  # s, after an error: a client that is refused does not spin


class Client:
    """``done``: calls that succeeded; ``errors``: errno of those that did not; ``longest``: seconds of one step."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.done = 0
        self.errors: list[int] = []
        self.longest = 0.0
        self.wrong = ""

    def _run(self) -> None:
        while not self._stop.is_set() and not self.wrong:
            begin = time.monotonic()
            try:
                self._step()
                self.done += 1
            except OSError as error:
                self.errors.append(error.errno or 0)
                self._stop.wait(_PAUSE)
            except AssertionError as error:
                self.wrong = str(error)
            self.longest = max(self.longest, time.monotonic() - begin)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Whether it has ended; one that has not hangs in a call."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()


class Load:
    """A context manager: a reader and a writer at work below ``directory``."""

    PAGES, READ_SIZE, WRITE_SIZE = 4, 256 << 10, 64 << 10

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.acknowledged: dict[str, int] = {}
        self._turn = 0
        for number in range(self.PAGES):
            self._write(f"read-{number}", 1, self.READ_SIZE)
        self.reader, self.writer = Client(self._read_one), Client(self._write_one)
        self._reads = 0

    @property
    def clients(self) -> tuple[Client, Client]:
        return self.reader, self.writer

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self.clients:
            client.stop(5 if error else 60)

    def check(self) -> None:
        """All that was acknowledged is there, and no byte is wrong."""
        for client in self.clients:
            assert client.stop(60), "a call hangs"
            assert not client.wrong, client.wrong
        for name, version in self.acknowledged.items():
            assert page_version(name, (self.directory / name).read_bytes()) >= version
        for path in self.directory.glob("*.tmp"):
            path.unlink()

    def _read_one(self) -> None:
        name = f"read-{self._reads % self.PAGES}"
        self._reads += 1
        fd = os.open(self.directory / name, os.O_RDONLY | os.O_DIRECT)
        try:
            assert page_version(name, direct_read(fd, self.READ_SIZE, 0)) == 1
        finally:
            os.close(fd)

    def _write_one(self) -> None:
        self._turn += 1
        self._write(f"write-{self._turn % self.PAGES}", self._turn, self.WRITE_SIZE)

    def _write(self, name: str, version: int, size: int) -> None:
        path = self.directory / f"{name}.tmp"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            data = make_page(name, version, size)
            assert os.write(fd, data) == size
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path, self.directory / name)
        fd = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.acknowledged[name] = version
