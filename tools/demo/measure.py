"""The experiment: prefill turn 1 and keep its pages, then time turn 2 to its first token, three ways.

Time to first token runs from the prompt's token ids to the choice of the first token of the answer. Recomputed, that is
the prefill of the whole prompt; with pages, the lookup of the longest prefix, reading it, putting it into the KV cache
and the prefill of what is left. The cache is wiped before each run, so that nothing but pages can fill it.

Only pages of the first prompt are kept, as LMCache does by default, not those of tokens that were decoded one by
one: their K and V were computed in other shapes and differ in the last bit from those of a prefill.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from demo.model import Half, KVCache, Llama
from demo.mount import Place
from demo.pages import PageStore, page_buffers, page_keys
from demo.weights import Array
from kvfs.errors import KvfsError

Progress = Callable[[int, int], None]  # (done, of)


@dataclass(frozen=True)
class Run:
    """One time to first token, in seconds, and its parts; without pages all of it is prefill."""

    lookup: float
    read: float
    place: float
    prefill: float
    token: int

    @property
    def first_token(self) -> float:
        return self.lookup + self.read + self.place + self.prefill


@dataclass
class Way:
    """Runs of one way to come to the first token. ``difference``: the largest of any logit to the recomputed ones."""

    name: str
    has_pages: bool
    runs: list[Run] = field(default_factory=list)
    difference: float = 0.0

    @property
    def is_identical(self) -> bool:
        return self.difference == 0.0

    def median(self, part: Callable[[Run], float]) -> float:
        return statistics.median(part(run) for run in self.runs)


@dataclass(frozen=True)
class FirstTurn:
    """Seconds of the first turn. ``prefill`` leaves out what writing took."""

    tokens: int
    prefill: float
    write: float
    pages: int
    page_bytes: int
    answer: list[int]


class Engine:
    """What there is of an inference engine here: a model, its KV cache, and pages to load and to store."""

    def __init__(self, model: Llama, store: PageStore, model_digest: bytes, capacity: int, threads: int) -> None:
        self.model = model
        self.store = store
        self._digest = model_digest
        self._block_tokens = store.shape[3]
        self._cache = KVCache(model.config, capacity)
        self._buffers = page_buffers(capacity // self._block_tokens, store.shape)
        self._copiers = ThreadPoolExecutor(threads, "copier")

    def keys(self, ids: Sequence[int]) -> list[str]:
        """Keys of the pages that can replace computing: the last token's logits are wanted, so it has to be run."""
        return page_keys(self._digest, self.store.shape, ids[:-1])

    def run_first_turn(self, ids: Sequence[int], answer_tokens: int, stop: int, progress: Progress) -> FirstTurn:
        """Prefill, with each page written as soon as it is complete, then answer (greedy)."""
        keys = self.keys(ids)
        self.store.remove(keys)  # those of an earlier run: what is timed is writing new pages
        self._cache.wipe()
        written = 0.0
        pending = deque(enumerate(keys))

        def keep(end: int) -> None:
            nonlocal written
            while pending and (pending[0][0] + 1) * self._block_tokens <= end:
                index, key = pending.popleft()
                page = self._cache.copy_out(index * self._block_tokens, self._block_tokens)
                begin = time.perf_counter()
                self.store.write(key, page)
                written += time.perf_counter() - begin
            progress(end, len(ids))

        begin = time.perf_counter()
        logits = self.model.prefill(ids, self._cache, on_step=keep)
        elapsed = time.perf_counter() - begin
        answer = self.model.decode(logits, self._cache, len(ids), answer_tokens, stop)
        return FirstTurn(len(ids), elapsed - written, written, len(keys), self.store.page_bytes, answer)

    def recompute(self, ids: Sequence[int], progress: Progress) -> tuple[Run, Array]:
        """The whole prompt; the run and its logits."""
        self._cache.wipe()
        begin = time.perf_counter()
        logits = self.model.prefill(ids, self._cache, on_step=lambda end: progress(end, len(ids)))
        token = int(logits.argmax())
        return Run(0.0, 0.0, 0.0, time.perf_counter() - begin, token), logits

    def load(self, ids: Sequence[int], expected_pages: int) -> tuple[Run, Array]:
        """The longest prefix from pages, the rest computed. KvfsError when there are not ``expected_pages``."""
        self._cache.wipe()
        clock = [time.perf_counter()]
        keys = self.keys(ids)
        count = self.store.lookup(keys)
        clock.append(time.perf_counter())
        self.store.read(keys[:count], self._buffers)
        clock.append(time.perf_counter())
        self._place(self._buffers[:count])
        clock.append(time.perf_counter())
        logits = self.model.prefill(ids, self._cache, start=count * self._block_tokens)
        token = int(logits.argmax())
        clock.append(time.perf_counter())
        if count != expected_pages:
            raise KvfsError(
                f"{self.store.directory}: expected {expected_pages} pages of the first turn, found {count}",
                "something else removed them, or the store is too small to keep them",
            )
        lookup, read, place, prefill = np.diff(clock).tolist()
        return Run(lookup, read, place, prefill, token), logits

    def answer(self, logits: Array, ids: Sequence[int], tokens: int, stop: int) -> list[int]:
        """Greedy, after ``recompute`` or ``load`` of the prompt ``ids``."""
        return self.model.decode(logits, self._cache, len(ids), tokens, stop)

    def _place(self, pages: Half) -> None:
        # pages lie at different positions of the cache, so that the threads do not meet
        starts = range(0, len(pages) * self._block_tokens, self._block_tokens)
        list(self._copiers.map(self._cache.copy_in, starts, pages))


def compare_ways(
    engine: Engine, place: Place, ids: Sequence[int], pages: int, rounds: int, progress: Progress, loads: Progress
) -> tuple[list[Way], Array]:
    """Recomputed once; then, in each round, cold and at once again warm. In this order; and the last logits."""
    ways = [Way("recomputed", False), Way(f"from {place.label}, cold", True), Way(f"from {place.label}, warm", True)]
    recomputed, cold, warm = ways
    run, reference = engine.recompute(ids, progress)
    recomputed.runs.append(run)
    logits = reference
    for done in range(rounds):
        place.make_cold()
        for way in (cold, warm):
            run, logits = engine.load(ids, pages)
            way.runs.append(run)
            # NaN, of a page that did not fill the cache, must not pass for a small difference
            difference = float(np.abs(logits - reference).max())
            way.difference = max(way.difference, difference if difference == difference else float("inf"))
        loads(done + 1, rounds)
    return ways, logits
