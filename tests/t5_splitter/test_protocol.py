"""Requests that no kernel sends, and answers that no Python sends: each is refused, and the next is served."""

import errno
import os
import random
import struct

import pytest
from support.mount import wait_for
from wire import (
    BATCH_FORGET,
    COPY_FILE_RANGE,
    CREATE,
    FALLOCATE,
    FLUSH,
    FORGET,
    FSYNC,
    GETATTR,
    INTERRUPT,
    IOCTL,
    LOOKUP,
    LSEEK,
    MKDIR,
    OPEN,
    READ,
    READDIR,
    RELEASE,
    RENAME,
    RENAME2,
    ROOT,
    SETATTR,
    UNANSWERED,
    UNLINK,
    WRITE,
    Request,
    Wire,
    read_body,
)

SCALE = int(os.environ.get("KVFS_TEST_SCALE", "1"))
WITH_ARGUMENTS = [LOOKUP, SETATTR, UNLINK, RENAME, OPEN, READ, WRITE, RELEASE, FSYNC, FLUSH, CREATE, IOCTL, FALLOCATE]
WITH_ARGUMENTS += [RENAME2, LSEEK, COPY_FILE_RANGE]
VIRTUAL = 0xFFFF_FFFF_FFFF_0000


def still_serves(wire: Wire) -> None:
    name = os.urandom(8).hex().encode()
    ino, handle = wire.create(name)
    assert wire.write(ino, handle, 0, b"x" * 10_000).error == 0
    assert wire.read(ino, handle, 0, 20_000) == (0, b"x" * 10_000)
    assert wire.release(ino, handle).error == 0
    assert wire.lookup(name).error == 0


def test_unknown_opcodes(wire: Wire) -> None:
    opcodes = (0, 7, 19, 31, 37, 40, 41, 48, 53, 63, 64, 4096, 1 << 31, (1 << 32) - 1)
    for opcode in opcodes:
        assert wire.ask(opcode, ROOT).error == errno.ENOSYS
        assert wire.ask(opcode, ROOT, bytes(64)).error == errno.ENOSYS
    assert wire.splitter.statistics()["unknown_opcodes_total"] == 2 * len(opcodes)
    still_serves(wire)


@pytest.mark.parametrize("opcode", WITH_ARGUMENTS)
def test_messages_that_are_too_short(wire: Wire, opcode: int) -> None:
    for body in (b"", b"\1", b"seven b"):
        assert wire.ask(opcode, ROOT, body).error == errno.EINVAL
    still_serves(wire)


@pytest.mark.parametrize("opcode", [LOOKUP, UNLINK, RENAME, CREATE, RENAME2])
def test_names_without_an_end(wire: Wire, opcode: int) -> None:
    assert wire.ask(opcode, ROOT, b"x" * 100).error == errno.EINVAL
    assert wire.ask(opcode, ROOT, bytes(16) + b"\0").error == errno.EINVAL
    still_serves(wire)


@pytest.mark.parametrize("opcode", UNANSWERED)
def test_short_ones_that_have_no_answer(wire: Wire, opcode: int) -> None:
    wire.send(opcode, ROOT)
    wire.send(opcode, ROOT, b"\xff" * 5)
    still_serves(wire)
    wait_for(lambda: wire.in_hand() == 0, "both taken back")
    assert wire.leftovers() == {}


@pytest.mark.parametrize("length", [0, 39, 41, 1 << 20, (1 << 32) - 1])
@pytest.mark.parametrize("opcode", [GETATTR, MKDIR])
def test_a_header_that_lies_about_the_length(wire: Wire, opcode: int, length: int) -> None:
    assert wire.wait(wire.send(opcode, ROOT, length=length)).error == errno.EINVAL
    still_serves(wire)


@pytest.mark.parametrize("message", [b"x", bytes(39)])
def test_messages_without_a_header(wire: Wire, message: bytes) -> None:
    wire.kernel.send(message)
    still_serves(wire)
    ((level, text),) = wait_for(wire.take_log, "a line in the log")
    assert (level, text) == (40, f"a message of {len(message)} bytes is no request: dropped")


class TestHandles:
    @pytest.mark.parametrize("handle", [0, 2, 1000, (1 << 32) - 1, 1 << 32, (1 << 64) - 1])
    @pytest.mark.parametrize("opcode", [READ, WRITE, RELEASE, FSYNC, FLUSH, FALLOCATE, LSEEK, COPY_FILE_RANGE])
    def test_that_nobody_gave_out(self, wire: Wire, opcode: int, handle: int) -> None:
        ino, _ = wire.create(b"file")
        body = struct.pack("=QQQQQQQ", handle, 0, 0, 0, 0, 0, 0)
        assert wire.ask(opcode, ino, body).error in (errno.EINVAL, errno.EBADF)
        still_serves(wire)

    def test_that_were_released(self, wire: Wire) -> None:
        ino, handle = wire.create(b"file")
        assert wire.release(ino, handle).error == 0
        assert wire.release(ino, handle).error == errno.EBADF
        assert wire.read(ino, handle, 0, 4096).error == errno.EINVAL
        still_serves(wire)


