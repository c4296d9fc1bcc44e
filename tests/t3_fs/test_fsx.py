"""Random operations on one file against a model in memory, in the manner of fsx (Apple, then xfstests).

An operation is drawn from a seeded generator, done on the file through one of several handles and on a
``bytearray``; sizes and bytes have to agree after each. Operations run in a child (a mapping may raise SIGBUS)
in stretches of ``OPERATIONS``; between two stretches the parent remounts and compares everything.

To run a failure again: its seed and profile are in the test's name. ``KVFS_TEST_SCALE=N`` draws N times the seeds.
"""

import errno
import mmap
import os
import random
from collections import deque
from functools import partial
from pathlib import Path

import pytest
from support.direct import aligned, direct_read
from support.expect import read_file
from support.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate
from support.mount import TestMount
from support.process import in_child

OPERATIONS = 250
STRETCHES = 3
MAX_SIZE = (2 << 20) + 12_345
BORDERS = (4096, 65_536, 128 * 1024, 256 * 1024, 512 * 1024, 1 << 20, 2 << 20)
SEEDS = range(100, 100 + 2 * int(os.environ.get("KVFS_TEST_SCALE", "1")))

BUFFERED = ("write", "write", "append", "read", "read", "map_read", "map_write")
DIRECT = ("direct_write", "direct_write", "direct_read", "direct_read")
COMMON = (
    *("truncate_down", "truncate_up", "reopen", "fsync", "forget_pages", "rename", "stat"),
    *("preallocate", "punch", "zero_range", "copy_range"),
)
PROFILES = {"buffered": BUFFERED + COMMON, "direct": DIRECT + COMMON, "mixed": BUFFERED + DIRECT + COMMON}


