"""Damage anywhere on a store: never wrong bytes, never an older state in silence, never a crash; repair ends in order.

A sample of all blocks is damaged, with a seed that a failure tells: KVFS_TEST_SEED repeats it, KVFS_TEST_SCALE makes
the sample as many times larger, KVFS_TEST_SCALE=all takes every block (minutes).
"""

import os
import random
import time
from pathlib import Path

import pytest
from client import BLOCK, MIB, check_clean
from images import COPIES, DAMAGES, Image, build, check_found, damaged, look, repair

EVERYWHERE = os.environ.get("KVFS_TEST_SCALE") == "all"
SCALE = 1 if EVERYWHERE else int(os.environ.get("KVFS_TEST_SCALE", "1"))
SEED = int(os.environ.get("KVFS_TEST_SEED", time.time_ns() % 1_000_000))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    closed, killed = build(tmp_path_factory.mktemp("images"))
    return {"closed": closed, "killed": killed}


@pytest.fixture(params=["closed", "killed"])
def image(images: dict[str, Image], request: pytest.FixtureRequest) -> Image:
    return images[request.param]


def unprotected(image: Image) -> set[int]:
    """Blocks of the log's last frames, which no later frame counts on: their loss looks like the log's end."""
    frames = image.frames(checkpoint=False)
    durable = max((frame.sequence + 1 - frame.unflushed for _, frame in frames if frame.unflushed), default=0)
    return {
        block for at, frame in frames if frame.sequence >= durable for block in range(at, at + frame.disk_bytes, BLOCK)
    }


def test_the_images_are_what_they_should_be(image: Image) -> None:
    found = look(image, read_only=True)
    assert found.refused is None
    assert found.lines == []
    assert found.unreadable == set()
    check_found(found, image)
    assert len(image.frames(checkpoint=True)) >= 1
    check_clean(image.path)


def test_the_killed_one_has_a_log_worth_damaging(images: dict[str, Image]) -> None:
    killed = images["killed"]
    frames = killed.frames(checkpoint=False)
    assert len(frames) >= 15
    assert len(unprotected(killed)) <= 3


def sweep(image: Image, how: str, blocks: list[int], chance: random.Random) -> None:
    tail = unprotected(image)
    for at in blocks:
        changes = [(place, data) for place, data in DAMAGES[how](image, at, chance) if data != image.read(place, BLOCK)]
        with damaged(image, *changes):
            found = look(image, read_only=True)
        try:
            check_found(found, image, may_be_older=any(place in tail for place, _ in changes))
        except AssertionError as error:
            raise AssertionError(f"block {at} {how}, KVFS_TEST_SEED={SEED}: {error}") from error


@pytest.mark.parametrize("how", DAMAGES)
def test_one_block(image: Image, how: str) -> None:
    chance = random.Random(f"{SEED} {how}")
    blocks = image.used_blocks()
    if not EVERYWHERE:
        log = [at for at, _ in image.frames(checkpoint=False) + image.frames(checkpoint=True)]
        special = [*COPIES.values(), *log]
        blocks = [*chance.sample(special, min(12, len(special))), *chance.sample(blocks, 20 * SCALE)]
    sweep(image, how, blocks, chance)


@pytest.mark.parametrize("number", range(12 * SCALE))
def test_several_blocks_and_repair(images: dict[str, Image], number: int, tmp_path: Path) -> None:
    """Open for writing what can be opened, repair what cannot; either way the store is in order afterwards."""
    seed = SEED + number
    chance = random.Random(seed)
    source = images[chance.choice(["closed", "killed"])]
    image = Image(tmp_path / "store.kvfs", source.old, source.history)
    image.path.write_bytes(source.path.read_bytes())
    for at in chance.sample(image.used_blocks(), chance.randrange(1, 6)):
        for place, data in DAMAGES[chance.choice(list(DAMAGES))](image, at, chance):
            image.write(place, data)
    print(f"KVFS_TEST_SEED={seed}")
    found = look(image, read_only=False)
    check_found(found, image, may_be_older=True)
    if found.refused is not None:
        before = image.path.read_bytes()
        assert look(image, read_only=False).refused == found.refused, "a refusal changes nothing"
        assert image.path.read_bytes() == before
    if found.refused is not None and "superblock" in found.refused:
        with pytest.raises(OSError, match="superblock"):  # none is left
            repair(image)
        return
    assert repair(image)["after"]["problems"] == []
    check_clean(image.path)
    again = look(image, read_only=False)
    assert again.refused is None
    assert again.unreadable == set()
    check_found(again, image, may_be_older=True)


@pytest.mark.parametrize("seed", range(4))
def test_a_swapped_segment(images: dict[str, Image], seed: int, tmp_path: Path) -> None:
    """Two whole segments have changed places, one of them of the log."""
    chance = random.Random(seed)
    image = images["killed"]
    log = {(at - MIB) // MIB for at, _ in image.frames(checkpoint=False)}
    one = chance.choice(sorted(log))
    other = chance.choice([n for n in range(22) if n != one])
    a, b = (image.read(image.offset(segment), MIB) for segment in (one, other))
    with damaged(image, (image.offset(one), b), (image.offset(other), a)):
        found = look(image, read_only=True)
        assert found.refused is not None
        assert "log is damaged" in found.refused
        assert "fsck --repair" in found.refused


@pytest.mark.parametrize("bad", [("A",), ("B",), ("end",), ("A", "B"), ("A", "end"), ("B", "end")])
@pytest.mark.parametrize("how", ["zeros", "older"])
def test_superblocks_never_bring_back_an_older_state(image: Image, bad: tuple[str, ...], how: str) -> None:
    """Whatever copies are lost or from an older image: the newest state, or a refusal, and never without a word."""
    changes = [
        (COPIES[name], bytes(BLOCK) if how == "zeros" else image.old[COPIES[name] : COPIES[name] + BLOCK])
        for name in bad
    ]
    with damaged(image, *changes):
        found = look(image, read_only=True)
    check_found(found, image)
    if len(bad) == 1:
        assert found.refused is None, "one copy of three is no loss"
    if how == "zeros":
        assert found.refused is not None or [level for level, _ in found.lines] == [30] * len(bad)
        assert found.refused is not None or found.statistics["log"]["damaged_superblocks"] == len(bad)


def test_all_superblocks_of_an_older_image(images: dict[str, Image]) -> None:
    """They bear each other out, and what they name is there no more, or the log says that it went on."""
    for image in images.values():
        changes = [(at, image.old[at : at + BLOCK]) for at in COPIES.values()]
        with damaged(image, *changes):
            found = look(image, read_only=True)
        # closed in order, by all three copies: nothing says where the newer state is, but the data it took is gone
        check_found(found, image, may_be_older=True)
