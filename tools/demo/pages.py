"""KV pages as files: their names, their bytes, and how an engine writes, finds and reads them.

A page holds the K and V of one block of tokens in all layers, fp16, little-endian, and nothing else, so that page and
file are equally long and every page starts on a block of the device (23,040 B per token of SmolLM2-135M):

    layer 0   K   KV head 0   token 0: head_dim x fp16, token 1, ... token block_tokens - 1
                  KV head 1   ...
              V   KV head 0   ...
    layer 1   K   ...

The file needs no header because its name says what it is: a hash of the model, of the layout and of all tokens up to
the block's end, chained from block to block, as vLLM and LMCache do it:

    key(-1)  = BLAKE2b-160(model file's digest, shape of a page, "fp16")
    key(i)   = BLAKE2b-160(key(i-1), ids of block i as little-endian uint32)
    name     = hexadecimal key, ".kv"

Equal names therefore mean equal prefixes, and the longest prefix of a prompt that exists is found by asking for one
name after the other until one is missing.
"""

import hashlib
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.model import Half
from demo.weights import ModelConfig
from kvfs.errors import KvfsError

_KEY_BYTES = 20
READERS = 4  # threads

PageShape = tuple[int, int, int, int, int]


def page_shape(config: ModelConfig, block_tokens: int) -> PageShape:
    """(layers, 2 for K and V, kv_heads, block_tokens, head_dim)."""
    return config.layers, 2, config.kv_heads, block_tokens, config.head_dim


def page_keys(model_digest: bytes, shape: PageShape, ids: Sequence[int]) -> list[str]:
    """Keys, in hexadecimal, of the whole blocks that ``ids`` fill, in order."""
    block_tokens = shape[3]
    key = hashlib.blake2b(model_digest + repr((shape, "fp16")).encode(), digest_size=_KEY_BYTES).digest()
    keys = []
    for first in range(0, len(ids) - block_tokens + 1, block_tokens):
        block = np.asarray(ids[first : first + block_tokens], "<u4").tobytes()
        key = hashlib.blake2b(key + block, digest_size=_KEY_BYTES).digest()
        keys.append(key.hex())
    return keys


def page_buffers(count: int, shape: PageShape) -> Half:
    """(count, *shape): page-aligned memory to read pages into, touched so that reading does not pay for it."""
    memory = mmap.mmap(-1, count * int(np.prod(shape)) * 2)
    buffers: NDArray[np.float16] = np.frombuffer(memory, "<f2").reshape(count, *shape)
    buffers.fill(0)
    return buffers


class PageStore:
    """Pages of one shape in one directory. Safe to share: a page under its name is whole and never changes."""

    def __init__(self, directory: Path, shape: PageShape) -> None:
        self.directory = directory
        self.shape = shape
        self.page_bytes = int(np.prod(shape)) * 2
        self._readers = ThreadPoolExecutor(READERS, "reader")

    def path(self, key: str) -> Path:
        return self.directory / f"{key}.kv"

    def write(self, key: str, page: Half) -> None:
        """Publish a page: a new temporary file, all bytes, then the rename. Raises OSError."""
        assert page.shape == self.shape, "the name promises this shape"
        temporary = self.path(key).with_suffix(f".{os.getpid()}.tmp")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                rest = np.ascontiguousarray(page, "<f2").data.cast("B")
                while rest:
                    rest = rest[os.write(fd, rest) :]
            finally:
                os.close(fd)
            temporary.rename(self.path(key))
        except FileExistsError:  # not ours
            raise
        except BaseException:  # also Ctrl-C, at any point: an interrupted write leaves no file behind
            temporary.unlink(missing_ok=True)
            raise

    def lookup(self, keys: Sequence[str]) -> int:
        """How many of ``keys``, from the first on, have a page of the right size."""
        for count, key in enumerate(keys):
            try:
                if self.path(key).stat().st_size != self.page_bytes:
                    return count
            except FileNotFoundError:
                return count
        return len(keys)

    def read(self, keys: Sequence[str], buffers: Half) -> None:
        """Read the pages of ``keys`` into the first ``buffers``, several at a time. Raises OSError, KvfsError."""
        list(self._readers.map(self._read_one, keys, buffers))

    def remove(self, keys: Sequence[str]) -> None:
        """Forget pages; those that do not exist are no error."""
        for key in keys:
            self.path(key).unlink(missing_ok=True)

    def _read_one(self, key: str, buffer: Half) -> None:
        path = self.path(key)
        view = buffer.data.cast("B")
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size != self.page_bytes:
                raise KvfsError(f"{path}: expected a page of {self.page_bytes} bytes, found {size}", "remove it")
            done = 0
            while done < size:
                count = os.preadv(fd, [view[done:]], done)
                if count == 0:
                    raise KvfsError(f"{path}: expected {size} bytes, found end of file after {done}", "remove it")
                done += count
        finally:
            os.close(fd)
