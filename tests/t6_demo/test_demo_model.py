"""The forward pass: right, and the same to the bit however a prompt is cut, threaded or loaded."""

from collections.abc import Sequence

import numpy as np
import pytest
from demo.model import KVCache, Llama
from demo.weights import Weights


def naive_logits(weights: Weights, ids: Sequence[int]) -> np.ndarray:
    """The textbook's Llama in float64: one token after the other, one head after the other, no cache."""
    config = weights.config
    dim, half = config.head_dim, config.head_dim // 2
    group = config.heads // config.kv_heads

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2) + config.rms_epsilon) * weight

    def rotate(vector: np.ndarray, position: int) -> np.ndarray:
        turned = np.empty(dim)
        for i in range(half):
            angle = position / config.rope_base ** (2 * i / dim)
            a, b = vector[i], vector[i + half]
            turned[i] = a * np.cos(angle) - b * np.sin(angle)
            turned[i + half] = b * np.cos(angle) + a * np.sin(angle)
        return turned

    states = [weights.embedding[token].astype(np.float64) for token in ids]
    for layer in weights.layers:
        queries, keys, values = [], [], []
        for position, state in enumerate(states):
            heads = (norm(state, layer.attention_norm) @ layer.qkv).reshape(-1, dim)
            queries.append([rotate(head, position) for head in heads[: config.heads]])
            # attention sees what a page can hold: fp16
            middle = config.heads + config.kv_heads
            keys.append([rotate(head, position).astype(np.float16) for head in heads[config.heads : middle]])
            values.append(heads[middle:].astype(np.float16))
        for position, state in enumerate(states):
            mixed = []
            for head in range(config.heads):
                own = head // group
                scores = np.array(
                    [queries[position][head] @ keys[j][own].astype(np.float64) for j in range(position + 1)]
                )
                shares = np.exp(scores / np.sqrt(dim))
                shares /= shares.sum()
                mixed.append(sum(share * values[j][own].astype(np.float64) for j, share in enumerate(shares)))
            state = state + np.concatenate(mixed) @ layer.attention_output
            gate, up = np.split(norm(state, layer.feed_forward_norm) @ layer.gate_up, 2)
            states[position] = state + (gate / (1 + np.exp(-gate)) * up) @ layer.down
    return weights.embedding @ norm(states[-1], weights.output_norm)


def test_forward_is_the_textbooks(weights: Weights, prompt: list[int]) -> None:
    ids = prompt[:40]
    found = Llama(weights, slice_tokens=16).prefill(ids, KVCache(weights.config, 64), step_tokens=32)
    # K and V on the edge between two fp16 values may be rounded the other way
    np.testing.assert_allclose(found, naive_logits(weights, ids), atol=5e-3)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("step_tokens", [16, 48, 512])
def test_steps_and_threads_leave_every_bit(weights: Weights, prompt: list[int], threads: int, step_tokens: int) -> None:
    one, other = KVCache(weights.config, 320), KVCache(weights.config, 320)
    expected = Llama(weights, 1, slice_tokens=16).prefill(prompt, one, step_tokens=64)
    found = Llama(weights, threads, slice_tokens=16).prefill(prompt, other, step_tokens=step_tokens)
    assert found.tobytes() == expected.tobytes()
    assert other.planes.tobytes() == one.planes.tobytes()


@pytest.mark.parametrize("kept", [16, 64, 288])
def test_a_prefix_copied_out_and_in_leaves_every_bit(weights: Weights, prompt: list[int], kept: int) -> None:
    model, cache = Llama(weights, 2, slice_tokens=16), KVCache(weights.config, 320)
    expected = model.prefill(prompt, cache)
    page = cache.copy_out(0, kept)
    assert page.dtype == np.float16
    cache.wipe()
    cache.copy_in(0, page)
    assert model.prefill(prompt, cache, start=kept).tobytes() == expected.tobytes()


def test_kv_of_a_prefix_does_not_depend_on_what_follows(weights: Weights, prompt: list[int]) -> None:
    model = Llama(weights, slice_tokens=16)
    one, other = KVCache(weights.config, 320), KVCache(weights.config, 320)
    model.prefill(prompt, one)
    model.prefill([*prompt[:160], 5, 6, 7], other)
    assert one.copy_out(0, 160).tobytes() == other.copy_out(0, 160).tobytes()


def test_positions_that_nothing_filled_show(weights: Weights, prompt: list[int]) -> None:
    model, cache = Llama(weights, slice_tokens=16), KVCache(weights.config, 320)
    model.prefill(prompt, cache)
    page = cache.copy_out(0, 32)
    cache.wipe()
    cache.copy_in(0, page)  # 32 of the 64 that are promised
    assert np.isnan(model.prefill(prompt, cache, start=64)).all()


def test_slices_keep_their_places(weights: Weights, prompt: list[int]) -> None:
    with pytest.raises(AssertionError, match="slices"):
        Llama(weights, slice_tokens=16).prefill(prompt, KVCache(weights.config, 320), start=8)


def test_decode_is_greedy_and_stops(weights: Weights, prompt: list[int]) -> None:
    model, cache = Llama(weights, slice_tokens=16), KVCache(weights.config, 320)
    logits = model.prefill(prompt[:50], cache)
    ids = model.decode(logits, cache, 50, limit=6, stop=-1)
    assert len(ids) == 6
    for count, token in enumerate(ids):  # each is what prefill would choose after those before it
        again = model.prefill([*prompt[:50], *ids[:count]], KVCache(weights.config, 64))
        assert int(again.argmax()) == token
    stop = ids[3]
    assert model.decode(logits, cache, 50, limit=6, stop=stop) == ids[: ids.index(stop)]
