"""The weights of a Llama model in memory, as the forward pass wants them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama model. ``head_dim`` is even; ``heads`` is a multiple of ``kv_heads``."""

    name: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_base: float
    rms_epsilon: float

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of fp16 K and V that one token has in all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 2


@dataclass(frozen=True)
class Layer:
    """One transformer layer, float32. Matrices are (inputs, outputs), so that ``x @ w`` applies them."""

    attention_norm: Array
    qkv: Array  # hidden x (heads + 2 kv_heads) * head_dim: all of Q, then K, then V
    attention_output: Array
    feed_forward_norm: Array
    gate_up: Array  # hidden x 2 * feed_forward: gate, then up
    down: Array


@dataclass(frozen=True)
class Weights:
    """``embedding`` (vocabulary x hidden) is also the output projection. ``digest``: BLAKE2b of the file."""

    config: ModelConfig
    embedding: Array
    layers: tuple[Layer, ...]
    output_norm: Array
    digest: bytes
