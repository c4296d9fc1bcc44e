"""Statistics: against what sorting the samples says."""

import math
from fractions import Fraction

import numpy as np
import pytest
from benchlib.figures import Latency, Measurement, Spread, paired_ratio
from benchlib.schedule import rotated
from hypothesis import given
from hypothesis import strategies as st

_SAMPLES = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=400)


@given(_SAMPLES, st.sampled_from([50.0, 90.0, 99.0, 99.9]))
def test_percentile_is_the_nearest_rank(samples: list[int], percent: float) -> None:
    found = Latency.of(samples).percentile(percent)
    rank = math.ceil(len(samples) * Fraction(str(percent)) / 100)
    assert found == (sorted(samples)[rank - 1] if rank < len(samples) else None)


@given(st.lists(_SAMPLES, min_size=1, max_size=5))
def test_merging_is_the_same_as_one_list(parts: list[list[int]]) -> None:
    merged = Latency.merged([Latency.of(part) for part in parts])
    whole = Latency.of([value for part in parts for value in part])
    assert merged.ns.tolist() == whole.ns.tolist()
    assert merged.counts.tolist() == whole.counts.tolist()


def test_percentile_of_the_tail_needs_samples() -> None:
    latency = Latency.of(range(999))
    assert latency.percentile(99) == 989
    assert latency.percentile(99.9) is None
    assert Latency.of(range(1000)).percentile(99.9) == 998
    assert latency.maximum == 998
    assert Latency.of(np.array([], dtype=np.int64)).maximum is None


def _rates(*rates: float) -> list[Measurement]:
    return [Measurement(1.0, int(rate), Latency.of([1]), 0.0) for rate in rates]


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was four times slower in the second round: ratios of medians would show that, these don't."""
    assert paired_ratio(_rates(800, 200, 900), _rates(1000, 250, 1000)) == Spread(0.8, 0.8, 0.9)


def test_ratio_of_different_numbers_of_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        paired_ratio(_rates(1, 2), _rates(1))


def test_rotation_puts_each_target_everywhere() -> None:
    targets = ["kvfs", "raw", "ext4"]
    orders = [rotated(targets, turn) for turn in range(6)]
    for place in range(3):
        assert sorted(order[place] for order in orders) == sorted(targets * 2)
