"""Persistent reservations on the kernel's target, between two host identities."""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.direct import aligned
from support.mount import wait_for
from support.nvme_host import block_devices, connect
from support.nvmet import SERVICE, Nvmet, Target, discard, host

from kvfs.fabric.reservations import (
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    Registrant,
    Report,
    ReservationConflict,
    Reservations,
    open_device,
    parse_report,
)

NQN = "nqn.2026-11.test.kvfs:reserved"
BLOCK = 4096
A, B = 0xA1, 0xB2


class Side:
    """One host's connection to the namespace."""

    def __init__(self, name: str, target: Target, stack: ExitStack) -> None:
        before = set(block_devices(target.nqn))
        connect(target, "duplicate_connect", identity=host(name))
        (device,) = wait_for(lambda: set(block_devices(target.nqn)) - before, f"the device of host {name}")
        self.fd = open_device(device)
        stack.callback(os.close, self.fd)
        self.reservations = Reservations(self.fd, str(device))
        self.host_id = host(name).identifier.replace("-", "")

    def may_write(self) -> bool:
        try:
            return os.pwrite(self.fd, aligned(bytes(BLOCK)), 0) == BLOCK
        except OSError as error:
            if error.errno != errno.EBADE:
                raise
            return False

    def report(self) -> Report:
        found = self.reservations.report()
        assert found is not None
        return found


def sides(nvmet: Nvmet, drives: list[Path], stack: ExitStack, *, resv: bool) -> list[Side]:
    discard(drives[0])
    target = nvmet.port("tcp", "127.0.0.1", SERVICE).expose(nvmet.subsystem(NQN, drives[:1], resv=resv))
    return [Side(name, target, stack) for name in ("a", "b")]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.mark.guest
def test_of_two_hosts_one_writes(two_hosts: None, nvmet: Nvmet, drives: list[Path], stack: ExitStack) -> None:
    a, b = sides(nvmet, drives, stack, resv=True)
    assert a.reservations.are_supported()
    assert (a.report().kind, a.report().registrants) == (0, ())
    for _ in range(2):  # the same host again, as after a crash
        a.reservations.register(A)
        a.reservations.reserve(A)
    assert (a.may_write(), b.may_write()) == (True, False)

    b.reservations.register(B)
    with pytest.raises(ReservationConflict, match="reserved by another host"):
        b.reservations.reserve(B)
    found = b.report()
    assert found.kind == WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    assert found.holder == Registrant(A, a.host_id, True)
    assert set(found.registrants) == {Registrant(A, a.host_id, True), Registrant(B, b.host_id, False)}
    b.reservations.unregister(B)
    assert (b.may_write(), len(b.report().registrants)) == (False, 1)

    b.reservations.register(B)
    b.reservations.preempt(A, B)
    assert b.report().registrants == (Registrant(B, b.host_id, True),)
    assert (a.may_write(), b.may_write()) == (False, True)
    with pytest.raises(ReservationConflict):
        a.reservations.reserve(A)

    b.reservations.register(B + 1)  # with another key
    assert b.report().holder == Registrant(B + 1, b.host_id, True)
    b.reservations.release(B + 1)
    b.reservations.unregister(B + 1)
    assert (b.report().kind, b.report().registrants) == (0, ())
    assert (a.may_write(), b.may_write()) == (True, True)


@pytest.mark.guest
def test_a_target_without_reservations(two_hosts: None, nvmet: Nvmet, drives: list[Path], stack: ExitStack) -> None:
    a, b = sides(nvmet, drives, stack, resv=False)
    assert not a.reservations.are_supported()
    for refused in (a.reservations.register, a.reservations.reserve):
        with pytest.raises(OSError, match="NVMe status 0x001"):  # Invalid Command Opcode
            refused(A)
    assert (a.may_write(), b.may_write()) == (True, True)


def test_a_file_has_no_reservations(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        reservations = Reservations(file.fileno(), "file")
        assert not reservations.are_supported()
        assert reservations.report() is None


def test_a_report_as_the_specification_draws_it() -> None:
    """NVMe Base Specification 2.0, section 7.8: generation 7, Write Exclusive - Registrants Only."""
    header = bytes.fromhex("07000000 03 0200 0000 01").ljust(64, b"\0")
    holder = (struct.pack("<HB5xQ", 1, 1, A) + bytes(range(16))).ljust(64, b"\0")
    other = (struct.pack("<HB5xQ", 2, 0, B) + bytes(16)).ljust(64, b"\0")
    found = parse_report(header + holder + other + bytes(4096 - 192))
    assert found == Report(7, 3, (Registrant(A, bytes(range(16)).hex(), True), Registrant(B, "00" * 16, False)))
    assert found.holder == found.registrants[0]
    assert parse_report(header + holder).registrants == found.registrants[:1], "cut off: what is there"
    with pytest.raises(ValueError, match="expected 64 bytes of reservation status, found 63"):
        parse_report(header[:63])
