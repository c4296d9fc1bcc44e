"""The bar: the store's policy with its one setting, on real traces, beside the others.

The figures of the peers are what others measured with simulators of their own: they say that this one can be trusted.
"""

from pathlib import Path

import pytest

from kvfs.replay.cachesim import Report, simulate
from kvfs.replay.traces import Arrivals

TRACES = Path(__file__).parents[3] / "shared/traces"
CONVERSATION = TRACES / "mooncake_conversation_trace.jsonl"
CODING_AGENTS = TRACES / "claude_code_traces_rle.jsonl.gz"
CAPACITIES = ("1%", "5%", "10%", "25%", "50%")


def needs(path: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path.exists(), reason=f"NOT TESTED: no ../shared/traces/{path.name} by the checkout")


def prefix_hits(report: Report, policy: str) -> list[float]:
    return [row.prefix_hit_percent for row in report.rows if row.policy == policy]


@pytest.fixture(scope="module")
def conversation() -> Report:
    return simulate(CONVERSATION, CAPACITIES, ("kvfs", "lru", "s3fifo", "arc", "min", "ideal"))


@needs(CONVERSATION)
@pytest.mark.parametrize(
    ("policy", "published"),
    [
        ("lru", [5.25, 19.58, 27.89, 35.35, 36.31]),
        ("s3fifo", [7.50, 18.74, 24.48, 34.45, 36.19]),
        ("arc", [6.49, 21.02, 28.43, 33.55, 36.27]),
        ("min", [24.59, 36.64, 36.64, 36.64, 36.64]),
        ("ideal", [36.64] * 5),
    ],
)
def test_peers_are_as_published(conversation: Report, policy: str, published: list[float]) -> None:
    assert prefix_hits(conversation, policy) == pytest.approx(published, abs=0.1)


@needs(CONVERSATION)
def test_conversations_reach_the_best_of_each_column(conversation: Report) -> None:
    best = [9.57, 21.74, 29.10, 35.37]
    found = prefix_hits(conversation, "kvfs")[:4]
    assert all(mine >= other for mine, other in zip(found, best, strict=True)), found


@needs(CONVERSATION)
@pytest.mark.parametrize("half", [0, 1])
def test_each_half_of_the_trace_by_itself_is_better_than_with_any_peer(half: int, tmp_path: Path) -> None:
    """What was learned was learned from what came, and not put in for one trace."""
    lines = CONVERSATION.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    path = tmp_path / "half.jsonl"
    path.write_bytes(b"".join(lines[middle:] if half else lines[:middle]))
    peers = ("lru", "s3fifo", "arc")
    report = simulate(path, CAPACITIES[:4], ("kvfs", *peers))
    best = [max(column) for column in zip(*(prefix_hits(report, peer) for peer in peers), strict=True)]
    found = prefix_hits(report, "kvfs")
    assert all(mine > other for mine, other in zip(found, best, strict=True)), (found, best)


@needs(CODING_AGENTS)
@pytest.mark.parametrize("sessions_per_hour", [100, pytest.param(300, marks=pytest.mark.ci)])
def test_coding_agents_are_within_a_point_of_lru(sessions_per_hour: int) -> None:
    report = simulate(CODING_AGENTS, ("5%",), ("kvfs", "lru"), arrivals=Arrivals(sessions_per_hour))
    (mine,), (lru,) = prefix_hits(report, "kvfs"), prefix_hits(report, "lru")
    assert mine >= lru - 1
