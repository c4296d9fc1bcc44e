"""Is a figure flat? A straight line through its samples, and how far it climbs from end to end."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trend:
    """Least squares over ``seconds``: ``mean``, and ``growth`` along the line; flat when that is at most ``bound``."""

    seconds: float
    mean: float
    growth: float
    bound: float

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.bound


def trend(samples: Sequence[tuple[float, float]], share: float, least: float) -> Trend:
    """``samples``: (seconds, value). Bound: ``share`` of the mean, but at least ``least``. ValueError for fewer than 3.

    What shrinks is flat: a leak grows.
    """
    if len(samples) < 3:
        raise ValueError(f"expected at least 3 samples, found {len(samples)}")
    times = [moment for moment, _ in samples]
    values = [value for _, value in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((moment - middle) ** 2 for moment in times)
    slope = sum((moment - middle) * (value - mean) for moment, value in samples) / spread
    seconds = max(times) - min(times)
    return Trend(seconds, mean, slope * seconds, max(least, share * mean))
