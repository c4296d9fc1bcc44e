"""What `kvfsctl warm` asks of a mount, without one."""

import errno

import pytest
from client import MIB, ROOT, Client, fails
from warming import MakeTier, noise, staged

from kvfs._native import WarmTier
from kvfs.fs import warm
from kvfs.fs.warm import Report, Warmth


def ask(tier: WarmTier, ino: int, command: int) -> Report:
    return Report.parse(tier.control(ino, command, warm.EMPTY_REPORT))


def test_a_file_is_warmed_and_evicted(client: Client, tier: WarmTier) -> None:
    ino = client.create(ROOT, b"page", noise("page", MIB))
    cold = Report(MIB, 0, Warmth.COLD, passthrough=False)
    hot = Report(MIB, MIB, Warmth.WARM, passthrough=False)
    assert ask(tier, ino, warm.STATE) == cold
    assert ask(tier, ino, warm.WARM) == hot
    assert ask(tier, ino, warm.WARM) == hot
    assert ask(tier, ino, warm.STATE) == hot
    assert ask(tier, ino, warm.EVICT) == cold
    assert tier.find(ino) is None
    assert tier.statistics()["stagings_total"] == 1


def test_what_is_not_taken_is_said(client: Client, make_tier: MakeTier) -> None:
    tier = make_tier(4 * MIB, largest_file=MIB)
    small = client.create(ROOT, b"small", b"small")
    large = client.create(ROOT, b"large", bytes(MIB + 1))
    assert ask(tier, small, warm.WARM) == Report(5, 0, Warmth.TOO_SMALL, passthrough=False)
    assert ask(tier, large, warm.WARM) == Report(MIB + 1, 0, Warmth.TOO_LARGE, passthrough=False)
    assert ask(tier, ROOT, warm.WARM).warmth is Warmth.NOT_REGULAR


def test_no_room(client: Client, make_tier: MakeTier) -> None:
    tier = make_tier(4 * MIB)
    held = [staged(tier, client.create(ROOT, b"page%d" % i, bytes(MIB))) for i in range(4)]
    ino = client.create(ROOT, b"one more", bytes(MIB))
    with fails(errno.ENOSPC):
        ask(tier, ino, warm.WARM)
    held.pop()
    assert ask(tier, ino, warm.WARM).warmth is Warmth.WARM


@pytest.mark.parametrize(
    ("command", "report", "code"),
    [
        (0, warm.EMPTY_REPORT, errno.ENOTTY),
        (0x5401, warm.EMPTY_REPORT, errno.ENOTTY),  # TCGETS, which programs try on anything
        (warm.WARM, b"", errno.EINVAL),
        (warm.WARM, warm.EMPTY_REPORT[:-1], errno.EINVAL),
        (warm.EVICT, warm.EMPTY_REPORT[:-1] + b"\1", errno.EINVAL),
    ],
)
def test_bad_requests(client: Client, tier: WarmTier, command: int, report: bytes, code: int) -> None:
    ino = client.create(ROOT, b"page", bytes(MIB))
    with fails(code):
        tier.control(ino, command, report)
    with fails(errno.ENOENT):
        ask(tier, 12345, warm.WARM)
