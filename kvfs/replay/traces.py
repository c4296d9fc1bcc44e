"""Request traces as people publish them, one :class:`Request` at a time, in order of time.

A request is the ordered list of the blocks of its prompt, kept as runs of consecutive ids: sessions of coding agents
repeat a thousand blocks in each of their turns. An equal id is a reusable prefix block. Files may be gzipped.

``mooncake``
    One request a line (Mooncake, FAST 2025): ``timestamp`` in ms, ``input_length`` in tokens, ``hash_ids``, of which
    the last covers a partial block of 512 tokens when the length is no multiple of that. One client: it names none.

``claude_code``
    One session a line (kv-cache-tester): ``requests`` with ``t`` in seconds since the session's start, ``in`` in
    tokens, ``hash_rle`` as [first, length] pairs; an entry with ``requests`` of its own is a sub-agent, whose times
    count from its own ``t``. Ids compare inside a session only; a session is a client. A session's start is not in the
    trace: sessions come as a Poisson process, in the file's order, at ``sessions_per_hour``, from ``seed``. Sessions
    marked ``dup_of_earlier`` repeat another one word for word and are left out.
"""

import gzip
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from kvfs.errors import TraceError

MOONCAKE_BLOCK = 512  # tokens
_MOST_BLOCKS = 1 << 31


class Format(StrEnum):
    AUTO = "auto"
    MOONCAKE = "mooncake"
    CLAUDE_CODE = "claude_code"


@dataclass(frozen=True)
class Request:
    """``now_ns`` since the trace's start; ``tail``: how much of the last block is filled, in (0, 1].

    ``runs``: (first id, length); ids are dense over the trace.
    """

    now_ns: int
    client: int
    tail: float
    runs: list[tuple[int, int]]


@dataclass(frozen=True)
class Arrivals:
    """When sessions start whose trace does not tell."""

    sessions_per_hour: float = 100.0
    seed: int = 0


class _MooncakeRequest(msgspec.Struct):
    timestamp: float
    input_length: int
    hash_ids: list[int]


class _Entry(msgspec.Struct, rename={"tokens": "in"}):
    """A request, or a sub-agent: that one has ``requests``."""

    t: float
    tokens: int = 0
    hash_rle: list[tuple[int, int]] = []
    requests: list["_Entry"] | None = None


class _Session(msgspec.Struct):
    requests: list[_Entry]
    block_size: int
    dup_of_earlier: bool = False


def read_trace(
    path: Path, kind: Format, arrivals: Arrivals, progress: Callable[[int], None] = lambda _: None
) -> list[Request]:
    """All requests of ``path``. ``progress``: bytes of the file, as it lies there, that were read since the last call.

    TraceError, with file and line, for what is no such trace; OSError when it cannot be read.
    """
    lines = _lines(path, progress)
    if kind is Format.AUTO:
        first = next(lines, None)
        if first is None:
            raise TraceError(f"{path}: expected a trace, found an empty file")
        kind = _recognize(path, first[1])
        lines = _chain(first, lines)
    requests = _claude_code(path, lines, arrivals) if kind is Format.CLAUDE_CODE else _mooncake(path, lines)
    if not requests:
        raise TraceError(f"{path}: expected requests, found none")
    return requests


def _chain(first: tuple[int, bytes], rest: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    yield first
    yield from rest


def _lines(path: Path, progress: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with their numbers from 1."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
        number, told = 0, 0
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
                progress(raw.tell() - told)
                told = raw.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(f"{path}:{number + 1}: expected gzip data, found: {error}") from error


def _recognize(path: Path, line: bytes) -> Format:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise TraceError(f"{path}:1: expected a JSON object, found: {error}") from error
    if isinstance(row, dict):
        if "hash_ids" in row:
            return Format.MOONCAKE
        if "requests" in row:
            return Format.CLAUDE_CODE
    raise TraceError(
        f"{path}:1: expected a line with hash_ids (mooncake) or requests (claude_code), found neither",
        f"known formats: {', '.join(list(Format)[1:])}",
    )


def _decode(decoder: msgspec.json.Decoder[Any], path: Path, number: int, line: bytes) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise TraceError(f"{path}:{number}: {error}") from error


def _tail(tokens: int, block: int) -> float:
    return (tokens % block or block) / block


def _mooncake(path: Path, lines: Iterator[tuple[int, bytes]]) -> list[Request]:
    decoder = msgspec.json.Decoder(_MooncakeRequest)
    dense: dict[int, int] = {}
    out: list[Request] = []
    for number, line in lines:
        row: _MooncakeRequest = _decode(decoder, path, number, line)
        if not 0 <= row.timestamp < 1e15:
            raise TraceError(f"{path}:{number}: expected a timestamp in ms from 0, found {row.timestamp}")
        runs: list[tuple[int, int]] = []
        for name in row.hash_ids:
            block = dense.setdefault(name, len(dense))
            if runs and sum(runs[-1]) == block:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((block, 1))
        out.append(Request(round(row.timestamp * 1e6), 0, _tail(row.input_length, MOONCAKE_BLOCK), runs))
    out.sort(key=lambda request: request.now_ns)
    return out


def _claude_code(path: Path, lines: Iterator[tuple[int, bytes]], arrivals: Arrivals) -> list[Request]:
    decoder = msgspec.json.Decoder(_Session)
    rng = random.Random(arrivals.seed)
    start, base, client = 0.0, 0, 0
    out: list[Request] = []
    for number, line in lines:
        session: _Session = _decode(decoder, path, number, line)
        if session.dup_of_earlier:
            continue
        if session.block_size < 1:
            raise TraceError(f"{path}:{number}: expected a block_size of at least 1, found {session.block_size}")
        start += rng.expovariate(arrivals.sessions_per_hour / 3600)
        end = 0
        for when, entry in _walk(session.requests, start):
            if not 0 <= when < 1e9:
                raise TraceError(f"{path}:{number}: expected a time in s from 0, found {when - start:g}")
            for first, length in entry.hash_rle:
                if first < 0 or length < 1 or base + first + length > _MOST_BLOCKS:
                    raise TraceError(
                        f"{path}:{number}: expected [first, length] with first >= 0, length >= 1 and less than "
                        f"{_MOST_BLOCKS} blocks in all, found [{first}, {length}]"
                    )
                end = max(end, first + length)
            runs = [(base + first, length) for first, length in entry.hash_rle]
            out.append(Request(round(when * 1e9), client, _tail(entry.tokens, session.block_size), runs))
        base += end
        client += 1
    out.sort(key=lambda request: request.now_ns)
    return out


def _walk(entries: list[_Entry], start: float) -> Iterator[tuple[float, _Entry]]:
    """Requests with their times; those of sub-agents too."""
    pending = [(start, entries)]
    while pending:
        since, group = pending.pop()
        for entry in group:
            if entry.requests is None:
                yield since + entry.t, entry
            else:
                pending.append((since + entry.t, entry.requests))
