"""The Llama forward pass in numpy, float32, with attention over a cache of fp16-rounded K and V.

Two rules make a loaded page as good as a computed one, bit for bit:

* attention reads K and V only after they were rounded to fp16, also those just computed, so that what a page
  holds is exactly what was used;
* tokens are computed in slices that start at multiples of ``slice_tokens`` and are shorter only at the end of a
  prompt. BLAS may sum in another order when a matrix has another shape; so each slice goes through in shapes that its
  position alone decides, whatever was computed or loaded before it, in steps of any size and on any number of threads.
  The K and V of a whole slice are then a function of the tokens up to its end.

Threads: a step is one slice per task, and each layer two rounds of tasks: project (writes the slice's own positions of
the cache), then attend and feed forward (reads the cache up to the slice's end, writes the slice's own rows of the
hidden states). Between the rounds all wait, because the second reads what others wrote in the first; within a round no
two tasks touch the same memory. BLAS itself runs on one thread: its own threads spin while they wait for each other,
which on cores shared with anything else costs several times what they gain.

Architecture: LLaMA (arXiv 2302.13971), with RMSNorm (1910.07467), rotary positions (2104.09864), SwiGLU
(2002.05202), grouped-query attention (2305.13245) and the embedding as output projection.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from demo.weights import Array, Layer, ModelConfig, Weights

Half = NDArray[np.float16]
SLICE_TOKENS = 64  # one thread's matrix products run at 0.8 of the speed they have with 256 rows
STEP_TOKENS = 512  # 8 slices to share among threads


class KVCache:
    """K and V of one sequence, as an engine keeps them in GPU memory: allocated once, filled by position.

    ``planes``: (layers, 2 for K and V, kv_heads, capacity, head_dim), float32 that hold fp16 values, because
    numpy computes in float32 and converts slowly. Pages are the same array cut along positions, in fp16.
    """

    def __init__(self, config: ModelConfig, capacity: int) -> None:
        self.planes = np.empty((config.layers, 2, config.kv_heads, capacity, config.head_dim), np.float32)
        self.wipe()

    @property
    def capacity(self) -> int:
        return self.planes.shape[3]

    def wipe(self) -> None:
        """Forget everything: a position that is read before it is filled again turns the logits into NaN."""
        self.planes.fill(np.nan)

    def put(self, layer: int, start: int, keys: Array, values: Array) -> None:
        """Keep K and V (kv_heads, tokens, head_dim) of the tokens from ``start`` on, rounded to fp16."""
        stop = start + keys.shape[1]
        self.planes[layer, 0, :, start:stop] = keys.astype(np.float16)
        self.planes[layer, 1, :, start:stop] = values.astype(np.float16)

    def copy_out(self, start: int, tokens: int) -> Half:
        """(layers, 2, kv_heads, tokens, head_dim) in fp16, exact."""
        return self.planes[:, :, :, start : start + tokens].astype(np.float16)

    def copy_in(self, start: int, page: Half) -> None:
        """Put what ``copy_out`` gave back at position ``start``."""
        self.planes[:, :, :, start : start + page.shape[3]] = page


class Llama:
    """``forward`` and ``logits`` compute; ``prefill`` and ``decode`` are what an engine does with them.

    One step at a time; ``threads`` work on it.
    """

    def __init__(self, weights: Weights, threads: int = 1, slice_tokens: int = SLICE_TOKENS) -> None:
        self.config = weights.config
        self.slice_tokens = slice_tokens
        self._weights = weights
        self._cosines, self._sines = _rotary_tables(self.config)
        self._threads = ThreadPoolExecutor(threads, "model") if threads > 1 else None

    def prefill(
        self,
        ids: Sequence[int],
        cache: KVCache,
        start: int = 0,
        on_step: Callable[[int], None] | None = None,
        step_tokens: int = STEP_TOKENS,
    ) -> Array:
        """Run the prompt ``ids`` from position ``start`` on; logits (vocabulary,) of its last token.

        ``start`` and ``step_tokens`` are multiples of ``slice_tokens``. ``on_step(end)`` follows each step: positions
        below ``end`` are now in the cache.
        """
        assert start % self.slice_tokens == step_tokens % self.slice_tokens == 0, "slices have their places"
        assert start < len(ids), "the last token has to be run: its logits are wanted"
        last = np.empty(0, np.float32)
        for first in range(start, len(ids), step_tokens):
            end = min(first + step_tokens, len(ids))
            last = self.forward(ids[first:end], cache, first)
            if on_step is not None:
                on_step(end)
        return self.logits(last)

    def decode(self, logits: Array, cache: KVCache, position: int, limit: int, stop: int) -> list[int]:
        """Greedy: up to ``limit`` tokens, or until ``stop`` (left out). ``position``: where the first one goes."""
        ids: list[int] = []
        while (token := int(logits.argmax())) != stop and len(ids) < limit:
            ids.append(token)
            logits = self.logits(self.forward([token], cache, position))
            position += 1
        return ids

    def forward(self, ids: Sequence[int], cache: KVCache, start: int) -> Array:
        """Run tokens at positions ``start``..., whose predecessors are in ``cache``; the last one's hidden state."""
        states: Array = self._weights.embedding[np.asarray(ids)]
        for index in range(self.config.layers):
            self._run_layer(index, states, cache, start)
        last: Array = states[-1]
        return last

    def logits(self, state: Array) -> Array:
        """(vocabulary,) of one hidden state."""
        return self._weights.embedding @ self._normalise(state, self._weights.output_norm)

    def _run_layer(self, index: int, states: Array, cache: KVCache, start: int) -> None:
        """One layer on ``states`` (tokens, hidden), in place."""
        layer = self._weights.layers[index]

        def project(first: int) -> Array:
            return self._project(layer, states[first : first + self.slice_tokens], cache, index, start + first)

        def finish(first: int, queries: Array) -> None:
            rows = states[first : first + self.slice_tokens]
            planes = cache.planes[index, :, :, : start + first + len(rows)]
            rows += self._attend(queries, planes) @ layer.attention_output
            rows += self._feed_forward(layer, rows)

        slices = range(0, len(states), self.slice_tokens)
        run = map if self._threads is None or len(slices) == 1 else self._threads.map
        queries = list(run(project, slices))
        list(run(finish, slices, queries))

    def _project(self, layer: Layer, states: Array, cache: KVCache, index: int, start: int) -> Array:
        """K and V into the cache at ``start``; Q (heads, tokens, head_dim), scaled for the softmax, is returned."""
        config = self.config
        stop = start + len(states)
        joint = self._normalise(states, layer.attention_norm) @ layer.qkv
        by_head = joint.reshape(len(states), -1, config.head_dim).swapaxes(0, 1)
        turned = _rotate(by_head[: config.heads + config.kv_heads], self._cosines[start:stop], self._sines[start:stop])
        cache.put(index, start, turned[config.heads :], by_head[config.heads + config.kv_heads :])
        queries = turned[: config.heads]
        queries *= np.float32(config.head_dim**-0.5)
        return queries

    def _attend(self, queries: Array, planes: Array) -> Array:
        """(tokens, hidden) from Q (heads, tokens, head_dim) over ``planes`` (2, kv_heads, positions, head_dim).

        The Q heads that share a KV head are stacked, so that each KV head is two large matrix products.
        """
        config = self.config
        tokens = queries.shape[1]
        mixed = np.empty((config.kv_heads, config.heads // config.kv_heads, tokens, config.head_dim), np.float32)
        grouped = queries.reshape(config.kv_heads, -1, config.head_dim)
        mask = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
        for head in range(config.kv_heads):
            keys, values = planes[:, head]
            scores = grouped[head] @ keys.T
            scores.reshape(-1, tokens, len(keys))[:, :, len(keys) - tokens :] += mask
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            total = scores.sum(axis=1, keepdims=True)
            mixed[head] = (scores @ values / total).reshape(mixed.shape[1:])
        return np.ascontiguousarray(mixed.reshape(config.heads, tokens, -1).swapaxes(0, 1)).reshape(tokens, -1)

    def _feed_forward(self, layer: Layer, states: Array) -> Array:
        joint = self._normalise(states, layer.feed_forward_norm) @ layer.gate_up
        gate: Array = joint[:, : self.config.feed_forward]
        up: Array = joint[:, self.config.feed_forward :]
        damping = np.negative(gate)
        with np.errstate(over="ignore"):  # exp(-x) of a very negative gate is inf, and x / inf the right 0
            np.exp(damping, out=damping)
        damping += 1
        gate /= damping
        gate *= up
        product: Array = gate @ layer.down
        return product

    def _normalise(self, states: Array, weight: Array) -> Array:
        mean_square = np.mean(np.square(states), axis=-1, keepdims=True, dtype=np.float32)
        scale: Array = np.sqrt(mean_square + np.float32(self.config.rms_epsilon))
        return states / scale * weight


def _rotary_tables(config: ModelConfig) -> tuple[Array, Array]:
    """Cosines and sines (context, head_dim / 2) of position x frequency."""
    frequencies = config.rope_base ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    angles = np.outer(np.arange(config.context), frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(heads: Array, cosines: Array, sines: Array) -> Array:
    """Rotary positions on (heads, tokens, head_dim), where pair i is dimensions i and i + head_dim / 2."""
    middle = heads.shape[2] // 2
    left, right = heads[:, :, :middle], heads[:, :, middle:]
    turned = np.empty(heads.shape, np.float32)
    np.subtract(left * cosines, right * sines, out=turned[:, :, :middle])
    np.add(right * cosines, left * sines, out=turned[:, :, middle:])
    return turned
