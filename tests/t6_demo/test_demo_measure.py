"""The experiment on a random model: loaded and computed agree, what is lost or damaged shows, figures add up."""

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demo import mount
from demo.measure import Engine, Run, Way, compare_ways
from demo.model import Llama
from demo.mount import PlainDirectory
from demo.pages import PageStore, page_shape
from demo.report import Results, as_json, show, show_next_steps
from demo.weights import Weights
from rich.console import Console

from kvfs.errors import KvfsError

BLOCK = 32


def ignore(_done: int, _of: int) -> None:
    pass


@pytest.fixture
def engine(weights: Weights, tmp_path: Path) -> Engine:
    store = PageStore(tmp_path, page_shape(weights.config, BLOCK))
    return Engine(Llama(weights, 2, slice_tokens=16), store, weights.digest, capacity=512, threads=2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlainDirectory:
    # dropping the whole machine's caches is not this test's business
    monkeypatch.setattr(mount, "_drop_all_caches", lambda: "")
    return PlainDirectory(tmp_path)


@pytest.fixture
def results(engine: Engine, place: PlainDirectory, prompt: list[int]) -> Results:
    turn1 = engine.run_first_turn(prompt[:200], 8, -1, ignore)
    ids = [*prompt[:200], *turn1.answer, *prompt[200:230]]
    ways, _ = compare_ways(engine, place, ids, turn1.pages, 3, ignore, ignore)
    return Results(
        model="random",
        kv_bytes_per_token=engine.model.config.kv_bytes_per_token,
        threads=2,
        place=str(place.directory),
        store=None,
        cold=place.cold,
        block_tokens=BLOCK,
        turn1=turn1,
        turn2_tokens=len(ids),
        tail_tokens=len(ids) - turn1.pages * BLOCK,
        ways=ways,
    )


def test_pages_are_written_block_by_block(engine: Engine, prompt: list[int]) -> None:
    seen: list[tuple[int, int]] = []
    turn1 = engine.run_first_turn(prompt, 4, -1, lambda *step: seen.append(step))
    assert seen[-1] == (300, 300)
    assert (turn1.tokens, turn1.pages, len(turn1.answer)) == (300, 9, 4)
    assert turn1.page_bytes == BLOCK * engine.model.config.kv_bytes_per_token
    assert engine.store.lookup(engine.keys(prompt)) == 9
    assert turn1.write > 0
    assert turn1.prefill > 0


def test_a_prompt_of_whole_blocks_leaves_one_to_run(engine: Engine, prompt: list[int]) -> None:
    assert len(engine.keys(prompt[:64])) == 1
    turn1 = engine.run_first_turn(prompt[:64], 0, -1, ignore)
    _, expected = engine.recompute(prompt[:64], ignore)
    _, logits = engine.load(prompt[:64], turn1.pages)
    assert logits.tobytes() == expected.tobytes()


def test_loaded_is_computed_to_the_bit(results: Results) -> None:
    assert [len(way.runs) for way in results.ways] == [1, 3, 3]
    assert results.is_identical
    assert results.is_first_token_same
    assert results.turn1.pages == 6
    assert results.cold.startswith("the pages dropped from the page cache")


def test_a_lost_page_is_an_error(engine: Engine, prompt: list[int]) -> None:
    engine.run_first_turn(prompt, 0, -1, ignore)
    engine.store.remove(engine.keys(prompt)[4:5])
    with pytest.raises(KvfsError, match="expected 9 pages of the first turn, found 4"):
        engine.load(prompt, 9)


@pytest.mark.parametrize("damage", [np.float16(3.0), np.float16("nan")])
def test_another_page_shows_as_a_difference(
    engine: Engine, place: PlainDirectory, prompt: list[int], damage: np.float16
) -> None:
    turn1 = engine.run_first_turn(prompt, 0, -1, ignore)
    path = engine.store.path(engine.keys(prompt)[2])
    page = np.fromfile(path, np.float16)
    page[:2000] = damage
    page.tofile(path)
    ways, _ = compare_ways(engine, place, prompt, turn1.pages, 1, ignore, ignore)
    assert ways[0].is_identical
    assert not ways[1].is_identical
    assert np.isinf(ways[1].difference) == np.isnan(damage)


def test_median_is_of_each_part() -> None:
    way = Way("x", True, [Run(1, 1, 0, 7, 5), Run(0, 9, 0, 2, 5), Run(2, 2, 0, 2, 5)])
    assert way.median(lambda run: run.first_token) == 9
    assert way.median(lambda run: run.read) == 2


def test_json_has_the_figures(results: Results) -> None:
    figures = json.loads(as_json(results))
    recomputed, cold, warm = figures["ways"]
    assert figures["logits_identical"] is True
    assert figures["first_token_same"] is True
    assert figures["loaded_bytes"] == 6 * BLOCK * results.kv_bytes_per_token
    assert (recomputed["speed_up"], recomputed["read_gb_per_second"]) == (1.0, None)
    for way in (cold, warm):
        median = sorted(run["first_token"] for run in way["runs"])[1]
        assert way["first_token_seconds"] == median
        assert way["speed_up"] == pytest.approx(recomputed["first_token_seconds"] / median)
        for run in way["runs"]:
            assert run["first_token"] == pytest.approx(sum(run[p] for p in ("lookup", "read", "place", "prefill")))


def test_json_stays_json_when_logits_are_lost(results: Results) -> None:
    results.ways[1].difference = float("inf")
    figures = json.loads(as_json(results), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert figures["logits_identical"] is False
    assert figures["ways"][1]["largest_logit_difference"] is None


def printed(width: int = 80) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=width), text


def test_the_table_fits_a_terminal(results: Results) -> None:
    console, text = printed()
    show(console, results, "The")
    found = text.getvalue()
    assert "…" not in found
    assert all(len(line) <= 80 for line in found.splitlines())
    assert "from files, cold" in " ".join(found.split())
    assert "the same in all 7 runs ('The')" in " ".join(found.split())
    assert "identical to the bit" in " ".join(found.split())


def test_the_table_says_when_results_differ(results: Results) -> None:
    results.ways[2].difference = 0.25
    results.ways[2].runs[0] = replace(results.ways[2].runs[0], token=-1)
    console, text = printed()
    show(console, results, "The")
    assert "NOT the same" in text.getvalue()
    assert "up to 0.25" in text.getvalue()


def test_lines_to_copy_are_whole(tmp_path: Path) -> None:
    mountpoint = tmp_path / "it's mine"
    mountpoint.mkdir()
    console, text = printed()
    show_next_steps(console, mountpoint, Path("/opt/kvfs"))
    vllm = next(line for line in text.getvalue().splitlines() if "TieringOffloadingSpec" in line)
    config = json.loads(shlex.split(vllm)[-1])
    assert config["kv_connector_extra_config"]["secondary_tiers"] == [
        {"type": "fs", "root_dir": str(mountpoint / "vllm")}
    ]
    umount = text.getvalue().splitlines()[-1]
    assert shlex.split(umount) == ["/opt/kvfs", "umount", str(mountpoint)]
