"""``.kvfs/admin``: commands to a running mount, for its owner and root.

One write(2) is one command: a JSON object with its name under ``command`` and its arguments beside it. The answer is
read from the same open file: ``{"answer": ...}``, or ``{"error": one line, "errno": number}``, and a line break. A
write that is no command the mount knows fails with EINVAL, and the answer says what was expected. ::

    {"command": "sync"}

Who asks: ``kvfs.cli.admin.ask``. To add a command, give ``AdminFile.add`` its name, the struct of its arguments and
an async function. The client's write waits for it, so work of more than a second is started by one command and looked
after by another.

Concurrency: all of this runs on trio's thread. Each handle has its own answer, and takes one command at a time (EBUSY
for a second one meanwhile); commands of different handles may overlap, and what they share they have to guard.
"""

import errno
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from pyfuse3 import FUSEError

from kvfs.errors import KvfsError, one_line

log = logging.getLogger(__name__)

LARGEST_COMMAND = 64 << 10  # bytes


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a command; a command without any uses this itself."""

    command: str


C = TypeVar("C", bound=Command)


class _Name(msgspec.Struct):
    command: str


class AdminFile:
    """A row of the control directory's table."""

    name = b"admin"
    mode = 0o600

    def __init__(self) -> None:
        self._commands: dict[str, tuple[type[Command], Callable[[Any], Awaitable[Any]]]] = {}

    def add(self, name: str, arguments: type[C], run: Callable[[C], Awaitable[Any]]) -> None:
        """``run`` returns what becomes JSON; KvfsError and OSError are answers too."""
        self._commands[name] = arguments, run

    def refresh(self) -> None:
        pass

    def size(self) -> int:
        return 0

    def open(self, flags: int) -> "AdminHandle":
        return AdminHandle(self)

    def parse(self, text: bytes) -> tuple[Command, Callable[[Any], Awaitable[Any]]]:
        """ValueError, with one line, when it is no command."""
        if len(text) > LARGEST_COMMAND:
            raise ValueError(f"expected at most {LARGEST_COMMAND} bytes, found {len(text)}")
        try:
            name = msgspec.json.decode(text, type=_Name).command
            if name not in self._commands:
                known = ", ".join(sorted(self._commands))
                raise ValueError(f"expected one of {known} under `command`, found {name!r}")
            arguments, run = self._commands[name]
            return msgspec.json.decode(text, type=arguments), run
        except RecursionError:
            raise ValueError("expected a JSON object with a command, found one that is nested too deep") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"expected a JSON object with a command, found: {error}") from error


class AdminHandle:
    def __init__(self, file: AdminFile) -> None:
        self._file = file
        self._answer = b""
        self._busy = False

    async def read(self, offset: int, size: int) -> bytes:
        return self._answer[offset : offset + size]

    async def write(self, data: bytes) -> int:
        if self._busy:
            raise FUSEError(errno.EBUSY)
        try:
            command, run = self._file.parse(data)
        except ValueError as error:
            self._answer = _failure(str(error), errno.EINVAL)
            raise FUSEError(errno.EINVAL) from error
        self._busy = True
        try:
            self._answer = msgspec.json.encode({"answer": await run(command)}) + b"\n"
        except KvfsError as error:
            self._answer = _failure(str(error), errno.EIO)
        except OSError as error:
            self._answer = _failure(error.strerror or str(error), error.errno or errno.EIO)
        except BaseException:
            self._answer = _failure(os.strerror(errno.EIO), errno.EIO)  # a bug: not the last command's answer
            raise
        finally:
            self._busy = False
        return len(data)


def _failure(line: str, code: int) -> bytes:
    return msgspec.json.encode({"error": one_line(line), "errno": code}) + b"\n"
