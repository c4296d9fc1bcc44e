"""Pages: names that chain, bytes where they are documented, whole or absent, and longest prefixes."""

import errno
import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo.pages import PageStore, page_buffers, page_keys, page_shape
from demo.weights import Weights

from kvfs.errors import KvfsError

SHAPE = (3, 2, 2, 16, 4)
BYTES = 3 * 2 * 2 * 16 * 4 * 2


@pytest.fixture
def store(tmp_path: Path) -> PageStore:
    return PageStore(tmp_path, SHAPE)


def make_page(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float16)


def test_keys_are_the_documented_chain() -> None:
    ids = list(range(40))
    digest = hashlib.blake2b(b"model" + b"((3, 2, 2, 16, 4), 'fp16')", digest_size=20).digest()
    expected = []
    for block in (ids[:16], ids[16:32]):
        digest = hashlib.blake2b(digest + struct.pack("<16I", *block), digest_size=20).digest()
        expected.append(digest.hex())
    assert page_keys(b"model", SHAPE, ids) == expected


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2)])
def test_only_whole_blocks_have_a_key(tokens: int, blocks: int) -> None:
    assert len(page_keys(b"model", SHAPE, list(range(tokens)))) == blocks


def test_a_key_names_everything_before_it_and_nothing_after() -> None:
    ids = list(range(64))
    keys = page_keys(b"model", SHAPE, ids)
    assert len(set(keys)) == 4
    assert page_keys(b"model", SHAPE, ids[:32] + [9] * 32)[:2] == keys[:2]
    changed = page_keys(b"model", SHAPE, [*ids[:20], 999, *ids[21:]])
    assert [a == b for a, b in zip(changed, keys, strict=True)] == [True, False, False, False]
    assert not set(keys) & set(page_keys(b"other model", SHAPE, ids))
    assert not set(keys) & set(page_keys(b"model", (3, 2, 2, 16, 8), ids))


def test_bytes_lie_where_they_are_documented(store: PageStore) -> None:
    page = np.arange(np.prod(SHAPE)).astype(np.float16).reshape(SHAPE)
    store.write("k", page)
    data = store.path("k").read_bytes()
    assert len(data) == BYTES == store.page_bytes
    for layer, kind, head, token, dim in np.ndindex(SHAPE):
        offset = 2 * (dim + 4 * (token + 16 * (head + 2 * (kind + 2 * layer))))
        assert struct.unpack_from("<e", data, offset)[0] == page[layer, kind, head, token, dim]


def test_smollm2_has_23040_bytes_per_token(weights: Weights) -> None:
    assert np.prod(page_shape(weights.config, 64)) * 2 == 64 * weights.config.kv_bytes_per_token
    assert 30 * 2 * 3 * 64 * 2 == 23_040


def test_pages_come_back(store: PageStore) -> None:
    pages = {f"key{index}": make_page(index) for index in range(9)}
    for key, page in pages.items():
        store.write(key, page)
    keys = list(pages)
    assert store.lookup(keys) == 9
    buffers = page_buffers(10, SHAPE)
    store.read(keys, buffers)
    for page, buffer in zip(pages.values(), buffers[:9], strict=True):
        assert buffer.tobytes() == page.tobytes()
    assert not buffers[9].any()
    assert sorted(path.name for path in store.directory.iterdir()) == [f"{key}.kv" for key in keys]


def test_pages_come_back_from_a_mount(tree: Path) -> None:
    test_pages_come_back(PageStore(tree, SHAPE))


def test_a_write_in_pieces_is_finished(store: PageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write, preadv = os.write, os.preadv
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1000]))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:700]], at))
    store.write("k", make_page(1))
    buffers = page_buffers(1, SHAPE)
    store.read(["k"], buffers)
    assert buffers[0].tobytes() == make_page(1).tobytes()


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(
    store: PageStore, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    write = os.write

    def fail_at_the_second(fd: int, data: memoryview) -> int:
        if os.fstat(fd).st_size:
            raise failure
        return write(fd, data[:1000])

    monkeypatch.setattr(os, "write", fail_at_the_second)
    with pytest.raises(type(failure)):
        store.write("k", make_page(1))
    assert list(store.directory.iterdir()) == []


def test_an_interrupt_right_after_the_file_was_made_leaves_nothing(
    store: PageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_and_be_interrupted(*arguments: Any) -> int:
        os.close(real_open(*arguments))
        raise KeyboardInterrupt

    real_open = os.open
    monkeypatch.setattr(os, "open", open_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write("k", make_page(1))
    assert list(store.directory.iterdir()) == []


def test_another_writers_temporary_file_stays(store: PageStore) -> None:
    theirs = store.directory / f"k.{os.getpid()}.tmp"
    theirs.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        store.write("k", make_page(1))
    assert theirs.read_bytes() == b"theirs"


def test_lookup_ends_at_the_first_that_is_missing_or_damaged(store: PageStore) -> None:
    keys = [f"key{index}" for index in range(5)]
    for key in keys:
        store.write(key, make_page(0))
    store.remove([keys[3], "never written"])
    assert store.lookup(keys) == 3
    os.truncate(store.path(keys[1]), BYTES - 1)
    assert store.lookup(keys) == 1
    assert store.lookup([]) == 0


def test_a_short_page_is_refused(store: PageStore) -> None:
    store.write("k", make_page(0))
    os.truncate(store.path("k"), BYTES // 2)
    with pytest.raises(KvfsError, match=rf"k\.kv: expected a page of {BYTES} bytes, found {BYTES // 2}"):
        store.read(["k"], page_buffers(1, SHAPE))


def test_a_page_that_ends_while_it_is_read_is_refused(store: PageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("k", make_page(0))
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(KvfsError, match=rf"expected {BYTES} bytes, found end of file after 0"):
        store.read(["k"], page_buffers(1, SHAPE))
