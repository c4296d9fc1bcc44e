"""SmolLM2's byte-level BPE and its chat markup, built from the metadata of the GGUF file."""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from demo.gguf_file import TokenizerData
from kvfs.errors import KvfsError

_START, _END = "<|im_start|>", "<|im_end|>"
_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class ChatTokenizer:
    """Text to token ids and back. Text never turns into a control token, whatever it contains."""

    def __init__(self, data: TokenizerData) -> None:
        # the two things that cannot be built generically from the metadata are checked, not assumed
        if data.pre_tokenizer != "smollm":
            raise KvfsError(f"expected a tokenizer with the pre-tokenizer smollm, found {data.pre_tokenizer}")
        if not all(part in data.chat_template for part in (_START, _END, _SYSTEM)):
            raise KvfsError(f"expected a chat template with {_START} and {_END}, found {data.chat_template[:80]!r}")
        vocabulary = {token: index for index, token in enumerate(data.tokens)}
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in data.merges)]
        self._tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        self._tokenizer.decoder = decoders.ByteLevel()
        self._tokenizer.add_special_tokens([AddedToken(data.tokens[index], special=True) for index in data.special])
        self._tokenizer.encode_special_tokens = True
        self.end_of_turn = data.end_of_turn
        self._start = vocabulary[_START]
        self._end = vocabulary[_END]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; markup in it is text too. Bytes that the vocabulary lacks (few) are left out."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; control tokens are left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def opening(self) -> list[int]:
        """The system message that the chat template puts before everything."""
        return [self._start, *self.encode(f"system\n{_SYSTEM}"), *self._closing()]

    def question(self, text: str) -> list[int]:
        """A user message, and the markup after which the model answers."""
        user = [self._start, *self.encode(f"user\n{text}"), *self._closing()]
        return [*user, self._start, *self.encode("assistant\n")]

    def answer(self, ids: Sequence[int]) -> list[int]:
        """What the model said (without its end-of-turn token), closed as the template does."""
        return [*ids, *self._closing()]

    def _closing(self) -> list[int]:
        return [self._end, *self.encode("\n")]
