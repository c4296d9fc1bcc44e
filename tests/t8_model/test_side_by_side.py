"""The mount and ext4, side by side: hypothesis draws the calls, every outcome and attribute has to agree.

Beside calls on names and open files there are what only a mount knows: an orderly remount, and a daemon that is killed
after everything was fsynced, which may lose nothing. Deterministic; with ``KVFS_TEST_SCALE=N`` N times the examples and
at random. A failure prints the shortest sequence of calls that hypothesis found.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from side import BLOCK, Outcome, Side, outcome
from support.expect import clock_past
from support.libc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    UTIME_OMIT,
)
from support.mount import KvfsMount, TestMount, checked_mount
from support.reference import reference_directory
from support.tree import comparable, listing

pytestmark = [pytest.mark.kvfs_only, pytest.mark.slow, pytest.mark.timeout(1800)]

SCALE = int(os.environ.get("KVFS_TEST_SCALE", "0"))
EXAMPLES = 10
STEPS = 60
SLOTS = 4
SELDOM = 5  # of a rule that takes a second: it is done once in so many times, and one, that it is drawn

PATHS = ("a", "b", "c", "x", "y", "x/a", "x/b", "y/a", "y/b", "x/y", "x/y/a", "absent/a")
# numbers that stand for a path or a slot: mostly one of those that there are, see path_of() and slot_of()
paths = st.integers(0, 5 * len(PATHS) - 1)
slots = st.integers(0, SLOTS - 1)
luck = st.integers(0, SELDOM)  # shrinks towards not doing it
offsets = st.one_of(
    st.integers(0, 3 * BLOCK),
    st.sampled_from([64 * BLOCK - 1, 64 * BLOCK, 65 * BLOCK + 7, 300 * BLOCK + 5, 2 << 20, (8 << 20) - 3]),
)
lengths = st.one_of(st.integers(1, 2 * BLOCK), st.sampled_from([16 * BLOCK, 64 * BLOCK + 1, (1 << 20) + 3]))
data = st.builds(lambda seed, size: bytes([seed]) * size, st.integers(1, 255), lengths)
access = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
flags = st.builds(
    lambda mode, *more: mode | sum(more),
    access,
    st.sampled_from([0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL]),
    st.sampled_from([0, 0, os.O_TRUNC]),
    st.sampled_from([0, 0, os.O_DIRECT, os.O_APPEND]),
)


class SideBySide(RuleBasedStateMachine):
    mount: ClassVar[KvfsMount]
    reference: ClassVar[Path]
    has_ranges: ClassVar[bool]  # fallocate and copy_file_range: the native data path's
    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.name = f"example{next(self.numbers)}"
        self.sides = [Side(self.mount / self.name), Side(self.reference / self.name)]
        for side in self.sides:
            side.root.mkdir(mode=0o755)
        self.flags: dict[int, int] = {}  # of the slots that are in use

    def teardown(self) -> None:
        try:
            for side in self.sides:
                side.close_all()
            self.compare_trees()
        finally:
            for side in self.sides:
                shutil.rmtree(side.root)

    @initialize(direct=st.booleans())
    def begin(self, direct: bool) -> None:
        """Some names and open files are there from the start: a rule that meets nothing tests one errno."""
        for side in self.sides:
            for path in ("x", "y", "x/y"):
                side.mkdir(path, 0o755)
            for slot, path in enumerate(("a", "x/a", "y/b")):
                flags = os.O_CREAT | os.O_RDWR | (os.O_DIRECT if direct and slot == 1 else 0)
                side.open(slot, path, flags)
                side.write(slot, 0, bytes([slot + 1]) * (slot * 33 * BLOCK), bool(flags & os.O_DIRECT))
                self.flags[slot] = flags
            side.symlink("x/a", "b")

    def path_of(self, number: int) -> str:
        there = sorted(listing(self.sides[1].root))
        if number % 5 and there:
            return there[number // 5 % len(there)]
        return PATHS[number % len(PATHS)]

    def slot_of(self, number: int) -> int:
        return sorted(self.flags)[number % len(self.flags)]

    # --- comparing ----------------------------------------------------------------------------------

    def both(self, call: Callable[[Side], Outcome], what: str = "") -> Outcome:
        found, expected = (outcome(lambda side=side: call(side)) for side in self.sides)  # type: ignore[misc]
        if isinstance(found, bytes) and isinstance(expected, bytes) and found != expected:
            self.fail_bytes(found, expected, what)
        assert found == expected, f"{what} kvfs: {found!r}, ext4: {expected!r}"
        return expected

    @staticmethod
    def fail_bytes(found: bytes, expected: bytes, what: str) -> None:
        assert len(found) == len(expected), f"{what} kvfs: {len(found)} bytes, ext4: {len(expected)}"
        wrong = next(at for at in range(len(found)) if found[at] != expected[at])
        raise AssertionError(f"{what} byte {wrong} of {len(found)}: kvfs {found[wrong]:#x}, ext4 {expected[wrong]:#x}")

    def step(self, call: Callable[[Side], Outcome], *paths: str, slot: int | None = None) -> Outcome:
        """``both``, then the attributes of what the call named, and whether it moved their times and their parents'."""
        watched = sorted({*paths, *(os.path.dirname(path) for path in paths)})
        before = [[side.times(path) for path in watched] for side in self.sides]
        clock_past(max((stamp for side in before for times in side if times for stamp in times[:2]), default=0))
        result = self.both(call)
        after = [[side.times(path) for path in watched] for side in self.sides]
        for path in paths:
            self.both(lambda side, path=path: side.stat(path), f"attributes of {path}:")
        if slot is not None and slot in self.flags:
            self.both(lambda side: side.stat_slot(slot), f"attributes of slot {slot}:")
        moved = [
            {path: _moved(old, new) for path, old, new in zip(watched, *pair, strict=True)}
            for pair in zip(before, after, strict=True)
        ]
        assert moved[0] == moved[1], f"times that moved, (mtime, ctime): kvfs {moved[0]}, ext4 {moved[1]}"
        return result

    def compare_trees(self) -> None:
        found, expected = (comparable(listing(side.root)) for side in self.sides)
        assert found == expected

    def is_direct(self, slot: int) -> bool:
        return bool(self.flags[slot] & os.O_DIRECT)

    # --- open files ---------------------------------------------------------------------------------

    @rule(slot=slots, path=paths, flags=flags)
    def open(self, slot: int, path: int, flags: int) -> None:
        at = self.path_of(path)
        if self.flags.pop(slot, None) is not None:
            self.both(lambda side: side.close(slot))
        if self.step(lambda side: side.open(slot, at, flags), at) is None:
            self.flags[slot] = flags

    @precondition(lambda self: self.flags)
    @rule(slot=slots)
    def close(self, slot: int) -> None:
        slot = self.slot_of(slot)
        del self.flags[slot]
        self.both(lambda side: side.close(slot))

    @precondition(lambda self: self.flags)
    @rule(slot=slots, offset=offsets, content=data)
    def write(self, slot: int, offset: int, content: bytes) -> None:
        slot = self.slot_of(slot)
        if direct := self.is_direct(slot):
            offset -= offset % BLOCK
            content = content.ljust(-(-len(content) // BLOCK) * BLOCK, b"d")
        self.step(lambda side: side.write(slot, offset, content, direct), slot=slot)

    @precondition(lambda self: self.flags)
    @rule(slot=slots, content=data)
    def append(self, slot: int, content: bytes) -> None:
        slot = self.slot_of(slot)
        if not self.is_direct(slot):
            self.step(lambda side: side.append(slot, content), slot=slot)

    @precondition(lambda self: self.flags)
    @rule(slot=slots, offset=offsets, size=lengths)
    def read(self, slot: int, offset: int, size: int) -> None:
        slot = self.slot_of(slot)
        if direct := self.is_direct(slot):
            offset, size = offset - offset % BLOCK, -(-size // BLOCK) * BLOCK
        self.both(lambda side: side.read(slot, offset, size, direct), f"read at {offset}:")

    @precondition(lambda self: self.flags)
    @rule(slot=slots)
    def read_all(self, slot: int) -> None:
        slot = self.slot_of(slot)
        self.both(lambda side: side.read(slot, 0, 16 << 20, self.is_direct(slot)), "the whole file:")

    @precondition(lambda self: self.flags)
    @rule(slot=slots, size=offsets)
    def truncate_slot(self, slot: int, size: int) -> None:
        slot = self.slot_of(slot)
        self.step(lambda side: side.truncate_slot(slot, size), slot=slot)

    @precondition(lambda self: self.flags)
    @rule(
        slot=slots, offset=offsets, length=lengths,
        mode=st.sampled_from([0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE]),
    )  # fmt: skip
    def fallocate(self, slot: int, offset: int, length: int, mode: int) -> None:
        slot = self.slot_of(slot)
        if self.has_ranges:
            self.both(lambda side: side.fallocate(slot, mode, offset, length))
            self.both(lambda side: side.stat_slot(slot))

    @precondition(lambda self: self.flags)
    @rule(source=slots, into=slots, offset=offsets, to=offsets, length=lengths)
    def copy(self, source: int, into: int, offset: int, to: int, length: int) -> None:
        source, into = self.slot_of(source), self.slot_of(into)
        if self.has_ranges and not self.is_direct(source) and not self.is_direct(into):
            self.both(lambda side: side.copy(source, into, offset, to, length))
            self.both(lambda side: side.stat_slot(into))

    @precondition(lambda self: self.flags)
    @rule(slot=slots, offset=offsets, content=data)
    def map_write(self, slot: int, offset: int, content: bytes) -> None:
        slot = self.slot_of(slot)
        if self.flags[slot] & os.O_ACCMODE == os.O_RDWR:
            self.both(lambda side: side.map_write(slot, offset, content))

    @precondition(lambda self: self.flags)
    @rule(slot=slots)
    def map_read(self, slot: int) -> None:
        slot = self.slot_of(slot)
        if self.flags[slot] & os.O_ACCMODE != os.O_WRONLY:
            self.both(lambda side: side.map_read(slot), "by mapping:")

    @precondition(lambda self: self.flags)
    @rule(slot=slots)
    def holes_are_zeros(self, slot: int) -> None:
        """Where data begins and ends is a file system's own affair, but a hole reads as zeros."""
        slot = self.slot_of(slot)
        if self.flags[slot] & os.O_ACCMODE == os.O_WRONLY or self.is_direct(slot):
            return
        kvfs = self.sides[0]
        position, size = 0, os.fstat(kvfs.slots[slot]).st_size
        for start, end in [*kvfs.ranges(slot), (size, size)]:
            assert position <= start <= end <= size
            assert not any(kvfs.read(slot, position, start - position, False)), f"data in a hole at {position}"
            position = end

    @precondition(lambda self: self.flags)
    @rule(slot=slots)
    def forget_pages(self, slot: int) -> None:
        slot = self.slot_of(slot)
        self.both(lambda side: side.forget_pages(slot))

    @precondition(lambda self: self.flags)
    @rule(slot=slots)
    def fsync(self, slot: int) -> None:
        slot = self.slot_of(slot)
        self.both(lambda side: side.fsync(slot))

    # --- names --------------------------------------------------------------------------------------

    @rule(path=paths, mode=st.sampled_from([0o755, 0o700]))
    def mkdir(self, path: int, mode: int) -> None:
        at = self.path_of(path)
        self.step(lambda side: side.mkdir(at, mode), at)

    @rule(path=paths)
    def rmdir(self, path: int) -> None:
        at = self.path_of(path)
        self.step(lambda side: side.rmdir(at), at)

    @rule(path=paths)
    def unlink(self, path: int) -> None:
        at = self.path_of(path)
        self.step(lambda side: side.unlink(at), at)

    @rule(old=paths, new=paths, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, old: int, new: int, flags: int) -> None:
        before, after = self.path_of(old), self.path_of(new)
        self.step(lambda side: side.rename(before, after, flags), before, after)

    @rule(path=paths, content=data, tmp=paths)
    def replace(self, path: int, content: bytes, tmp: int) -> None:
        """As engines publish a page: a temporary file, one write, rename over."""
        at, temporary = self.path_of(path), self.path_of(tmp)
        slot = -1
        if self.step(lambda side: side.open(slot, temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY), temporary) is None:
            self.both(lambda side: side.write(slot, 0, content, False))
            self.both(lambda side: side.close(slot))
            self.step(lambda side: side.rename(temporary, at, 0), temporary, at)

    @rule(old=paths, new=paths)
    def link(self, old: int, new: int) -> None:
        before, after = self.path_of(old), self.path_of(new)
        self.step(lambda side: side.link(before, after), before, after)

    @rule(leads_to=paths, path=paths)
    def symlink(self, leads_to: int, path: int) -> None:
        goal, at = self.path_of(leads_to), self.path_of(path)
        self.step(lambda side: side.symlink(goal, at), at)
        self.both(lambda side: side.readlink(at))

    @rule(path=paths, size=offsets)
    def truncate(self, path: int, size: int) -> None:
        at = self.path_of(path)
        self.step(lambda side: side.truncate(at, size), at)

    @rule(path=paths)
    def names(self, path: int) -> None:
        at = self.path_of(path)
        self.both(lambda side: side.names(at))

    # --- attributes ---------------------------------------------------------------------------------

    @rule(path=paths, mode=st.sampled_from([0o600, 0o644, 0o755, 0o1777, 0o2755]))
    def chmod(self, path: int, mode: int) -> None:
        at = self.path_of(path)
        self.step(lambda side: side.chmod(at, mode), at)

    @rule(path=paths, times=st.tuples(*[st.sampled_from([UTIME_OMIT, 0, 10**18 + 7])] * 2))
    def utimes(self, path: int, times: tuple[int, int]) -> None:
        at = self.path_of(path)
        self.both(lambda side: side.utimes(at, *times))
        if times[1] != UTIME_OMIT:
            self.both(lambda side: os.stat(side.at(at)).st_mtime_ns)

    @rule(path=paths, key=st.sampled_from("ab"), value=st.binary(max_size=40), flags=st.sampled_from([0, 0, 1, 2]))
    def setxattr(self, path: int, key: str, value: bytes, flags: int) -> None:
        at = self.path_of(path)
        self.both(lambda side: side.setxattr(at, key, value, flags))
        self.both(lambda side: side.getxattr(at, key))

    @rule(path=paths, key=st.sampled_from("ab"))
    def removexattr(self, path: int, key: str) -> None:
        at = self.path_of(path)
        self.both(lambda side: side.removexattr(at, key))
        self.both(lambda side: side.listxattr(at))

    # --- life cycle ---------------------------------------------------------------------------------

    @rule(luck=luck, crash=st.booleans())
    def mount_again(self, luck: int, crash: bool) -> None:
        """In order, or after a crash: everything is fsynced, then the daemon is killed, and nothing may be missing."""
        if luck != SELDOM:
            return
        if crash:
            for slot in self.flags:
                self.sides[0].fsync(slot)
            for directory, _, _ in os.walk(self.sides[0].root):
                _fsync_directory(directory)
            _fsync_directory(os.fspath(self.mount.path))
            self.mount.kill9()
            self.close_slots()
        else:
            self.close_slots()
            self.mount.remount()
        self.compare_trees()

    def close_slots(self) -> None:
        self.flags.clear()
        for side in self.sides:
            side.close_all()

    @invariant()
    def daemon_is_content(self) -> None:
        assert self.mount.take_log_problems() == []


def _moved(old: tuple[int, int, int] | None, new: tuple[int, int, int] | None) -> tuple[bool, bool] | None:
    """None when the name is, or was, nobody's, or another's."""
    return None if old is None or new is None or old[2] != new[2] else (old[0] != new[0], old[1] != new[1])


def _fsync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.fixture(scope="module", params=["native", "pyfuse3"])
def kvfs_mount(request: pytest.FixtureRequest) -> Iterator[TestMount]:
    with checked_mount(size="256M", options=("--data-path", request.param)) as mount:
        yield mount


def test_mount_and_ext4_agree(kvfs_mount: KvfsMount) -> None:
    with reference_directory() as reference:
        machine = type(
            "Machine",
            (SideBySide,),
            {"mount": kvfs_mount, "reference": reference, "has_ranges": "pyfuse3" not in kvfs_mount.options},
        )
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES * max(SCALE, 1),
                stateful_step_count=STEPS,
                derandomize=SCALE == 0,
                database=None,
                deadline=None,
                verbosity=Verbosity.normal,
                suppress_health_check=list(HealthCheck),
            ),
        )