class Exerciser:
    """The file, its handles and its model. ``step()`` draws and does one operation."""

    def __init__(self, path: Path, model: bytes, operations: tuple[str, ...], draw: random.Random) -> None:
        self.path = path
        self.model = bytearray(model)
        self.operations = operations
        self.draw = draw
        self.log: deque[str] = deque(maxlen=40)
        self.buffered = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2)]
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)

    def run(self, count: int) -> bytes:
        for number in range(count):
            name = self.draw.choice(self.operations)
            try:
                getattr(self, name)()
                size = os.fstat(self.draw.choice(self.buffered)).st_size
                assert size == len(self.model), f"size is {size}, expected {len(self.model)}"
            except (AssertionError, OSError) as error:
                history = "\n".join(self.log)
                raise AssertionError(f"operation {number}, {name}: {error}\nthe last operations:\n{history}") from error
        for fd in (*self.buffered, self.direct):
            os.close(fd)
        return bytes(self.model)

    # places --------------------------------------------------------------------------------

    def _place(self, limit: int) -> int:
        """An offset below ``limit``: anywhere, next to a border, or next to the end of the file."""
        kind = self.draw.randrange(4)
        if kind == 0:
            near = self.draw.choice(BORDERS) + self.draw.randint(-3, 3)
        elif kind == 1:
            near = len(self.model) + self.draw.randint(-5000, 100)
        else:
            near = self.draw.randrange(limit)
        return max(0, min(near, limit - 1))

    def _length(self, limit: int) -> int:
        wanted = self.draw.choice((1, 3, 511, 4096, 4097, self.draw.randrange(1, 300_000), self.draw.choice(BORDERS)))
        return max(1, min(wanted, limit))

    def _note(self, what: str, offset: int, length: int) -> None:
        self.log.append(f"  {what:13} {offset:#9x} .. {offset + length:#9x} ({length:#x}), size {len(self.model):#x}")

    def _store(self, offset: int, data: bytes) -> None:
        if offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def _same(self, found: bytes, offset: int, length: int) -> None:
        expected = self.model[offset : offset + length]
        assert len(found) == len(expected), f"short read: {len(found)} of {len(expected)} bytes at {offset:#x}"
        if found != expected:
            first = next(index for index in range(len(found)) if found[index] != expected[index])
            wrong = sum(a != b for a, b in zip(found, expected, strict=True))
            raise AssertionError(
                f"{wrong} wrong bytes, first at {offset + first:#x}: "
                f"expected {expected[first : first + 16].hex()}, found {found[first : first + 16].hex()}"
            )

    # operations ----------------------------------------------------------------------------

    def write(self) -> None:
        offset = self._place(MAX_SIZE)
        data = self.draw.randbytes(self._length(MAX_SIZE - offset))
        self._note("write", offset, len(data))
        assert os.pwrite(self.draw.choice(self.buffered), data, offset) == len(data), "short write"
        self._store(offset, data)

    def append(self) -> None:
        if len(self.model) < MAX_SIZE:
            data = self.draw.randbytes(self._length(MAX_SIZE - len(self.model)))
            self._note("append", len(self.model), len(data))
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            assert os.write(fd, data) == len(data), "short write"
            os.close(fd)
            self._store(len(self.model), data)

    def read(self) -> None:
        offset = self._place(MAX_SIZE)
        length = self._length(MAX_SIZE)
        self._note("read", offset, length)
        self._same(os.pread(self.draw.choice(self.buffered), length, offset), offset, length)

    def direct_write(self) -> None:
        alignment = self.draw.choice((512, 4096))
        offset = self._place(MAX_SIZE) // alignment * alignment
        data = self.draw.randbytes(max(alignment, self._length(MAX_SIZE - offset) // alignment * alignment))
        self._note("direct_write", offset, len(data))
        assert os.pwrite(self.direct, aligned(data), offset) == len(data), "short write"
        self._store(offset, data)

    def direct_read(self) -> None:
        alignment = self.draw.choice((512, 4096))
        offset = self._place(MAX_SIZE) // alignment * alignment
        length = max(alignment, self._length(MAX_SIZE) // alignment * alignment)
        self._note("direct_read", offset, length)
        self._same(direct_read(self.direct, length, offset), offset, length)

    def map_read(self) -> None:
        if self.model:
            offset = self._place(len(self.model))
            length = self._length(len(self.model) - offset)
            self._note("map_read", offset, length)
            with mmap.mmap(self.draw.choice(self.buffered), 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
                self._same(view[offset : offset + length], offset, length)

    def map_write(self) -> None:
        offset = self._place(MAX_SIZE)
        data = self.draw.randbytes(self._length(MAX_SIZE - offset))
        self._note("map_write", offset, len(data))
        fd = self.draw.choice(self.buffered)
        if offset + len(data) > len(self.model):
            os.ftruncate(fd, offset + len(data))
        with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as view:
            view[offset : offset + len(data)] = data
            if self.draw.randrange(2):
                view.flush()
        self._store(offset, data)

    def truncate_down(self) -> None:
        size = self._place(len(self.model) + 1)
        self._note("truncate_down", size, 0)
        os.ftruncate(self.draw.choice((*self.buffered, self.direct)), size)
        del self.model[size:]

    def truncate_up(self) -> None:
        size = max(self._place(MAX_SIZE), len(self.model))
        self._note("truncate_up", size, 0)
        os.truncate(self.path, size)
        self.model.extend(bytes(size - len(self.model)))

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        """False where the file system has no such thing."""
        try:
            fallocate(self.draw.choice((*self.buffered, self.direct)), mode, offset, length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False
        return True

    def preallocate(self) -> None:
        offset = self._place(MAX_SIZE)
        length = self._length(MAX_SIZE - offset)
        self._note("preallocate", offset, length)
        if self._fallocate(0, offset, length):
            self.model.extend(bytes(max(0, offset + length - len(self.model))))

    def punch(self) -> None:
        offset = self._place(MAX_SIZE)
        length = self._length(MAX_SIZE - offset)
        self._note("punch", offset, length)
        if self._fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length):
            self._zero(offset, length)

    def zero_range(self) -> None:
        offset = self._place(MAX_SIZE)
        length = self._length(MAX_SIZE - offset)
        self._note("zero_range", offset, length)
        if self._fallocate(FALLOC_FL_ZERO_RANGE, offset, length):
            self.model.extend(bytes(max(0, offset + length - len(self.model))))
            self._zero(offset, length)

    def _zero(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.model))
        if offset < end:
            self.model[offset:end] = bytes(end - offset)

    def copy_range(self) -> None:
        """Within the file, onto what lies half behind its end at most."""
        if len(self.model) < 2:
            return
        length = self._length(len(self.model) // 2)
        source = self.draw.randrange(len(self.model) // 2 - length + 1)
        target = self.draw.randrange(source + length, len(self.model) + 1)
        length = min(length, MAX_SIZE - target)
        self._note("copy_range", target, length)
        data = bytes(self.model[source : source + length])
        done = 0
        while done < length:
            step = os.copy_file_range(*self.buffered, length - done, source + done, target + done)
            assert step > 0, "nothing copied"
            done += step
        self._store(target, data)

    def reopen(self) -> None:
        which = self.draw.randrange(2)
        self._note("reopen", which, 0)
        os.close(self.buffered[which])
        self.buffered[which] = os.open(self.path, os.O_RDWR)
        if self.draw.randrange(3) == 0:
            os.close(self.direct)
            self.direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)

    def fsync(self) -> None:
        self._note("fsync", 0, 0)
        os.fsync(self.draw.choice((*self.buffered, self.direct)))

    def forget_pages(self) -> None:
        """Write back and drop the kernel's pages, so that the next read comes from the store."""
        self._note("forget_pages", 0, 0)
        os.fsync(self.buffered[0])
        os.posix_fadvise(self.buffered[0], 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self) -> None:
        self._note("rename", 0, 0)
        other = self.path.with_suffix(".renamed" if self.path.suffix != ".renamed" else ".file")
        os.rename(self.path, other)
        self.path = other
        os.rename(self.path, other.with_suffix(".file"))
        self.path = other.with_suffix(".file")

    def stat(self) -> None:
        assert os.stat(self.path).st_size == len(self.model)


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_operations_agree_with_the_model(tree: Path, kvfs_mount: TestMount, profile: str, seed: int) -> None:
    path = tree / "fsx.file"
    model = b""
    for stretch in range(STRETCHES):

        def run(draw: random.Random, before: bytes) -> bytes:
            return Exerciser(path, before, PROFILES[profile], draw).run(OPERATIONS)

        model = in_child(partial(run, random.Random(f"{seed}-{stretch}"), model))
        kvfs_mount.remount()
        assert os.stat(path).st_size == len(model)
        assert read_file(path) == model, f"content differs after the remount that followed stretch {stretch}"
