"""What the warm tier's tests share."""

import random
from collections.abc import Callable

from kvfs._native import WarmPage, WarmTier

MakeTier = Callable[..., WarmTier]


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def staged(tier: WarmTier, ino: int) -> WarmPage:
    page = tier.stage(ino)
    assert page is not None
    return page
