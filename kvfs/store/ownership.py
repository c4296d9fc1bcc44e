"""Whose a volume is, and how a host takes it: with a mount, or over another host's head.

The protocol, and what happens when either side dies, is in ``native/store/ownership.hpp``. Here is the part that
decides: who is let in, when a claim is written, how long the old owner is given. The native side checks once more, and
watches from then on.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from kvfs import _native
from kvfs.errors import UsageError, VolumeOwned, from_oserror
from kvfs.fabric.reservations import Report, ReservationConflict, Reservations, open_device
from kvfs.store.hosts import VARIABLE, Host

SETTLE = _native.LOOK_INTERVAL  # s in which two hosts that claim at the same time find each other
_OBSERVE = _native.LEASE  # s after which an owner without a new beat is taken for dead
_GRACE = _native.LEASE + _native.LOOK_INTERVAL  # s after which an owner that can look at all has looked
_POLL = 0.1  # s

StrPath = str | os.PathLike[str]


class Mark(msgspec.Struct, frozen=True):
    """A beat or a claim, as ``native/format/format.hpp`` has them. ``owner``: JSON of whoever wrote it."""

    host: bytes
    host_name: str
    epoch: int
    count: int
    written_ns: int
    yields: bool
    owner: str


class Ownership(msgspec.Struct, frozen=True):
    """What a volume says of itself. ``host``: None where no host has ever mounted or formatted it by name."""

    path: str
    uuid: bytes
    epoch: int
    clean: bool
    host: bytes | None
    owner: str
    beat: Mark | None
    claim: Mark | None

    @property
    def newer_claim(self) -> Mark | None:
        return self.claim if self.claim and self.claim.epoch > self.epoch else None

    @property
    def highest_epoch(self) -> int:
        return max(self.epoch, self.claim.epoch if self.claim else 0)

    @property
    def is_free(self) -> bool:
        """Any host may mount it."""
        return self.newer_claim is None and (self.host is None or self.clean)

    @property
    def owner_id(self) -> bytes | None:
        """Of the owner."""
        return self.newer_claim.host if self.newer_claim else self.host

    @property
    def boot_id(self) -> str:
        """Of the kernel that the owner ran on; empty when it has not said so."""
        found = _parsed(self.newer_claim.owner if self.newer_claim else self.owner).get("boot_id")
        return found if isinstance(found, str) else ""

    def is_of(self, host: Host) -> bool:
        """Whether ``host`` is the owner; one kernel is one host, whatever its containers call themselves."""
        return self.owner_id == host.id or bool(self.boot_id and self.boot_id == host.boot_id)

    def may_be_a_twin_of(self, host: Host) -> bool:
        """Whether the owner goes by the same id and ran on another kernel: ``host`` before it was booted anew, or a
        clone of it, which machine ids are copied with."""
        return not self.is_free and self.owner_id == host.id and bool(self.boot_id) and self.boot_id != host.boot_id

    @property
    def host_name(self) -> str:
        """Of the owner."""
        if claim := self.newer_claim:
            return claim.host_name
        said = _parsed(self.owner)
        return str(said.get("host_name") or said.get("host") or (self.host or b"").hex())

    def describe(self) -> str:
        """The owner in words."""
        if claim := self.newer_claim:
            return f"host {claim.host_name}, which took it over at {_time(claim.written_ns)}"
        said = _parsed(self.owner)
        words = f"host {self.host_name}"
        if "mountpoint" in said:
            words += f" (mounted on {said['mountpoint']} since {said.get('since', 'an unknown time')})"
        if self.beat and self.beat.epoch == self.epoch:
            words += f", last sign of life at {_time(self.beat.written_ns)} by its clock"
        return words


def read(path: StrPath) -> Ownership:
    """OSError when it cannot be read; VolumeError when that is no volume."""
    name = os.fspath(path)
    found = _native.inspect(name)
    if found["best"] is None:
        raise from_oserror(OSError(found["error"], found["problem"]), name)
    best = found["copies"][found["best"]]["superblock"]
    return Ownership(
        path=name,
        uuid=UUID(best["uuid"]).bytes,
        epoch=best["epoch"],
        clean=best["clean"],
        host=best["host"],
        owner=best["owner"],
        beat=found["beat"] and Mark(**found["beat"]),
        claim=found["claim"] and Mark(**found["claim"]),
    )


def refuse_other(found: Ownership, host: Host) -> None:
    """VolumeOwned when another host has it and did not close it in order."""
    if not found.is_free and not found.is_of(host):
        raise VolumeOwned(
            f"{found.path}: belongs to {found.describe()}",
            f"unmount it there, mount it here with --read-only, or take it over: `kvfsctl takeover {found.path}`",
        )


class Hold:
    """This host's hold on a volume that it mounts for writing: the target's reservation, where there are such.

    ``take`` is called with the locked device before the store reads anything (``Store``'s ``on_locked``), and keeps a
    descriptor of it: nobody else can lock the volume before ``end``, so no other mount's reservation is ever ended
    here. ``keeps_lock`` False leaves that to the store: for what opens the volume again before it lets go of it. All of
    it blocks.
    """

    def __init__(self, path: StrPath, host: Host, *, keeps_lock: bool = True) -> None:
        self._keeps_lock = keeps_lock
        self._path = os.fspath(path)
        self._host = host
        self._fd = -1
        self._reservations: Reservations | None = None
        self.was_free = False
        self._renewals = 0
        self._failures = 0

    def take(self, fd: int) -> None:
        """VolumeOwned when it is another host's, OSError."""
        found = read(self._path)
        refuse_other(found, self._host)
        if found.may_be_a_twin_of(self._host) and _is_alive(self._path, found):
            raise VolumeOwned(
                f"{self._path}: in use by another host that goes by this one's id, {self._host.id.hex()}",
                f"give each host an id of its own: /etc/machine-id, or {VARIABLE}",
            )
        self.was_free = found.is_free
        self._fd = os.dup(fd) if self._keeps_lock else open_device(self._path)
        try:
            self._reserve()
            if found.newer_claim is None and found.host in (None, self._host.id):
                return
            if (claim := found.newer_claim) and claim.host == self._host.id:
                return
            # the device is locked, so the owner is dead where it ran on this very kernel
            waits = self._reservations is None and not found.is_of(self._host)
            claimed = claim_volume(self._fd, found, self._host)
            if waits:
                time.sleep(SETTLE)
                refuse_rival(self._path, claimed, self._host)
        except BaseException:
            self.end(in_order=self.was_free)
            raise

    def _reserve(self) -> None:
        reservations = Reservations(self._fd, self._path)
        if not reservations.are_supported():
            return
        key = self._host.key
        reservations.register(key)
        try:
            reservations.reserve(key)
        except ReservationConflict as error:
            holder = _holder_key(reservations)
            if holder != key:
                reservations.unregister(key)
                raise VolumeOwned(
                    f"{self._path}: another host has reserved it on its target (key {_hex(holder)})",
                    f"unmount it there, mount it here with --read-only, or take it over: "
                    f"`kvfsctl takeover {self._path}`",
                ) from error
            reservations.preempt(key, key)  # this host, when it had another NVMe host id
        self._reservations = reservations

    def renew(self) -> str | None:
        """Look whether the reservation is still there; a target that was restarted has forgotten it. One line when it
        had to be made again, None when all is well. OSError, ReservationConflict."""
        if self._reservations is None:
            return None
        try:
            report = self._reservations.report()
            if report is None or any(each.holds and each.key == self._host.key for each in report.registrants):
                return None
            found = read(self._path)
            if report.holder is not None or not found.is_of(self._host):
                raise ReservationConflict(f"{self._path}: another host has reserved it")
            self._reservations.register(self._host.key)
            self._reservations.reserve(self._host.key)
        except (OSError, ReservationConflict):
            self._failures += 1
            raise
        self._renewals += 1
        return f"{self._path}: the target had lost the reservation; it is made again"

    def end(self, *, in_order: bool) -> None:
        """Give the volume up: to any host when the store was closed in order, else to this host's next mount alone.
        OSError when the target does not take the release."""
        try:
            if self._reservations is not None and in_order:
                self._reservations.release(self._host.key)
                self._reservations.unregister(self._host.key)
        finally:
            self._reservations = None
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def statistics(self) -> dict[str, int]:
        return {
            "reserved": int(self._reservations is not None),
            "renewals_total": self._renewals,
            "failed_renewals_total": self._failures,
        }


def claim_volume(fd: int, found: Ownership, host: Host) -> int:
    """Write the claim of ``host``; its epoch. ``found``: what that was decided by. VolumeOwned when it holds no more:
    another host was faster."""
    now = read(found.path)
    if (now.highest_epoch, now.owner_id) != (found.highest_epoch, found.owner_id):
        raise VolumeOwned(f"{found.path}: {now.describe()} was faster", "look again, and take it over if need be")
    epoch = found.highest_epoch + 1
    owner = {"host": host.name, "host_id": host.id.hex(), "boot_id": host.boot_id, "pid": os.getpid()}
    _native.write_claim(fd, found.uuid, epoch, host.id, host.name, msgspec.json.encode(owner).decode())
    return epoch


def refuse_rival(path: StrPath, epoch: int, host: Host) -> None:
    """VolumeOwned when the claim of ``epoch`` is not the last word any more."""
    found = read(path)
    claim = found.claim
    if claim is None or claim.host != host.id or claim.epoch != epoch or found.epoch >= epoch:
        raise VolumeOwned(f"{found.path}: {found.describe()} was faster", "look again, and take it over if need be")


# --- takeover -------------------------------------------------------------------------------------------------------


class Takeover(msgspec.Struct, frozen=True, kw_only=True):
    """``fenced_by``: what keeps the old owner from writing; ``nothing``: the volume was free, or this host's.
    ``yielded``: the old owner has said that it writes no more. ``epoch``: of the claim."""

    path: str
    previous: str
    was_alive: bool
    fenced_by: Literal["reservation", "record", "nothing"]
    yielded: bool
    epoch: int
    seconds: float


def take_over(path: StrPath, host: Host, *, force: str | None, tell: Callable[[str], None]) -> Takeover:
    """Make the volume ``host``'s, whoever has it. Its owner must be dead, or named by ``force``. ``tell`` gets what is
    being waited for. Takes seconds.

    VolumeOwned (alive, or another host was faster), UsageError (``force`` names somebody else), VolumeError, OSError.
    """
    begin = time.monotonic()
    name = os.fspath(path)
    found = read(name)

    def done(*, fenced_by: Literal["reservation", "record", "nothing"], **rest: Any) -> Takeover:
        seconds = round(time.monotonic() - begin, 3)
        return Takeover(path=name, previous=found.describe(), fenced_by=fenced_by, seconds=seconds, **rest)

    try:
        fd = open_device(name)
    except OSError as error:
        raise from_oserror(error, name) from error
    try:
        reservations = Reservations(fd, name)
        is_supported = reservations.are_supported()
        report = reservations.report() if is_supported else None
        others = _others(report, host)
        is_ours = found.is_free or found.is_of(host)
        if is_ours and not others:
            return done(was_alive=False, fenced_by="nothing", yielded=False, epoch=found.highest_epoch)
        alive = False
        if not is_ours:
            if force is not None and force != found.host_name:
                raise UsageError(
                    f"expected --force to name the owner, {found.host_name!r}, found {force!r}",
                    "name it as `kvfsctl info` does",
                )
            tell(f"watching whether {found.host_name} is alive")
            alive = _is_alive(name, found)
            if alive and force is None:
                raise VolumeOwned(
                    f"{name}: belongs to {found.describe()}, and its owner is alive",
                    f"unmount it there, or fence it: `kvfsctl takeover {name} --force {_quoted(found.host_name)}`",
                )
        if is_supported:
            _preempt(reservations, others, host)
        epoch = claim_volume(fd, found, host)
        yielded = False
        if not is_supported and not is_ours:
            tell(f"waiting until {found.host_name} has seen that it lost the volume")
            yielded = _wait_for_yield(name, found)
        refuse_rival(name, epoch, host)
        return done(
            was_alive=alive, fenced_by="reservation" if is_supported else "record", yielded=yielded, epoch=epoch
        )
    finally:
        os.close(fd)


def _is_alive(path: str, found: Ownership) -> bool:
    deadline = time.monotonic() + _OBSERVE
    first = _beat_of(found, found)
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        if _beat_of(read(path), found) != first:
            return True
    return False


def _beat_of(now: Ownership, before: Ownership) -> tuple[int, int]:
    beat = now.beat
    return (beat.count, now.epoch) if beat and beat.epoch >= before.epoch else (0, now.epoch)


def _wait_for_yield(path: str, found: Ownership) -> bool:
    """Whether the old owner has said so. VolumeOwned when it goes on all the same."""
    begin = time.monotonic()
    before = _beat_of(found, found)
    late = False
    while (waited := time.monotonic() - begin) < _GRACE:
        time.sleep(_POLL)
        now = read(path)
        if waited >= SETTLE and now.beat and now.beat.epoch == found.epoch and now.beat.yields:
            return True
        if _beat_of(now, found) != before:
            before, late = _beat_of(now, found), waited > _native.LEASE
    if late:
        raise VolumeOwned(
            f"{path}: {found.host_name} goes on writing {_GRACE:g} s after it was told to stop", "stop it there"
        )
    return False


def _preempt(reservations: Reservations, others: list[int], host: Host) -> None:
    reservations.register(host.key)
    for key in others:
        reservations.preempt(key, host.key)
    reservations.reserve(host.key)


def _others(report: Report | None, host: Host) -> list[int]:
    """Keys of registrants that are not this host: the holder's first, as preempting that takes the reservation."""
    if report is None:
        return []
    ranked = sorted(report.registrants, key=lambda each: not each.holds)
    return list(dict.fromkeys(each.key for each in ranked if each.key != host.key))


def _holder_key(reservations: Reservations) -> int | None:
    report = reservations.report()
    holder = report.holder if report else None
    return holder.key if holder else None


def _hex(key: int | None) -> str:
    return "unknown" if key is None else f"{key:#018x}"


def _quoted(name: str) -> str:
    return name if name.replace("-", "").replace(".", "").isalnum() else f"'{name}'"


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).isoformat()


def _parsed(owner: str) -> dict[str, Any]:
    """The owner as its mount wrote it; nothing where that is no JSON, or another program's."""
    try:
        found = msgspec.json.decode(owner)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