class TestSizes:
    @pytest.mark.parametrize("size", [(1 << 20) + 1, 1 << 31, (1 << 32) - 1])
    def test_a_read_of_more_than_was_agreed(self, wire: Wire, size: int) -> None:
        ino, handle = wire.create(b"file")
        assert wire.ask(READ, ino, read_body(handle, 0, size)).error == errno.EINVAL
        still_serves(wire)

    def test_a_write_that_promises_more_than_it_brings(self, wire: Wire) -> None:
        ino, handle = wire.create(b"file")
        body = struct.pack("=QQIIQII", handle, 0, 5000, 0, 0, 0, 0) + b"x" * 4999
        assert wire.ask(WRITE, ino, body).error == errno.EINVAL
        assert wire.read(ino, handle, 0, 5000) == (0, b"")

    @pytest.mark.parametrize("offset", [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1])
    def test_offsets_beyond_the_largest_file(self, wire: Wire, offset: int) -> None:
        ino, handle = wire.create(b"file")
        assert wire.write(ino, handle, offset, b"x" * 4096).error in (errno.EFBIG, errno.EINVAL)
        error, data = wire.read(ino, handle, offset, 4096)
        assert (error, data) == (0, b"") or error in (errno.EINVAL, errno.EFBIG)
        still_serves(wire)


def random_body(draw: random.Random, handle: int) -> bytes:
    """Words that mean something in some request (handles, small numbers, extremes), then perhaps names."""
    words = [draw.choice((handle, 0, 1, 2, 4096, 65536, 1 << 31, (1 << 63) - 1, (1 << 64) - 1, draw.getrandbits(64)))]
    words += [draw.choice((handle, 0, 0, 1, 3, 4096, draw.getrandbits(16), draw.getrandbits(64))) for _ in range(10)]
    body = b"".join(word.to_bytes(8, "little") for word in words)[: draw.randrange(89)]
    return body + draw.choice(
        (b"", b"name\0", b"name\0other\0", b"name", b"\0", b"x" * 300 + b"\0", draw.randbytes(40))
    )


@pytest.mark.parametrize("seed", range(8 * SCALE))
def test_random_messages(wire: Wire, seed: int) -> None:
    """Each is answered once, or relayed once; what Python refuses is answered once."""
    draw = random.Random(seed)
    ino, handle = wire.create(b"file")
    relayed = 0
    for _ in range(1000):
        opcode = draw.choice((draw.randrange(64), draw.randrange(64), draw.getrandbits(32)))
        nodeid = draw.choice((0, ROOT, ino, ino, ino + 1, 12345, VIRTUAL, VIRTUAL + 1, draw.getrandbits(64)))
        unique = wire.send(opcode, nodeid, random_body(draw, handle))
        if opcode in UNANSWERED:
            continue
        outcome = wire.wait_for_either(unique)
        if isinstance(outcome, Request):
            relayed += 1
            assert (outcome.opcode, outcome.unique, outcome.nodeid) == (opcode, unique, nodeid)
            wire.answer(outcome, error=errno.ENOSYS)
            assert wire.wait(unique).error == errno.ENOSYS
    assert relayed > 0
    wait_for(lambda: wire.in_hand() == 0, "every request answered or taken back")
    assert wire.leftovers() == {}
    still_serves(wire)


class TestAnswersOfPython:
    def test_one_that_does_not_fit(self, wire: Wire) -> None:
        unique = wire.send(READDIR, ROOT, read_body(0, 0, 4096))
        wire.answer(wire.relayed(), bytes(170_000))
        assert wire.wait(unique).error == errno.EIO
        ((level, text),) = wait_for(wire.take_log, "a line in the log")
        assert level == 40
        assert "opcode 28" in text
        still_serves(wire)

    def test_one_without_a_header(self, wire: Wire) -> None:
        wire.python.send(b"15 bytes, not 16")
        wire.python.send(b"x")
        still_serves(wire)

    def test_one_to_nothing(self, wire: Wire) -> None:
        wire.answer(Request(MKDIR, 123_456, ROOT, b""))
        still_serves(wire)
        assert wire.leftovers() == {}

    def test_two_to_one(self, wire: Wire) -> None:
        unique = wire.send(MKDIR, ROOT, bytes(8) + b"name\0")
        request = wire.relayed()
        wire.answer(request, error=errno.EACCES)
        wire.answer(request)
        assert wire.wait(unique).error == errno.EACCES
        still_serves(wire)
        assert wire.leftovers() == {}

    def test_none_and_it_goes(self, wire: Wire) -> None:
        unique = wire.send(MKDIR, ROOT, bytes(8) + b"name\0")
        wire.relayed()
        wire.python.close()
        still_serves(wire)
        wire.splitter.stop(False)
        assert wire.wait(unique).error == errno.EIO


def test_interrupts_of_what_is_not_there(wire: Wire) -> None:
    for unique in (0, 2, 1 << 40):
        wire.send(INTERRUPT, 0, struct.pack("=Q", unique))
    still_serves(wire)


@pytest.mark.parametrize("count", [1, 1000, (1 << 64) - 1])
def test_more_forgotten_than_was_known(wire: Wire, count: int) -> None:
    ino, handle = wire.create(b"file")
    wire.send(FORGET, ino, struct.pack("=Q", count))
    wire.send(BATCH_FORGET, 0, struct.pack("=II", 1, 0) + struct.pack("=QQ", ino, count))
    wire.send(BATCH_FORGET, 0, struct.pack("=II", (1 << 32) - 1, 0) + struct.pack("=QQ", 99, count))
    wait_for(lambda: wire.in_hand() == 0, "all of them taken")
    assert wire.write(ino, handle, 0, b"x").error == 0
    assert wire.release(ino, handle).error == 0
    assert wire.lookup(b"file").error == 0
