"""The demonstration's modules lie in tools/. Most tests use a Llama of a few thousand random weights."""

import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from demo.weights import Layer, ModelConfig, Weights  # noqa: E402


def random_weights(seed: int = 1, layers: int = 2) -> Weights:
    """A Llama with two query heads to each of two KV heads, small but of the right shapes."""
    config = ModelConfig(
        name="random",
        layers=layers,
        hidden=32,
        feed_forward=48,
        heads=4,
        kv_heads=2,
        head_dim=8,
        vocabulary=97,
        context=1024,
        rope_base=10000.0,
        rms_epsilon=1e-5,
    )
    generator = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return generator.normal(0, shape[0] ** -0.5, shape).astype(np.float32)

    layer_list = [
        Layer(
            attention_norm=matrix(32) + 1,
            qkv=matrix(32, 64),
            attention_output=matrix(32, 32),
            feed_forward_norm=matrix(32) + 1,
            gate_up=matrix(32, 96),
            down=matrix(48, 32),
        )
        for _ in range(layers)
    ]
    return Weights(config, matrix(97, 32), tuple(layer_list), matrix(32) + 1, digest=b"random %d" % seed)


@pytest.fixture(scope="session")
def weights() -> Weights:
    return random_weights()


@pytest.fixture(scope="session")
def prompt() -> list[int]:
    """300 tokens: neither whole slices nor whole steps."""
    return np.random.default_rng(2).integers(0, 97, 300).tolist()
