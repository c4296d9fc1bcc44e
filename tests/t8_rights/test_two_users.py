"""Four users do the same, drawn at random, in the mount and on ext4: every outcome and every attribute has to agree.

Each user is a process of its own with that user's ids and groups. Nothing here knows what is allowed: ext4 does.
To run a failure again: its seed is in the test's name. ``KVFS_TEST_SCALE=N`` draws N times the seeds.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.actor import Actor
from support.reference import reference_directory
from users import USERS, Draw, everything, outcome

OPERATIONS = 700
SEEDS = range(4 * int(os.environ.get("KVFS_TEST_SCALE", "1")))

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def reference() -> Iterator[Path]:
    with reference_directory() as directory:
        yield directory


@pytest.mark.parametrize("seed", SEEDS)
def test_users_get_what_ext4_gives_them(tree: Path, reference: Path, seed: int) -> None:
    trees = (str(tree / "top"), str(reference / tree.name))
    for top in trees:
        os.makedirs(top)
        os.chmod(top, 0o777)
    done: list[str] = []
    refused = 0
    with ExitStack() as stack:
        actors = {user.name: stack.enter_context(Actor(outcome, user.uid, user.gid, user.groups)) for user in USERS}
        draw = Draw(seed)
        for number in range(OPERATIONS):
            user, operation = draw.next()
            done.append(f"{user.name}: {operation[0]}{operation[1]}")
            found, expected = (actors[user.name].ask((top, operation)) for top in trees)
            refused += expected in ("EACCES", "EPERM")
            history = "\n".join(done[-30:])
            assert found == expected, f"kvfs: {found}, ext4: {expected} after\n{history}"
            if number % 10 == 9:
                assert everything(trees[0]) == everything(trees[1]), f"after\n{history}"
        assert everything(trees[0]) == everything(trees[1])
    # a drawing under which nobody is ever refused anything would test nothing
    assert refused > OPERATIONS // 20
