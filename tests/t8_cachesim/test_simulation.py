"""The simulation itself: what counts as a hit, what the future is worth, that nothing is left to chance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs._native import CacheSimulation, CacheTrace, simulated_policies

SECOND = 10**9


def make_trace(requests: list[list[int]], seconds: float = 5, clients: int = 1) -> CacheTrace:
    trace = CacheTrace()
    for number, blocks in enumerate(requests):
        trace.add(round(number * seconds * SECOND), number % clients, 1.0, [(block, 1) for block in blocks])
    return trace


def simulate(trace: CacheTrace, policy: str, capacity: int) -> dict[str, int]:
    simulation = CacheSimulation(trace, policy, capacity)
    while simulation.step(3):
        pass
    result = simulation.result()
    del result["cpu_ns"]
    return result


def hits(requests: list[list[int]], policy: str, capacity: int) -> tuple[int, int]:
    result = simulate(make_trace(requests), policy, capacity)
    return result["prefix_hits"], result["hits"]


# chains as engines make them: a tree of blocks, a request is a path from a root
@st.composite
def chains(draw: st.DrawFn) -> list[list[int]]:
    parents = draw(st.lists(st.integers(-1, 40), min_size=1, max_size=40))
    paths: list[list[int]] = []
    for block, parent in enumerate(parents):
        paths.append([*(paths[parent] if 0 <= parent < block else []), block])
    return draw(st.lists(st.sampled_from(paths), min_size=1, max_size=60))


# any blocks in any order, each at most once in a request
mixtures = st.lists(st.lists(st.integers(0, 15), max_size=8, unique=True), min_size=1, max_size=50)


class TestHits:
    def test_a_block_behind_a_miss_is_no_prefix_hit(self) -> None:
        # 0 is evicted to make room for 9: 1 and 2 are there, and are of no use
        assert hits([[0], [1, 2], [9], [0, 1, 2]], "lru", 3) == (0, 2)

    def test_a_request_sees_what_was_there_when_it_came(self) -> None:
        assert hits([[0, 1, 2], [0, 1, 2]], "lru", 3) == (3, 3)
        assert hits([[0, 1, 2, 3], [0, 1, 2, 3]], "lru", 3) == (0, 3)

    def test_runs_are_what_they_stand_for(self) -> None:
        trace = CacheTrace()
        trace.add(0, 0, 0.5, [(0, 100), (200, 2)])
        trace.add(1, 0, 1.0, [(0, 101)])
        assert (trace.requests, trace.blocks, trace.references) == (2, 103, 203)
        assert simulate(trace, "lru", 103)["prefix_hits"] == 100

    def test_an_empty_trace_has_nothing_to_simulate(self) -> None:
        assert simulate(CacheTrace(), "min", 1)["references"] == 0


class TestMin:
    def test_what_is_needed_farthest_in_the_future_goes(self) -> None:
        # with room for two: 1 is needed after 0, and 2 never
        assert hits([[0], [1], [2], [0], [1]], "min", 2) == (2, 2)
        assert hits([[0], [1], [2], [0], [1]], "lru", 2) == (0, 0)

    def test_belady_s_own_example(self) -> None:
        # with three frames there are 9 faults at least for who must take every block in; who may refuse one has no more
        reference = [7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1]
        found = hits([[block] for block in reference], "min", 3)[1]
        assert found >= len(reference) - 9
        assert found == best_possible([frozenset({block}) for block in reference], 3)

    def test_the_end_of_a_chain_goes_before_its_beginning(self) -> None:
        assert hits([[0, 1, 2, 3], [0, 1, 2, 3]], "min", 2) == (2, 2)

    @given(st.lists(st.lists(st.integers(0, 5), max_size=3, unique=True), min_size=1, max_size=7), st.integers(1, 3))
    def test_nothing_can_be_better(self, requests: list[list[int]], capacity: int) -> None:
        assert hits(requests, "min", capacity)[1] == best_possible([frozenset(blocks) for blocks in requests], capacity)

    @given(mixtures, st.integers(1, 12), st.sampled_from(simulated_policies()))
    def test_none_has_more_hits(self, requests: list[list[int]], capacity: int, policy: str) -> None:
        assert hits(requests, policy, capacity)[1] <= hits(requests, "min", capacity)[1]


def best_possible(requests: list[frozenset[int]], capacity: int) -> int:
    """Most hits of any cache, by trying all: after a request it holds any `capacity` of what it had and what came."""
    reached = {frozenset[int](): 0}
    for blocks in requests:
        after: dict[frozenset[int], int] = {}
        for held, count in reached.items():
            found = count + len(held & blocks)
            for kept in subsets(held | blocks, capacity):
                after[kept] = max(after.get(kept, 0), found)
        reached = after
    return max(reached.values())


def subsets(blocks: frozenset[int], size: int) -> set[frozenset[int]]:
    out = {frozenset[int]()}
    for block in blocks:
        out |= {chosen | {block} for chosen in out if len(chosen) < size}
    return out


@pytest.mark.parametrize("policy", simulated_policies())
class TestEveryPolicy:
    @given(
        requests=chains(), capacity=st.integers(1, 30), clients=st.integers(1, 3), seconds=st.sampled_from([0, 0.01, 5])
    )
    def test_capacity_holds_and_hits_add_up(
        self, policy: str, requests: list[list[int]], capacity: int, clients: int, seconds: float
    ) -> None:
        result = simulate(make_trace(requests, seconds, clients), policy, capacity)
        assert result["most_resident"] <= capacity
        assert result["resident"] <= capacity
        assert result["prefix_hits"] <= result["hits"] <= result["references"] == sum(map(len, requests))

    @given(requests=chains(), capacity=st.integers(1, 30))
    def test_the_same_trace_has_the_same_result(self, policy: str, requests: list[list[int]], capacity: int) -> None:
        trace = make_trace(requests)
        assert simulate(trace, policy, capacity) == simulate(trace, policy, capacity)

    @given(requests=chains())
    def test_room_for_everything_is_ideal(self, policy: str, requests: list[list[int]]) -> None:
        trace = make_trace(requests)
        result = simulate(trace, policy, trace.blocks)
        seen: set[int] = set()
        ideal = 0
        for blocks in requests:
            ideal += sum(block in seen for block in blocks)
            seen.update(blocks)
        assert result["evicted"] == 0
        assert result["prefix_hits"] == result["hits"] == ideal


class TestBadInput:
    def test_an_unknown_policy(self) -> None:
        with pytest.raises(ValueError, match="no such policy: fifo"):
            CacheSimulation(CacheTrace(), "fifo", 1)

    def test_no_capacity(self) -> None:
        with pytest.raises(ValueError, match="at least 1 block, found 0"):
            CacheSimulation(CacheTrace(), "lru", 0)

    @pytest.mark.parametrize("tail", [0.0, -1.0, 1.5, float("nan")])
    def test_a_tail_that_cannot_be(self, tail: float) -> None:
        with pytest.raises(ValueError, match="tail"):
            CacheTrace().add(0, 0, tail, [(0, 1)])

    def test_a_run_that_ends_nowhere(self) -> None:
        with pytest.raises(ValueError, match="2\\^32"):
            CacheTrace().add(0, 0, 1.0, [((1 << 32) - 2, 2)])
