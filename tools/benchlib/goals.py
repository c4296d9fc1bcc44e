"""What kvfs is asked to reach: ratios of rates, taken as all ratios here, and whether a run shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchlib.figures import Measurement, Spread, paired_ratio


@dataclass(frozen=True)
class Goal:
    """``target``'s rate is to be at least ``ratio`` times ``peer``'s."""

    target: str
    peer: str
    ratio: float


@dataclass(frozen=True)
class Verdict:
    """``found``: the measured ratio over the rounds; its median decides."""

    goal: Goal
    found: Spread

    @property
    def is_met(self) -> bool:
        return self.found.median >= self.goal.ratio


def verdicts(goals: Sequence[Goal], measured: Mapping[str, Sequence[Measurement]]) -> list[Verdict]:
    """Of those goals whose target and peer were measured."""
    return [
        Verdict(goal, paired_ratio(measured[goal.target], measured[goal.peer]))
        for goal in goals
        if goal.target in measured and goal.peer in measured
    ]
