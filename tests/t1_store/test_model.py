"""Random operations against a model of a file system in plain Python, with reopens and crashes in between."""

import errno
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from client import BLOCK, DIRECTORY, FILE, INO, MIB, NLINK, ROOT, SIZE, Client, check_clean, fails, make_volume, still
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kvfs import _native

NAMES = [b"a", b"b", b"c", b"d"]
DIRECTORIES = [b"", b"x", b"y"]  # the root and what may be two directories in it
names = st.sampled_from(NAMES)
directories = st.sampled_from(DIRECTORIES)
offsets = st.one_of(
    st.integers(0, 3 * BLOCK), st.sampled_from([64 * BLOCK - 1, 64 * BLOCK, 300 * BLOCK + 5, 2 * MIB, 1 << 40])
)
# a seed and a length stand for the data: shorter to read in a failure
data = st.builds(
    lambda seed, size: bytes([seed]) * size,
    st.integers(1, 255),
    st.one_of(st.integers(0, 2 * BLOCK), st.sampled_from([64 * BLOCK + 1, MIB, MIB + 3])),
)
LARGEST = 4 * MIB  # of what is compared as a whole


@dataclass(eq=False)
class File:
    """Content as pieces, so that a sparse file of a tebibyte fits."""

    size: int = 0
    blocks: dict[int, bytes] = field(default_factory=dict)  # by number; absent: zeros
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def write(self, offset: int, content: bytes) -> None:
        for number in range(offset // BLOCK, -(-(offset + len(content)) // BLOCK)):
            block = bytearray(self.blocks.get(number, bytes(BLOCK)))
            start = max(offset, number * BLOCK)
            end = min(offset + len(content), (number + 1) * BLOCK)
            block[start - number * BLOCK : end - number * BLOCK] = content[start - offset : end - offset]
            self.blocks[number] = bytes(block)
        if content:
            self.size = max(self.size, offset + len(content))

    def truncate(self, size: int) -> None:
        if size < self.size:
            self.blocks = {number: block for number, block in self.blocks.items() if number * BLOCK < size}
            last = size // BLOCK
            if last in self.blocks:
                self.blocks[last] = self.blocks[last][: size % BLOCK].ljust(BLOCK, b"\0")
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        end = min(self.size, offset + size)
        out = bytearray(max(0, end - offset))
        for number, block in self.blocks.items():
            start = max(offset, number * BLOCK)
            stop = min(end, (number + 1) * BLOCK)
            if start < stop:
                out[start - offset : stop - offset] = block[start - number * BLOCK : stop - number * BLOCK]
        return bytes(out)


Tree = dict[bytes, dict[bytes, File]]


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="kvfs-model-"))
        self.path = make_volume(self.directory / "store.kvfs", 24 * MIB)
        self.client = Client(self.path)
        self.tree: Tree = {b"": {}}

    def teardown(self) -> None:
        try:
            self.compare(self.client, self.tree)
            self.client.close()
            check_clean(self.path)
        finally:
            self.client.close()
            shutil.rmtree(self.directory)

    # --- looking things up ------------------------------------------------------------------------

    def ino(self, directory: bytes) -> int | None:
        return self.client.find(ROOT, directory) if directory else ROOT

    def existing(self, directory: bytes, name: bytes) -> tuple[int, File] | None:
        file = self.tree.get(directory, {}).get(name)
        parent = self.ino(directory)
        if file is None or parent is None:
            return None
        ino = self.client.find(parent, name)
        assert ino is not None, f"{directory!r}/{name!r} is missing"
        return ino, file

    def compare(self, client: Client, tree: Tree) -> None:
        """``tree`` is what ``client`` shows, no more and no less."""
        subdirectories = set(tree) - {b""}
        assert set(client.names(ROOT)) == set(tree[b""]) | subdirectories
        for directory, entries in tree.items():
            parent = client.find(ROOT, directory) if directory else ROOT
            assert parent is not None
            if directory:
                assert set(client.names(parent)) == set(entries)
            for name, file in entries.items():
                ino = client.find(parent, name)
                assert ino is not None
                attr = client.store.getattr(ino)
                assert attr[SIZE] == file.size
                assert attr[NLINK] == sum(other is file for each in tree.values() for other in each.values())
                assert {key: client.store.getxattr(ino, key) for key in client.store.listxattr(ino)} == file.xattrs
                if file.size <= LARGEST:
                    assert client.read(ino) == file.read(0, file.size)
                else:
                    for at in (0, 2 * MIB, (1 << 40) - BLOCK, 1 << 40):
                        assert client.read(ino, at, MIB) == file.read(at, MIB)

    # --- operations -------------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self.compare(self.client, self.tree)

    @rule(directory=directories, name=names, content=data, durable=st.booleans())
    def create(self, directory: bytes, name: bytes, content: bytes, durable: bool) -> None:
        parent = self.ino(directory)
        if parent is None:
            return
        if name in self.tree[directory]:
            with fails(errno.EEXIST):
                self.client.store.create(parent, name, FILE, 0, 0)
            return
        self.client.create(parent, name, content, durable=durable)
        self.tree[directory][name] = File()
        self.tree[directory][name].write(0, content)

    @rule(directory=directories, name=names, pieces=st.lists(st.tuples(offsets, data), min_size=1, max_size=4))
    def write(self, directory: bytes, name: bytes, pieces: list[tuple[int, bytes]]) -> None:
        if found := self.existing(directory, name):
            ino, file = found
            with self.client.opened(ino, write=True):
                for offset, content in pieces:
                    self.client.write(ino, offset, content)
                    file.write(offset, content)
                    assert self.client.read(ino, offset, len(content) + 10) == file.read(offset, len(content) + 10)

    @rule(directory=directories, name=names, sizes=st.lists(offsets, min_size=1, max_size=3), opened=st.booleans())
    def truncate(self, directory: bytes, name: bytes, sizes: list[int], opened: bool) -> None:
        if found := self.existing(directory, name):
            ino, file = found
            if opened:
                self.client.store.open(ino, True)
            for size in sizes:
                self.client.truncate(ino, size)
                file.truncate(size)
                assert self.client.store.getattr(ino)[SIZE] == size
            if opened:
                self.client.store.release(ino, True)

    @rule(
        source=directories, name=names, into=directories, new_name=names,
        flags=st.sampled_from([0, 0, _native.RENAME_NOREPLACE, _native.RENAME_EXCHANGE]),
    )  # fmt: skip
    def rename(self, source: bytes, name: bytes, into: bytes, new_name: bytes, flags: int) -> None:
        parents = self.ino(source), self.ino(into)
        if parents[0] is None or parents[1] is None:
            return
        file, other = self.tree[source].get(name), self.tree[into].get(new_name)
        error = 0
        if file is None or (flags == _native.RENAME_EXCHANGE and other is None):
            error = errno.ENOENT
        elif flags == _native.RENAME_NOREPLACE and other is not None:
            error = errno.EEXIST
        if error:
            with fails(error):
                self.client.rename(parents[0], name, parents[1], new_name, flags)
            return
        self.client.rename(parents[0], name, parents[1], new_name, flags)
        if file is other:
            return
        assert file is not None
        del self.tree[source][name]
        self.tree[into][new_name] = file
        if flags == _native.RENAME_EXCHANGE and other is not None:
            self.tree[source][name] = other

    @rule(source=directories, name=names, into=directories, new_name=names)
    def link(self, source: bytes, name: bytes, into: bytes, new_name: bytes) -> None:
        parent = self.ino(into)
        found = self.existing(source, name)
        if parent is None or found is None:
            return
        ino, file = found
        if new_name in self.tree[into]:
            with fails(errno.EEXIST):
                self.client.store.link(ino, parent, new_name)
            return
        self.client.store.link(ino, parent, new_name)
        self.client.store.forget(ino, 1)
        self.tree[into][new_name] = file

    @rule(directory=directories, name=names)
    def unlink(self, directory: bytes, name: bytes) -> None:
        parent = self.ino(directory)
        if parent is None:
            return
        if self.tree[directory].pop(name, None) is None:
            with fails(errno.ENOENT):
                self.client.store.unlink(parent, name)
            return
        self.client.store.unlink(parent, name)

    @rule(directory=st.sampled_from(DIRECTORIES[1:]))
    def mkdir(self, directory: bytes) -> None:
        if directory in self.tree:
            with fails(errno.EEXIST):
                self.client.store.mkdir(ROOT, directory, DIRECTORY, 0, 0)
            return
        self.client.store.forget(self.client.store.mkdir(ROOT, directory, DIRECTORY, 0, 0)[INO], 1)
        self.tree[directory] = {}

    @rule(directory=st.sampled_from(DIRECTORIES[1:]))
    def rmdir(self, directory: bytes) -> None:
        if self.tree.get(directory):
            with fails(errno.ENOTEMPTY):
                self.client.store.rmdir(ROOT, directory)
        elif directory not in self.tree:
            with fails(errno.ENOENT):
                self.client.store.rmdir(ROOT, directory)
        else:
            self.client.store.rmdir(ROOT, directory)
            del self.tree[directory]

    @precondition(lambda self: len(self.tree) == 2)
    @rule()
    def move_directory(self) -> None:
        [old] = set(self.tree) - {b""}
        [new] = {b"x", b"y"} - {old}
        self.client.rename(ROOT, old, ROOT, new)
        self.tree[new] = self.tree.pop(old)

    @rule(directory=directories, name=names, key=names, value=st.one_of(st.none(), st.binary(max_size=50)))
    def xattr(self, directory: bytes, name: bytes, key: bytes, value: bytes | None) -> None:
        if found := self.existing(directory, name):
            ino, file = found
            if value is not None:
                self.client.store.setxattr(ino, b"user." + key, value)
                file.xattrs[b"user." + key] = value
            elif file.xattrs.pop(b"user." + key, None) is not None:
                self.client.store.removexattr(ino, b"user." + key)

    # --- life cycle -------------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.client.close()
        check_clean(self.path)
        self.client = Client(self.path)
        self.compare(self.client, self.tree)

    @rule(go_on=st.booleans())
    def sync_and_crash(self, go_on: bool) -> None:
        """After sync() a crash loses nothing; half the time the crashed copy is what we go on with."""
        self.client.sync()
        crashed = self.directory / "crashed.kvfs"
        crashed.write_bytes(still(self.path))
        check_clean(crashed)
        survivor = Client(crashed)
        self.compare(survivor, self.tree)
        if go_on:
            self.client.close()
            crashed.replace(self.path)
            self.client = survivor
        else:
            survivor.close()
            check_clean(crashed)

    @invariant()
    def no_complaints(self) -> None:
        assert self.client.warnings() == []


def test_random_operations(scale: int) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=25 * scale,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )


def test_the_model_itself() -> None:
    file = File()
    file.write(5, b"abc")
    file.truncate(6)
    file.truncate(10)
    assert file.read(0, 100) == bytes(5) + b"a" + bytes(4)
    file.write(2 * BLOCK - 1, b"xy")
    assert file.read(2 * BLOCK - 2, 10) == b"\0xy"
    assert file.size == 2 * BLOCK + 1
