"""A native Store whose data calls are waited for, and small volumes to open it on."""

import errno
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from kvfs import _native

MIB = 1 << 20
BLOCK = 4096
ROOT = _native.ROOT_INODE
FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
PATIENCE = 60  # s: a completion that takes longer never comes

INO, GENERATION, MODE, NLINK, UID, GID, RDEV, SIZE, BLOCKS, ATIME, MTIME, CTIME = range(12)


def make_volume(path: Path, size: int = 32 * MIB, segment_size: int = MIB) -> Path:
    with path.open("xb") as file:
        file.truncate(size)
    _native.format_store(os.fspath(path), size, segment_size)
    return path


class Client:
    """``store`` gives the calls that do not wait; what may wait has a method here that does."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.store = _native.Store(os.fspath(path), **options)
        self.events: list[tuple[Any, ...]] = []
        self._tokens = count(1)
        self._done: dict[int, Any] = {}

    def close(self) -> None:
        self.store.close()

    # waiting -------------------------------------------------------------------------------------

    def start(self, method: str, *arguments: Any) -> int:
        """Begin a data call; its token, for finish()."""
        token = next(self._tokens)
        result = getattr(self.store, method)(*arguments, token)
        if result is not None:
            self._done[token] = result
        return token

    def finish(self, token: int) -> Any:
        """The result of the call; OSError when that is an errno."""
        while token not in self._done:
            ready = select.select([self.store.eventfd], [], [], PATIENCE)[0]
            assert ready, f"no completion of token {token} within {PATIENCE} s"
            self.drain()
        result = self._done.pop(token)
        if isinstance(result, int) and result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def drain(self) -> None:
        for token, result in self.store.completions():
            if token == 0:
                self.events.append(result)
            else:
                assert token not in self._done, f"token {token} completed twice"
                self._done[token] = result

    def call(self, method: str, *arguments: Any) -> Any:
        return self.finish(self.start(method, *arguments))

    # data ----------------------------------------------------------------------------------------

    def read(self, ino: int, offset: int = 0, size: int = 1 << 30) -> bytes:
        """To the end of the file, in requests of at most 1 MiB as the kernel sends them."""
        out = bytearray()
        while size > 0:
            wanted = min(size, MIB)
            data = bytes(self.call("read", ino, offset, wanted))
            out += data
            offset += len(data)
            size -= len(data)
            if len(data) < wanted:
                break
        return bytes(out)

    def write(self, ino: int, offset: int, data: bytes) -> None:
        for at in range(0, len(data), MIB):
            piece = data[at : at + MIB]
            assert self.call("write", ino, offset + at, piece) == len(piece)

    def truncate(self, ino: int, size: int) -> None:
        assert self.call("truncate", ino, size) == 0

    def flush(self, ino: int) -> None:
        assert self.call("flush", ino) == 0

    def fsync(self, ino: int) -> None:
        assert self.call("fsync", ino) == 0

    def sync(self) -> None:
        assert self.call("sync") == 0

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        assert self.call("rename", parent, name, new_parent, new_name, flags) == 0

    # what a program does with files --------------------------------------------------------------

    def create(self, parent: int, name: bytes, data: bytes = b"", *, durable: bool = False) -> int:
        """A complete file: created, written, flushed (or fsynced), closed, forgotten by the kernel."""
        ino = self.store.create(parent, name, FILE, 0, 0)[INO]
        with self.opened(ino, write=True):
            self.write(ino, 0, data)
            (self.fsync if durable else self.flush)(ino)
        self.store.forget(ino, 1)
        return int(ino)

    @contextmanager
    def opened(self, ino: int, *, write: bool = False) -> Iterator[int]:
        self.store.open(ino, write)
        try:
            yield ino
        finally:
            self.store.release(ino, write)

    def find(self, parent: int, name: bytes) -> int | None:
        """The inode number of the name; keeps no reference."""
        attr = self.store.lookup(parent, name)
        if attr is None:
            return None
        self.store.forget(attr[INO], 1)
        return int(attr[INO])

    def content(self, parent: int, name: bytes) -> bytes | None:
        """None when absent."""
        ino = self.find(parent, name)
        return None if ino is None else self.read(ino)

    def names(self, ino: int = ROOT) -> list[bytes]:
        directory = self.store.opendir(ino)
        names: list[bytes] = []
        position = 0
        while entries := directory.read(position, 100):
            names += [name for name, _, _ in entries]
            position = entries[-1][2]
        return names

    def free_blocks(self) -> int:
        return self.store.statfs()["blocks_free"]

    def used_blocks(self) -> int:
        """By file data; unlike the free ones they do not depend on how many segments the log holds just now."""
        space = self.store.statfs()
        return space["blocks"] - space["blocks_free"]

    def warnings(self) -> list[str]:
        """What the store logged at warning level or above."""
        self.drain()
        return [event[2] for event in self.events if event[0] == "log" and event[1] >= 30]


@contextmanager
def opened_volume(path: Path, **options: Any) -> Iterator[Client]:
    """Closed in order at the end; quiet, when the block succeeded."""
    client = Client(path, **options)
    try:
        yield client
        assert client.warnings() == []
    finally:
        client.close()


@contextmanager
def fails(code: int, match: str = "") -> Iterator[pytest.ExceptionInfo[OSError]]:
    """The block raises OSError with that errno, and a text that has ``match``, a regular expression, in it."""
    with pytest.raises(OSError, match=match or None) as caught:
        yield caught
    assert errno.errorcode.get(caught.value.errno or 0) == errno.errorcode[code]


def check_clean(path: Path) -> dict[str, Any]:
    """fsck finds nothing to complain of; its report."""
    report = _native.check(os.fspath(path))
    assert report["problem_count"] == 0, report["problems"]
    return report


def still(volume: Path) -> bytes:
    """The store as it is at one instant: two looks find the same, so the committer has written nothing meanwhile."""
    image = volume.read_bytes()
    while (again := volume.read_bytes()) != image:
        image = again
    return image
