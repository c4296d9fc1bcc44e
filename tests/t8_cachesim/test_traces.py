"""Traces as they are published, and what is said of those that are something else."""

import gzip
import json
from pathlib import Path

import pytest

from kvfs.errors import TraceError
from kvfs.replay.traces import Arrivals, Format, read_trace

MOONCAKE = [
    {"timestamp": 3000, "input_length": 1100, "output_length": 5, "hash_ids": [7000000000000, 46, 47]},
    {"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [7000000000000, 46]},
]


def session(requests: list[object], **more: object) -> dict[str, object]:
    return {"id": "a", "block_size": 64, "hash_id_scope": "local", "requests": requests, **more}


def entry(t: float, tokens: int, runs: list[list[int]]) -> dict[str, object]:
    return {"t": t, "type": "n", "in": tokens, "hash_rle": runs}


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, kind: Format = Format.AUTO, seed: int = 0) -> list[tuple[float, int, list[tuple[int, int]]]]:
    """(seconds, client, runs) of each request."""
    return [(r.now_ns / 1e9, r.client, r.runs) for r in read_trace(path, kind, Arrivals(3600, seed))]


class TestMooncake:
    def test_in_order_of_time_with_dense_ids_as_runs(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.jsonl", [*MOONCAKE])
        requests = read_trace(path, Format.AUTO, Arrivals())
        assert [(r.now_ns, r.client, r.runs) for r in requests] == [(0, 0, [(0, 2)]), (3 * 10**9, 0, [(0, 3)])]
        assert [r.tail for r in requests] == [1.0, (1100 - 1024) / 512]

    def test_gzip_and_empty_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl.gz"
        path.write_bytes(gzip.compress("\n\n".join(json.dumps(row) for row in MOONCAKE).encode()))
        assert len(read(path)) == 2

    def test_progress_comes_to_the_size_of_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.jsonl", [*MOONCAKE * 1000])
        told: list[int] = []
        read_trace(path, Format.AUTO, Arrivals(), told.append)
        assert sum(told) == path.stat().st_size


class TestClaudeCode:
    def test_ids_of_a_session_are_its_own(self, tmp_path: Path) -> None:
        rows: list[object] = [
            session([entry(0, 128, [[1, 2]]), entry(9, 200, [[1, 2], [5, 2]])]),
            session([entry(0, 64, [[1, 1]])]),
        ]
        found = read(write(tmp_path / "t.jsonl", rows))
        assert {(client, tuple(runs)) for _, client, runs in found} == {
            (0, ((1, 2),)),
            (0, ((1, 2), (5, 2))),
            (1, ((8, 1),)),
        }
        starts = {client: [at for at, who, _ in found if who == client] for client in (0, 1)}
        assert starts[0][1] - starts[0][0] == pytest.approx(9)
        assert starts[1][0] > starts[0][0]

    def test_sub_agents_count_from_their_own_start(self, tmp_path: Path) -> None:
        agent = {"t": 100, "type": "subagent", "requests": [entry(0, 64, [[50, 1]]), entry(7, 64, [[50, 2]])]}
        found = read(write(tmp_path / "t.jsonl", [session([entry(0, 64, [[1, 1]]), agent, entry(103, 64, [[1, 3]])])]))
        start = found[0][0]
        assert [(round(at - start), runs) for at, _, runs in found] == [
            (0, [(1, 1)]),
            (100, [(50, 1)]),
            (103, [(1, 3)]),
            (107, [(50, 2)]),
        ]

    def test_sessions_start_as_the_seed_says(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.jsonl", [session([entry(0, 64, [[1, 1]])]) for _ in range(200)])
        assert read(path, seed=1) == read(path, seed=1)
        assert read(path, seed=1) != read(path, seed=2)
        # one a second on average, 200 of them: within four standard deviations
        assert read(path, seed=1)[-1][0] == pytest.approx(200, abs=4 * 200**0.5)

    def test_word_for_word_copies_are_left_out(self, tmp_path: Path) -> None:
        rows: list[object] = [session([entry(0, 64, [[1, 1]])]), session([entry(0, 64, [[1, 1]])], dup_of_earlier=True)]
        assert len(read(write(tmp_path / "t.jsonl", rows))) == 1


class TestBadTraces:
    @pytest.mark.parametrize(
        ("rows", "line", "said"),
        [
            (['{"hash_ids": [1'], 1, "JSON object"),
            (["[]"], 1, "hash_ids .* or requests"),
            (['{"id": 3}'], 1, "hash_ids .* or requests"),
            ([json.dumps(MOONCAKE[0]), "{}"], 2, "missing required field"),
            ([json.dumps(MOONCAKE[0]), "", '{"timestamp": 1, "input_length": "x", "hash_ids": []}'], 3, "int"),
            ([json.dumps({**MOONCAKE[0], "timestamp": -1})], 1, "timestamp in ms from 0, found -1"),
            ([json.dumps(session([entry(0, 64, [[1, 0]])]))], 1, "length >= 1"),
            ([json.dumps(session([entry(0, 64, [[-1, 5]])]))], 1, "first >= 0"),
            ([json.dumps(session([entry(0, 64, [[1, 1 << 40]])]))], 1, "less than"),
            ([json.dumps(session([entry(-1e12, 64, [[1, 1]])]))], 1, "time in s"),
            ([json.dumps(session([entry(0, 64, [[1]])]))], 1, "length"),
            ([json.dumps({**session([]), "block_size": 0})], 1, "block_size"),
        ],
    )
    def test_file_line_and_what_was_expected(self, tmp_path: Path, rows: list[str], line: int, said: str) -> None:
        path = tmp_path / "bad.jsonl"
        path.write_text("\n".join(rows))
        with pytest.raises(TraceError, match=said) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}:{line}: ")
        assert "\n" not in str(caught.value)

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        for text in ("", "\n\n", json.dumps(session([]))):
            path = tmp_path / "empty.jsonl"
            path.write_text(text)
            with pytest.raises(TraceError, match=r"found none|empty file"):
                read(path)

    def test_gzip_that_ends_early(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.jsonl.gz"
        whole = gzip.compress("".join(json.dumps(row) + "\n" for row in MOONCAKE * 500).encode())
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(TraceError, match=r"cut.jsonl.gz:\d+: expected gzip data"):
            read(path)

    def test_one_format_read_as_the_other(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.jsonl", [*MOONCAKE])
        with pytest.raises(TraceError, match="missing required field `requests`"):
            read(path, Format.CLAUDE_CODE)

    def test_sub_agents_without_end(self, tmp_path: Path) -> None:
        path = tmp_path / "deep.jsonl"
        path.write_text('{"block_size": 64, "requests": [' + '{"t": 0, "requests": [' * 20000)
        with pytest.raises(TraceError, match=r"deep.jsonl:1: "):
            read(path)
