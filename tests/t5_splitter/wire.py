"""A splitter with both its far ends in the test's hands: the kernel's, and that of Python behind the relay.

::

    test: kernel <--SOCK_SEQPACKET--> Splitter <--SOCK_SEQPACKET--> test: python
                                         |
                                       Store

The splitter takes any descriptor that speaks messages, so hand-made FUSE requests can be sent and answers looked at
without a mount. Messages are at most 128 KiB of data: a socket's default buffer holds no more.
"""

import os
import select
import socket
import struct
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from kvfs import _native

# <linux/fuse.h>
LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RENAME, OPEN, READ, WRITE = 1, 2, 3, 4, 9, 10, 12, 14, 15, 16
STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, CREATE, INTERRUPT = 17, 18, 20, 25, 26, 27, 28, 35, 36
DESTROY, IOCTL, BATCH_FORGET, FALLOCATE, RENAME2, LSEEK, COPY_FILE_RANGE = 38, 39, 42, 43, 45, 46, 47
UNANSWERED = (FORGET, BATCH_FORGET, INTERRUPT)  # the protocol has no answer to these

ROOT = 1
LARGEST = 128 << 10  # B of data in a message
PATIENCE = 60  # s: an answer that takes longer never comes

_IN = struct.Struct("=IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
_OUT = struct.Struct("=IiQ")  # len, error, unique
_INIT = struct.Struct("=IIIII44x")
_INIT_EXT = 1 << 30


class Answer(NamedTuple):
    """``error``: 0 or an errno, positive."""

    error: int
    body: bytes


class Request(NamedTuple):
    opcode: int
    unique: int
    nodeid: int
    body: bytes


class Wire:
    """``kernel``, ``python``: the test's ends; ``store``, ``splitter``: what is between them."""

    def __init__(self, volume: Path, **options: Any) -> None:
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.store = _native.Store(os.fspath(volume))
        self.splitter = _native.Splitter(self.store, device.detach(), **options)
        self.python = socket.socket(fileno=self.splitter.take_socket())
        self._unique = count(2, 2)  # as the kernel counts
        self._answers: dict[int, Answer] = {}
        self._log: list[tuple[int, str]] = []
        init = self.send(INIT, 0, _INIT.pack(7, 38, 1 << 20, _INIT_EXT, 0))
        self.splitter.start()
        self.init = self.wait(init)
        assert self.init.error == 0
        greeting = self.relayed()
        assert greeting.opcode == INIT
        self.answer(greeting, self.init.body)

    def close(self) -> None:
        self.kernel.close()  # first: a full socket, unlike the kernel, would make whoever answers wait
        self.splitter.close()
        self.python.close()
        self.take_log()
        self.store.close()

    # the kernel's end

    def send(self, opcode: int, nodeid: int, body: bytes = b"", length: int | None = None) -> int:
        """The request's unique number. ``length``: what the header says, when that is not the truth."""
        unique = next(self._unique)
        size = _IN.size + len(body) if length is None else length
        self.kernel.send(_IN.pack(size, opcode, unique, nodeid, 0, 0, os.getpid(), 0, 0) + body)
        return unique

    def wait(self, unique: int) -> Answer:
        while unique not in self._answers:
            assert _readable(self.kernel), f"no answer to request {unique} within {PATIENCE} s"
            self._receive()
        return self._answers.pop(unique)

    def ask(self, opcode: int, nodeid: int, body: bytes = b"") -> Answer:
        return self.wait(self.send(opcode, nodeid, body))

    def wait_for_either(self, unique: int) -> Answer | Request:
        """The answer, or the request as Python gets it."""
        while unique not in self._answers:
            ready = select.select([self.kernel, self.python], [], [], PATIENCE)[0]
            assert ready, f"request {unique} neither answered nor relayed within {PATIENCE} s"
            if self.python in ready:
                return self.relayed()
            self._receive()
        return self._answers.pop(unique)

    def leftovers(self) -> dict[int, Answer]:
        """Answers that nobody has waited for. Those under way are not waited for either."""
        while select.select([self.kernel], [], [], 0)[0]:
            self._receive()
        return self._answers

    def _receive(self) -> None:
        message = self.kernel.recv(LARGEST + 4096)
        length, error, unique = _OUT.unpack_from(message)
        assert length == len(message)
        if unique == 0:  # a notification
            return
        assert unique not in self._answers, f"request {unique} was answered twice"
        self._answers[unique] = Answer(-error, message[_OUT.size :])

    # Python's end

    def relayed(self) -> Request:
        assert _readable(self.python), f"no request was relayed within {PATIENCE} s"
        message = self.python.recv(LARGEST + (64 << 10))
        length, opcode, unique, nodeid, *_ = _IN.unpack_from(message)
        assert length == len(message)
        return Request(opcode, unique, nodeid, message[_IN.size :])

    def answer(self, request: Request, body: bytes = b"", error: int = 0) -> None:
        self.python.send(_OUT.pack(_OUT.size + len(body), -error, request.unique) + body)

    # requests that tests make

    def create(self, name: bytes, flags: int = os.O_RDWR) -> tuple[int, int]:
        """Inode number and handle of a new file in the root."""
        error, body = self.ask(
            CREATE, ROOT, struct.pack("=IIII", flags | os.O_CREAT, 0o100644, 0o022, 0) + name + b"\0"
        )
        assert error == 0, os.strerror(error)
        return struct.unpack_from("=Q", body)[0], struct.unpack_from("=Q", body, 128)[0]

    def write(self, ino: int, handle: int, offset: int, data: bytes) -> Answer:
        return self.ask(WRITE, ino, struct.pack("=QQIIQII", handle, offset, len(data), 0, 0, 0, 0) + data)

    def read(self, ino: int, handle: int, offset: int, size: int) -> Answer:
        return self.ask(READ, ino, read_body(handle, offset, size))

    def release(self, ino: int, handle: int) -> Answer:
        return self.ask(RELEASE, ino, struct.pack("=QIIQ", handle, 0, 0, 0))

    def lookup(self, name: bytes) -> Answer:
        return self.ask(LOOKUP, ROOT, name + b"\0")

    # what was said and counted

    def take_log(self) -> list[tuple[int, str]]:
        """(level, text) of what has been logged since the last call."""
        for token, result in self.store.completions():
            if token == 0 and result[0] == "log":
                self._log.append((result[1], result[2]))
        taken, self._log = self._log, []
        return taken

    def in_hand(self) -> int:
        return int(self.splitter.statistics()["loop"]["in_hand"])


def read_body(handle: int, offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)


def _readable(end: socket.socket) -> bool:
    return bool(select.select([end], [], [], PATIENCE)[0])
