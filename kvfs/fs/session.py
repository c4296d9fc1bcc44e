"""The FUSE session of a mount: who reads the kernel's requests, and how that begins and ends.

``Pyfuse3Session`` is tier 0: libfuse mounts and reads. ``NativeSession`` is the default: the mount is ours, the native
splitter reads and answers, and pyfuse3 is given a socket for ``/dev/fuse`` on which the rest comes.
"""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import ENODEV, ENOENT, ENOTCONN
from typing import Any, Protocol

import pyfuse3
import trio

from kvfs._native import Splitter, Store, default_warm_budget
from kvfs.errors import MountError, one_line
from kvfs.fs import request_loop
from kvfs.fs.device import detach_device, escape, mount_device
from kvfs.fs.operations import FileSystemStatistics
from kvfs.fs.options import MountOptions

log = logging.getLogger(__name__)


class Session(Protocol):
    """In the order of their calls; ``close`` also after any of the others has failed."""

    components: Mapping[str, Callable[[], Any]]

    def whole(self, part: FileSystemStatistics) -> FileSystemStatistics:
        """``part``, which Python answered, and what was answered without it."""

    def mount(self, file_system: pyfuse3.Operations) -> None:
        """Requests begin to arrive; pyfuse3.main() may be called. Raises MountError, NoFuse."""

    async def watch(self) -> None:
        """Until cancelled: make pyfuse3.main() return when the connection ends in a way that it cannot see."""

    async def end(self) -> None:
        """Take no new request, answer those in hand, make pyfuse3.main() return."""

    def close(self) -> None:
        """Unmount when that has not happened yet."""


class Pyfuse3Session:
    """libfuse owns /dev/fuse."""

    def __init__(self, options: MountOptions) -> None:
        self.components: Mapping[str, Callable[[], Any]] = {}
        self._options = options
        self._mounted = False

    def whole(self, part: FileSystemStatistics) -> FileSystemStatistics:
        return part

    def mount(self, file_system: pyfuse3.Operations) -> None:
        options = self._options
        names = {_MountOption(f"fsname={escape(options.fsname)}"), "subtype=kvfs", *options.flags()}
        logging.getLogger("pyfuse3").addFilter(_is_worth_logging)
        with _captured_stderr() as said:
            try:
                pyfuse3.init(file_system, str(options.mountpoint), names)
            except RuntimeError as error:
                reason = said() or str(error)
                hint = "`kvfsctl doctor` checks what it takes"
                raise MountError(f"{options.mountpoint}: cannot mount: {reason}", hint) from error
            if said():
                log.warning("mounting %s: %s", options.mountpoint, said())
        self._mounted = True

    async def watch(self) -> None:
        pass

    async def end(self) -> None:
        pyfuse3.terminate()

    def close(self) -> None:
        if self._mounted:
            pyfuse3.close(unmount=True)


class NativeSession:
    """The splitter owns /dev/fuse.

    Who ends it: the kernel (unmounted: ``ended_fd`` turns readable), a signal (``end``), or an exception of
    pyfuse3 (``close``). ``Splitter.stop`` blocks until requests in hand are answered, some of them by Python:
    it runs in a thread while trio's loop goes on, except in ``close``, where nobody would answer any more.
    """

    def __init__(self, store: Store, options: MountOptions) -> None:
        self.components: Mapping[str, Callable[[], Any]] = {"splitter": self._statistics, "warm": self._warm_statistics}
        self._options = options
        self._store = store
        self._fd = -1
        self._splitter: Splitter | None = None
        self._is_initialised = False
        self._is_ending = False

    def whole(self, part: FileSystemStatistics) -> FileSystemStatistics:
        native = self._statistics()
        return FileSystemStatistics(
            part.open_files + native["open_files"],
            part.open_directories,
            dict(Counter(part.requests_total) + Counter(native["requests_total"])),
            dict(Counter(part.errors_total) + Counter(native["errors_total"])),
        )

    def mount(self, file_system: pyfuse3.Operations) -> None:
        options = self._options
        loop = request_loop.choose(options.threads) if options.request_loop == "auto" else options.request_loop
        fd = mount_device(options.mountpoint, options.fsname, options.flags())
        self._fd = os.dup(fd)  # to unmount by, when the splitter has given its own up
        os.set_inheritable(self._fd, False)
        self._splitter = Splitter(
            self._store,
            fd,
            threads=options.threads,
            loop=loop,
            read_only=options.read_only,
            passthrough=options.passthrough,
            warm_bytes=default_warm_budget() if options.warm_bytes is None else options.warm_bytes,
        )
        logging.getLogger("pyfuse3").addFilter(_is_worth_logging)
        with _captured_stderr() as said:
            try:
                pyfuse3.init(file_system, f"/dev/fd/{self._splitter.take_socket()}", set())
            except RuntimeError as error:
                raise MountError(f"{options.mountpoint}: cannot mount: {said() or error}") from error
        self._is_initialised = True
        try:
            self._splitter.start()
        except OSError as error:
            raise MountError(f"{options.mountpoint}: cannot mount: {error.strerror}") from error

    async def watch(self) -> None:
        assert self._splitter is not None
        await trio.lowlevel.wait_readable(self._splitter.ended_fd)
        await self.end()

    async def end(self) -> None:
        assert self._splitter is not None
        if self._is_ending:  # by a signal, which ends the connection, which ends the mount...
            return
        self._is_ending = True
        await trio.to_thread.run_sync(self._splitter.stop)
        pyfuse3.terminate()

    def close(self) -> None:
        if self._splitter is not None:
            self._splitter.stop(python_answers=False)
        if self._is_initialised:
            pyfuse3.close(unmount=False)
        if self._fd >= 0:
            problem = detach_device(self._options.mountpoint, self._fd)
            if problem:
                log.error("%s: cannot unmount: %s", self._options.mountpoint, problem)
            os.close(self._fd)
        if self._splitter is not None:
            self._splitter.close()

    def _statistics(self) -> dict[str, Any]:
        assert self._splitter is not None
        return self._splitter.statistics()

    def _warm_statistics(self) -> dict[str, Any]:
        assert self._splitter is not None
        return self._splitter.warm_statistics()


class _MountOption(str):
    """pyfuse3 encodes mount options as ASCII, which a path need not be."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))  # str(): an object of the plain type


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Not so: a reply that comes after the kernel gave the request up, its client killed or the mount gone."""
    if "fuse_reply_* failed" not in str(record.msg) or not isinstance(record.args, tuple):
        return True
    return not {os.strerror(code) for code in (ENOENT, ENODEV, ENOTCONN)}.intersection(record.args)


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """libfuse and fusermount3 say why they fail on standard error only; yields what tells it, on one line."""
    with tempfile.TemporaryFile() as said:

        def text() -> str:
            said.seek(0)
            return one_line(said.read().decode(errors="replace"))

        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield text
        finally:
            os.dup2(kept, 2)
            os.close(kept)
