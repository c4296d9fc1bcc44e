"""Each policy by itself, on sequences short enough to follow by hand: what its paper, or our header, says it does."""

import pytest

from kvfs._native import EvictionPolicy, eviction_policies

SECOND = 10**9
PAGE = 1 << 20


def key(name: int) -> int:
    """64 well-mixed bits of ``name`` (splitmix64)."""
    x = (name + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    x = (x ^ x >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    return x ^ x >> 31


class Cache:
    """A policy over objects that are called by their ids, and a clock."""

    def __init__(self, policy: str, capacity: int = 100) -> None:
        self.policy = EvictionPolicy(policy, capacity * PAGE)
        self.now = 0

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    def admit(self, *ids: int, length: int = PAGE, client: int = 0, wait: float = 0) -> None:
        for id_ in ids:
            self.policy.admitted(id_, key(id_), length, self.now, client=client, space=PAGE)
            self.wait(wait)

    def touch(self, *ids: int, client: int = 0) -> None:
        for id_ in ids:
            self.policy.touched(id_, self.now, client=client)

    def request(self, here: list[int], missing: list[int], client: int = 0, tail: int = PAGE) -> None:
        """As an engine does it: use what is there, miss the next, compute and write it and those behind it."""
        self.touch(*here, client=client)
        if missing:
            self.policy.missed(key(missing[0]), self.now, client=client)
            self.wait(0.05)
        self.admit(*missing[:-1], client=client)
        self.admit(*missing[-1:], length=tail, client=client)

    def evict(self, count: int = 1, **how: set[int]) -> list[int]:
        return self.policy.victims(count * PAGE, **how)


@pytest.mark.parametrize("name", eviction_policies())
class TestEveryPolicy:
    def test_evicts_as_many_as_are_asked_for_and_each_once(self, name: str) -> None:
        cache = Cache(name)
        cache.admit(*range(10), wait=10)
        first = cache.evict(4)
        assert len(first) == 4
        assert sorted(first + cache.evict(100)) == list(range(10))
        assert cache.evict() == []
        assert cache.policy.statistics()["resident"] == 0

    def test_asks_before_it_evicts(self, name: str) -> None:
        cache = Cache(name)
        cache.admit(*range(10), wait=10)
        assert sorted(cache.evict(10, refused={2, 3, 5})) == [0, 1, 4, 6, 7, 8, 9]
        assert cache.policy.statistics()["refused"] >= 3
        assert sorted(cache.evict(10)) == [2, 3, 5]

    def test_chooses_only_among_those_it_is_told(self, name: str) -> None:
        cache = Cache(name)
        cache.admit(*range(10), wait=10)
        assert sorted(cache.evict(2, among={7, 8, 9})) in ([7, 8], [7, 9], [8, 9])
        assert len(cache.evict(10, among={7, 8, 9})) == 1
        assert cache.policy.statistics()["resident"] == 7

    def test_what_was_removed_is_nobody_s_victim(self, name: str) -> None:
        cache = Cache(name)
        cache.admit(*range(5), wait=10)
        cache.policy.removed(0)
        cache.policy.removed(0)
        cache.policy.removed(4)
        cache.policy.removed(77)
        assert sorted(cache.evict(10)) == [1, 2, 3]

    def test_an_object_that_is_not_resident_cannot_be_touched(self, name: str) -> None:
        cache = Cache(name)
        cache.touch(3)
        assert cache.evict() == []

    def test_a_new_object_may_have_the_id_of_an_old_one(self, name: str) -> None:
        cache = Cache(name)
        for round_ in range(50):
            cache.policy.admitted(0, key(round_), PAGE, cache.now)
            cache.wait(5)
            assert cache.evict() == [0]

    def test_a_clock_that_steps_back_does_no_harm(self, name: str) -> None:
        cache = Cache(name)
        cache.wait(1000)
        cache.admit(0, 1, 2)
        cache.now = 0
        cache.touch(1)
        cache.admit(3)
        assert sorted(cache.evict(10)) == [0, 1, 2, 3]

    def test_bytes_count_not_objects(self, name: str) -> None:
        cache = Cache(name)
        for id_ in range(4):
            cache.policy.admitted(id_, key(id_), 3 * PAGE, cache.now)
            cache.wait(10)
        assert len(cache.evict(7)) == 3


class TestLru:
    def test_oldest_use_first(self) -> None:
        cache = Cache("lru")
        cache.admit(0, 1, 2, 3)
        cache.touch(0, 2)
        assert cache.evict(4) == [1, 3, 0, 2]


class TestS3Fifo:
    def test_what_was_not_used_twice_passes_through_the_small_queue(self) -> None:
        cache = Cache("s3fifo", capacity=10)
        cache.admit(*range(10))
        cache.touch(0, 0, 1)
        # 0 was used twice and goes to the main queue, 1 only once
        assert cache.evict(3) == [1, 2, 3]

    def test_a_ghost_comes_back_into_the_main_queue(self) -> None:
        cache = Cache("s3fifo", capacity=10)
        cache.admit(*range(10))
        assert cache.evict() == [0]
        cache.admit(0)
        assert cache.policy.statistics()["ghost_hits"] == 1
        # nine in the small queue; one of capacity 10 stays in it
        assert cache.evict(8) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert cache.evict(2) == [0, 9]

    def test_uses_in_the_main_queue_are_worth_a_round_each(self) -> None:
        cache = Cache("s3fifo", capacity=10)
        cache.admit(*range(4))
        assert cache.evict(3) == [0, 1, 2]
        cache.admit(0, 1, 2)
        cache.touch(0)
        assert cache.evict(2) == [1, 2]


class TestArc:
    def test_used_twice_outlives_used_once(self) -> None:
        cache = Cache("arc", capacity=4)
        cache.admit(0, 1, 2, 3)
        cache.touch(0)
        assert cache.evict(3) == [1, 2, 3]

    def test_a_ghost_of_recency_makes_room_for_recency(self) -> None:
        cache = Cache("arc", capacity=4)
        cache.admit(0, 1, 2, 3)
        cache.touch(0, 1)
        assert cache.evict() == [2]  # from t1, whose target is 0
        cache.admit(2)  # found in b1: target 1, into t2
        # t1 has 3, which is its target: t2 gives
        assert cache.evict() == [0]

    def test_a_ghost_of_frequency_takes_it_back(self) -> None:
        cache = Cache("arc", capacity=4)
        cache.admit(0, 1, 2, 3)
        cache.touch(0, 1)
        assert cache.evict() == [2]
        cache.admit(2)
        assert cache.evict() == [0]
        cache.admit(0)  # found in b2: target 0 again
        assert cache.evict() == [3]


class TestKvfs:
    def test_with_nothing_learned_the_oldest_of_a_class_goes_first(self) -> None:
        cache = Cache("kvfs")
        cache.admit(0, 1, 2, 3, wait=10)
        assert cache.evict(4) == [0, 1, 2, 3]

    def test_a_chain_goes_from_its_end(self) -> None:
        cache = Cache("kvfs")
        cache.request([], [0, 1, 2, 3])
        cache.wait(10)
        cache.request([], [10, 11, 12])
        assert cache.evict(7) == [3, 2, 1, 0, 12, 11, 10]

    def test_a_chain_that_is_used_again_goes_from_its_end(self) -> None:
        cache = Cache("kvfs")
        cache.request([], [0, 1, 2, 3])
        cache.wait(10)
        cache.request([0, 1, 2, 3], [4, 5])
        order = cache.evict(6)
        assert order.index(5) < order.index(4)
        assert [id_ for id_ in order if id_ < 4] == [3, 2, 1, 0]

    def test_requests_at_the_same_time_are_chains_of_their_own(self) -> None:
        cache = Cache("kvfs")
        for first in (0, 10, 20):
            cache.request([], [first, first + 1, first + 2])
        assert cache.evict(9) == [2, 1, 0, 12, 11, 10, 22, 21, 20]

    def test_look_ups_between_the_writes_of_a_chain_do_not_break_it(self) -> None:
        cache = Cache("kvfs")
        cache.request([], [20, 21])
        cache.wait(10)
        cache.policy.missed(key(0), cache.now)
        cache.wait(0.05)
        cache.admit(0, 1)
        cache.touch(20)
        cache.policy.missed(key(30), cache.now)
        cache.admit(2, 3)
        order = cache.evict(6)
        assert [id_ for id_ in order if id_ < 4] == [3, 2, 1, 0]

    def test_files_written_under_another_name_and_renamed_are_a_chain(self) -> None:
        """Look the temporary name up, create it, close it, look the final name up, rename."""
        cache = Cache("kvfs")
        for chain in (range(4), range(10, 13)):
            cache.policy.missed(key(chain[0]), cache.now)
            cache.wait(0.05)
            for id_ in chain:
                temporary = key(1000 + id_)
                cache.policy.missed(temporary, cache.now)
                cache.policy.admitted(id_, temporary, PAGE, cache.now)
                cache.policy.missed(key(id_), cache.now)
                cache.policy.removed(id_)
                cache.policy.admitted(id_, key(id_), PAGE, cache.now)
                cache.wait(0.02)
        assert cache.evict(7) == [3, 2, 1, 0, 12, 11, 10]

    def test_who_misses_may_be_another_thread_than_who_writes(self) -> None:
        cache = Cache("kvfs")
        cache.admit(0, 1)
        cache.wait(60)
        cache.touch(0, 1, client=1)
        cache.policy.missed(key(2), cache.now, client=1)
        cache.wait(0.05)
        cache.admit(10, client=2)
        cache.admit(2, 3, client=2)
        order = cache.evict(5)
        assert [id_ for id_ in order if id_ < 10] == [3, 2, 1, 0]

    def test_a_partial_block_goes_before_whole_ones_of_its_age(self) -> None:
        cache = Cache("kvfs")
        cache.request([], [0, 1, 2], tail=PAGE // 3)
        cache.request([], [10, 11, 12], tail=PAGE // 2)
        assert cache.evict(2) == [2, 12]

    def test_a_file_that_was_empty_or_partial_at_first_becomes_a_whole_one(self) -> None:
        cache = Cache("kvfs")
        cache.admit(0, 1)
        cache.admit(2, length=0)
        cache.admit(3, length=PAGE // 2)
        cache.wait(0.1)
        cache.admit(2, 3)
        cache.wait(10)
        cache.request([], [10, 11, 12], tail=PAGE // 2)
        # 12 is a partial block and goes before whole ones of its age, not before older ones
        assert cache.evict(4) == [2, 1, 0, 3]

    def test_more_uses_are_never_worth_less(self) -> None:
        cache = Cache("kvfs")
        cache.admit(0, 1, 2, 3)
        for touched in ((1, 2, 3), (2, 3), (3,)):
            cache.wait(10)
            cache.touch(*touched)
        # all of one age
        cache.wait(10)
        for id_ in (3, 2, 1, 0):
            cache.touch(id_, client=id_)
        assert cache.evict(4) == [0, 1, 3, 2]

    def test_looking_up_opening_and_reading_is_one_use(self) -> None:
        cache = Cache("kvfs")
        cache.admit(0, 1)
        cache.wait(60)
        cache.touch(1)
        cache.wait(60)
        for _ in range(5):
            cache.touch(0)
            cache.wait(0.2)
        cache.touch(1)
        # 0 was used a second time, 1 a third time, both just now
        assert cache.evict() == [0]

    def test_who_keeps_asking_uses_it_once(self) -> None:
        cache = Cache("kvfs")
        cache.admit(0, 1)
        cache.wait(60)
        cache.touch(1)
        cache.wait(60)
        cache.touch(1)
        for _ in range(20):
            cache.touch(0)
            cache.wait(1)
        cache.touch(1)
        # asked for twenty times in a row 0 is used less than 1, three times and at the same time
        assert cache.evict() == [0]

    def test_uses_outlive_eviction(self) -> None:
        cache = Cache("kvfs")
        cache.admit(0, 1)
        for _ in range(3):
            cache.wait(30)
            cache.touch(0)
        assert sorted(cache.evict(2)) == [0, 1]
        cache.wait(30)
        cache.admit(1, client=1)
        cache.admit(0, client=2)
        assert cache.policy.statistics()["ghost_hits"] == 2
        assert cache.evict() == [1]

    def test_it_learns_when_a_class_comes_back(self) -> None:
        """What was used once never comes back, what was used twice does after five minutes: age says nothing then."""
        cache = Cache("kvfs", capacity=10_000)
        loyal = list(range(50))
        fresh = 1000
        cache.admit(*loyal, wait=3)
        for _ in range(40):
            cache.touch(*loyal)
            for _ in range(10):
                cache.wait(30)
                cache.admit(*range(fresh, fresh + 50), client=1)
                fresh += 50
        # the loyal ones are five minutes old, older than 500 strangers, and outlive all but 100 of them
        victims = cache.evict(fresh - 1000 - 100)
        assert len(victims) == fresh - 1000 - 100
        assert not set(victims) & set(loyal)

    def test_memory_is_bounded(self) -> None:
        cache = Cache("kvfs")
        count = 200_000
        for id_ in range(count):
            cache.policy.admitted(id_, key(id_), PAGE, cache.now)
            cache.now += SECOND // 100
        fixed = 2 << 20
        assert cache.policy.statistics()["memory_bytes"] <= fixed + 16.5 * count
        assert len(cache.evict(count - 100)) == count - 100
        for id_ in range(count):
            assert len(cache.evict()) == 1
            cache.policy.admitted(id_ % 100, key(id_ + count), PAGE, cache.now)
        assert cache.policy.statistics()["memory_bytes"] <= fixed + 16.5 * count


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="no such policy: fifo"):
        EvictionPolicy("fifo", 1)
