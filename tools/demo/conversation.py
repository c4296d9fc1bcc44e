"""The two turns: a few thousand tokens of Python's own language reference and a question, then a follow-up.

The text is what ``help("with")`` and its like print: it comes with every Python, so nothing has to be fetched or
shipped. It is the same in every run of one version of Python.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

from demo.tokenizer import ChatTokenizer
from kvfs.errors import KvfsError

# prose first, in an order that reads on; what they do not fill is filled with the rest in alphabetical order
_TOPICS = ("exceptions", "class", "with", "context-managers", "try", "execmodel", "naming", "import")
_QUESTION = "In one sentence, what is the text above about?"
_FOLLOW_UP = "Thank you. Now name one keyword of Python that it explains."


@dataclass(frozen=True)
class Turn:
    """``ids``: the whole prompt up to and including the markup after which the model answers."""

    question: str
    ids: list[int]


def first_turn(tokenizer: ChatTokenizer, tokens: int) -> Turn:
    """A prompt of at most ``tokens`` tokens, as many of them as whole lines of the text fill."""
    sources = dict.fromkeys([*(name for name in _TOPICS if name in topics), *sorted(topics)])
    lines = "\n\n".join(topics[name].strip() for name in sources).splitlines(keepends=True)

    def prompt(count: int) -> list[int]:
        text = "".join(lines[:count])
        return [*tokenizer.opening(), *tokenizer.question(f"{text}\n{_QUESTION}")]

    # no line has less than a token, so that the right count is among the first ``tokens``
    count = bisect_right(range(min(tokens, len(lines))), tokens, key=lambda count: len(prompt(count))) - 1
    if count < 1:
        raise KvfsError(f"expected room for some text in {tokens} tokens, found none", "choose more --tokens")
    return Turn(_QUESTION, prompt(count))


def second_turn(tokenizer: ChatTokenizer, first: Turn, answer: Sequence[int]) -> Turn:
    """The first turn, the model's ``answer`` to it (without its end-of-turn token) and a follow-up question."""
    return Turn(_FOLLOW_UP, [*first.ids, *tokenizer.answer(answer), *tokenizer.question(_FOLLOW_UP)])
