"""What a probe found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """``LIMITED``: there, but less of it than kvfs could use. ``UNKNOWN``: it cannot be told from here."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One feature. ``remedy`` says how to get it and is empty when there is nothing to do.

    ``required``: kvfs does not work without it.
    """

    feature: str
    state: State
    found: str
    purpose: str
    remedy: str = ""
    required: bool = False

    @property
    def is_ok(self) -> bool:
        return self.state is State.OK
