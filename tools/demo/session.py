"""One demonstration from start to end: prepare, run both turns, show what came of it."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo import conversation, report
from demo.gguf_file import GgufFile, find_gguf
from demo.measure import Engine, compare_ways
from demo.measure import Progress as Report
from demo.model import SLICE_TOKENS, STEP_TOKENS, Llama
from demo.mount import KvfsMount, PlainDirectory
from demo.pages import PageStore, page_shape
from demo.tokenizer import ChatTokenizer
from kvfs.errors import KvfsError

_ANSWER_TOKENS = 40
_PAGES = "smollm2-135m"


@dataclass(frozen=True)
class Settings:
    """The command line, checked. ``kvfs`` None: no kvfs, but ``directory``. ``json``: "-" for standard output."""

    mountpoint: Path
    store: Path | None
    directory: Path | None
    kvfs: Path | None
    tokens: int
    block_tokens: int
    rounds: int
    json: str | None


def run_session(settings: Settings) -> None:
    """Raises KvfsError and OSError, each good for one line; also when loaded pages led to another first token."""
    console = Console(stderr=settings.json == "-", highlight=False)
    place = _open_place(settings)
    if isinstance(place, KvfsMount):
        console.print(f"kvfs: {place.store} on {place.directory}", markup=False)

    with _bars(console) as bar:
        progress = bar("reading the model")
        file = GgufFile(find_gguf())
        tokenizer = ChatTokenizer(file.tokenizer_data())
        weights = file.weights(progress)
    config = weights.config
    cores = len(os.sched_getaffinity(0))
    threads = min(cores, STEP_TOKENS // SLICE_TOKENS)
    console.print(
        f"model: {config.name}, {config.kv_bytes_per_token:,} B of KV per token; "
        f"numpy {np.__version__} on {threads} of {cores} cores, each with BLAS on 1 thread"
    )

    pages = place.directory / _PAGES
    pages.mkdir(exist_ok=True)
    store = PageStore(pages, page_shape(config, settings.block_tokens))
    model = Llama(weights, threads, math.gcd(SLICE_TOKENS, settings.block_tokens))
    first = conversation.first_turn(tokenizer, settings.tokens)
    engine = Engine(model, store, weights.digest, min(config.context, settings.tokens + 512), threads)
    with _bars(console) as bar:
        turn1 = engine.run_first_turn(
            first.ids, _ANSWER_TOKENS, tokenizer.end_of_turn, bar("turn 1: prefill, pages written")
        )
    _say(console, f"({len(first.ids):,} tokens of Python's manual) {first.question}", tokenizer.decode(turn1.answer))

    second = conversation.second_turn(tokenizer, first, turn1.answer)
    with _bars(console) as bar:
        progress, loads = bar("turn 2: recomputed"), bar(f"turn 2: from {place.label}, cold, warm")
        ways, logits = compare_ways(engine, place, second.ids, turn1.pages, settings.rounds, progress, loads)
    answer = engine.answer(logits, second.ids, _ANSWER_TOKENS, tokenizer.end_of_turn)
    _say(console, second.question, tokenizer.decode(answer))

    results = report.Results(
        model=config.name,
        kv_bytes_per_token=config.kv_bytes_per_token,
        threads=threads,
        place=str(place.directory),
        store=str(place.store) if isinstance(place, KvfsMount) else None,
        cold=place.cold,
        block_tokens=settings.block_tokens,
        turn1=turn1,
        turn2_tokens=len(second.ids),
        tail_tokens=len(second.ids) - turn1.pages * settings.block_tokens,
        ways=ways,
    )
    report.show(console, results, tokenizer.decode([ways[0].runs[0].token]))
    _write_json(settings.json, results)
    if settings.kvfs is not None:
        report.show_next_steps(console, settings.mountpoint, settings.kvfs)
    if not results.is_first_token_same:
        raise KvfsError("expected the same first token whether its pages were computed or loaded, found others")


def _open_place(settings: Settings) -> KvfsMount | PlainDirectory:
    if settings.directory is not None:
        place: KvfsMount | PlainDirectory = PlainDirectory(settings.directory)
    else:
        assert settings.kvfs is not None
        place = KvfsMount(settings.kvfs, settings.mountpoint, settings.store)
    place.open()
    return place


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[str], Report]]:
    """Progress bars, one for each title that is asked for."""
    columns = TextColumn("{task.description:31}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bars:

        def add(title: str) -> Report:
            task = bars.add_task(title, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield add


def _say(console: Console, question: str, answer: str) -> None:
    console.print(f"[bold]user:[/bold] {question}\n[bold]SmolLM2:[/bold] {escape(' '.join(answer.split()))}")


def _write_json(target: str | None, results: report.Results) -> None:
    if target == "-":
        print(report.as_json(results), file=sys.stdout)
    elif target is not None:
        Path(target).write_text(report.as_json(results) + "\n")
