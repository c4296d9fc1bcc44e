"""What damage to log and checkpoint costs, what a mount says of it, and what repair keeps."""

import errno
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from client import BLOCK, INO, MIB, ROOT, Client, check_clean, fails, make_volume, opened_volume
from images import Image, build, check_found, damaged, files, look, noise, repair

from kvfs import _native
from kvfs.store import format as kvfs1


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(tmp_path_factory.mktemp("images"))[1]


def middle_frame(image: Image) -> tuple[int, kvfs1.Frame]:
    frames = image.frames(checkpoint=False)
    return frames[len(frames) // 2]


def zeros(at: int, frame: kvfs1.Frame) -> tuple[int, bytes]:
    return at, bytes(frame.disk_bytes)


class TestLog:
    def test_a_lost_frame_is_not_taken_for_the_end(self, killed: Image) -> None:
        at, frame = middle_frame(killed)
        with damaged(killed, zeros(at, frame)):
            before = killed.path.read_bytes()
            for read_only in (False, True):
                with fails(errno.EUCLEAN, rf"log is damaged: expected frame {frame.sequence}.*found.*fsck --repair"):
                    _native.Store(os.fspath(killed.path), read_only=read_only)
            assert killed.path.read_bytes() == before, "nothing is overwritten"
            report = _native.check(os.fspath(killed.path))
            [problem] = [each for each in report["problems"] if "log is damaged" in each["detail"]]
            assert problem["kind"] == "log"
            assert "later frames are whole" in problem["detail"]
            assert killed.path.read_bytes() == before

    def test_a_lost_pointer_to_the_next_segment(self, killed: Image) -> None:
        frames = killed.frames(checkpoint=False)
        [(at, frame)] = [
            (at, frame) for at, frame in frames if any(isinstance(record, kvfs1.Next) for record in frame.records())
        ]
        with damaged(killed, zeros(at, frame)), fails(errno.EUCLEAN, "log is damaged"):
            _native.Store(os.fspath(killed.path), read_only=True)

    def test_repair_goes_back_to_the_instant_before(self, killed: Image, tmp_path: Path) -> None:
        image = killed.copy("repaired.kvfs")
        at, frame = middle_frame(image)
        image.write(*zeros(at, frame))
        report = repair(image)
        assert any("log is damaged" in problem["detail"] for problem in report["before"]["problems"])
        assert report["after"]["problems"] == []
        assert any("new checkpoint" in line for line in report["done"])
        check_clean(image.path)
        found = look(image, read_only=False)
        assert found.refused is None
        assert found.lines == []
        check_found(found, image, may_be_older=True)
        # the first files come from the checkpoint and were not touched since
        assert found.contents["file 2"] == image.newest["file 2"]
        with opened_volume(image.path) as client:  # and it is a store like any other
            client.create(ROOT, b"new", b"data", durable=True)
        check_clean(image.path)

    def test_frames_that_nobody_counted_on_may_be_missing(self, killed: Image) -> None:
        """A power cut takes frames that no flush followed in any order: that is no damage."""
        frames = killed.frames(checkpoint=False)
        lost = len(frames) - 3
        changes = [zeros(*frames[lost])]
        for at, frame in frames[lost + 1 :]:
            unflushed = frame.sequence - frames[lost][1].sequence + 1  # it and all since
            changes.append((at, replace(frame, unflushed=unflushed).pack()))
        with damaged(killed, *changes):
            found = look(killed, read_only=True)
        assert found.refused is None
        check_found(found, killed, may_be_older=True)
        assert [level for level, _ in found.lines] == [20]
        assert "never became durable" in found.lines[0][1]
        assert found.statistics["log"]["recovery_cut_frames"] == 2

    def test_a_torn_last_frame_is_the_end(self, killed: Image) -> None:
        at, frame = killed.frames(checkpoint=False)[-1]
        torn = bytearray(frame.pack())
        torn[100] ^= 1
        with damaged(killed, (at, bytes(torn))):
            found = look(killed, read_only=True)
        assert found.refused is None
        assert ["not written completely" in text for _, text in found.lines] == [True]
        check_found(found, killed, may_be_older=True)

    def test_frames_of_versions_that_did_not_say(self, killed: Image) -> None:
        """Without ``unflushed`` the log ends where it breaks off, as it did in those versions."""
        frames = killed.frames(checkpoint=False)
        changes = [(at, replace(frame, unflushed=0).pack()) for at, frame in frames]
        lost = len(frames) // 2
        changes[lost] = zeros(*frames[lost])
        with damaged(killed, *changes):
            found = look(killed, read_only=True)
        assert found.refused is None
        check_found(found, killed, may_be_older=True)

    def test_every_frame_says_what_it_counts_on(self, killed: Image) -> None:
        frames = [frame for _, frame in killed.frames(checkpoint=False)]
        assert all(frame.unflushed >= 1 for frame in frames)
        assert all(frame.unflushed <= frame.sequence for frame in frames)
        assert any(frame.unflushed == 1 for frame in frames[len(frames) // 2 :])


class TestCheckpoint:
    """A checkpoint of several frames in several segments."""

    FILES = 6000
    FOLDERS = 60

    @pytest.fixture(scope="class")
    def image(self, tmp_path_factory: pytest.TempPathFactory) -> Image:
        """A directory's inode lies right before those of its files, so a lost frame takes along whole directories."""
        path = make_volume(tmp_path_factory.mktemp("checkpoint") / "store.kvfs", 64 * MIB, MIB)
        image = Image(path, b"")
        client = Client(path)
        each = self.FILES // self.FOLDERS
        for folder in range(self.FOLDERS):
            parent = client.store.mkdir(ROOT, b"folder %d" % folder, 0o40755, 0, 0)[INO]
            for number in range(each):
                name = b"%d " % number + b"x" * 100
                client.store.symlink(parent, b"link " + name, b"y" * 100, 0, 0)
                if number % 10 == 0:
                    data = noise((folder, number), 100)
                    client.create(parent, name, data)
                    image.history[f"folder {folder}/{os.fsdecode(name)}"] = [data]
        client.close()
        return image

    def test_it_has_several_frames(self, image: Image) -> None:
        frames = image.frames(checkpoint=True)
        assert len(frames) >= 4
        assert len({(at - MIB) // MIB for at, _ in frames}) >= 2

    @pytest.mark.parametrize("which", [0, 1, 2, -2, -1])
    def test_a_lost_frame_costs_what_it_described(self, image: Image, which: int) -> None:
        image = image.copy(f"lost{which}.kvfs")
        at, frame = image.frames(checkpoint=True)[which]
        image.write(*zeros(at, frame))
        before = image.path.read_bytes()
        for read_only in (False, True):
            with fails(errno.EUCLEAN, rf"checkpoint is damaged: expected frame {frame.sequence}.*found.*fsck --repair"):
                _native.Store(os.fspath(image.path), read_only=read_only)
        assert any(problem["kind"] == "checkpoint" for problem in _native.check(os.fspath(image.path))["problems"])
        assert image.path.read_bytes() == before
        lost = {record.ino for record in frame.records() if isinstance(record, kvfs1.Inode)}
        report = repair(image)
        assert report["after"]["problems"] == []
        check_clean(image.path)
        with opened_volume(image.path) as client:
            found = {ino: (name, client.read(ino)) for name, ino in files(client)}
            everything = {ino: name for name, ino in self.inodes(image, before)}
            assert set(found) == set(everything) - lost
            for ino, (name, data) in found.items():
                was = everything[ino]
                assert [data] == image.history[was]
                if name != was:  # its directory was lost
                    assert name.startswith("lost+found/#")
                    assert name.rpartition("/")[2] == was.rpartition("/")[2]

    def inodes(self, image: Image, before: bytes) -> list[tuple[str, int]]:
        """Path and number of the files that were there, by the checkpoint's records."""
        whole = image.path.with_name("whole.kvfs")
        if not whole.exists():
            whole.write_bytes(image.path.with_name("store.kvfs").read_bytes())
        with opened_volume(whole, read_only=True) as client:
            return list(files(client))

    def test_killed_repairs(self, image: Image) -> None:
        """A repair that dies leaves a store that can be repaired, and to the same end."""
        direct = image.copy("direct.kvfs")
        at, frame = direct.frames(checkpoint=True)[1]
        direct.write(*zeros(at, frame))
        killed = direct.copy("killed.kvfs")
        repair(direct)
        begin = time.monotonic()
        repair(direct.copy("timed.kvfs"))  # nothing to do: as long as start and check take
        least = time.monotonic() - begin
        code = f"from kvfs import _native; _native.repair({os.fspath(killed.path)!r})"
        chance = random.Random(7)
        for _ in range(6):
            with subprocess.Popen([sys.executable, "-c", code]) as process:
                try:
                    process.wait(timeout=least + chance.random() * 0.5)
                except subprocess.TimeoutExpired:
                    process.kill()
        repair(killed)
        check_clean(killed.path)
        with opened_volume(direct.path) as one, opened_volume(killed.path) as other:
            assert {name: one.read(ino) for name, ino in files(one)} == {
                name: other.read(ino) for name, ino in files(other)
            }


class TestRepairOfTheRest:
    @pytest.fixture
    def image(self, killed: Image, tmp_path: Path) -> Image:
        image = Image(tmp_path / "store.kvfs", killed.old, killed.history)
        image.path.write_bytes(killed.path.read_bytes())
        with opened_volume(image.path):
            pass  # closed in order
        return image

    def test_nothing_is_written_where_nothing_is_wrong(self, image: Image) -> None:
        before = image.path.read_bytes()
        report = repair(image)
        assert report["before"]["problems"] == report["after"]["problems"] == report["done"] == []
        assert image.path.read_bytes() == before

    def data_of(self, image: Image, name: str) -> int:
        content = image.newest[name]
        assert content is not None
        at = image.path.read_bytes().index(content[:BLOCK])
        assert at % BLOCK == 0
        return at

    def test_files_that_do_not_verify_are_dropped(self, image: Image) -> None:
        at = self.data_of(image, "file 13")
        image.write(at, bytes(BLOCK))
        report = repair(image)
        assert [problem["kind"] for problem in report["before"]["problems"]] == ["checksum"]
        assert report["done"] == ["/file 13: dropped, its data does not verify"]
        assert report["files_dropped"] == 1
        found = look(image, read_only=True)
        assert found.lines == []
        assert "file 13" not in found.contents
        assert len(found.contents) == len([content for content in image.newest.values() if content is not None]) - 1

    def test_headers_and_superblocks_are_written_anew(self, image: Image) -> None:
        at = self.data_of(image, "file 13")
        segment = (at - MIB) // MIB
        image.write(image.offset(segment), bytes(BLOCK))
        image.write(64 * 1024, bytes(BLOCK))
        report = repair(image)
        assert sorted(problem["kind"] for problem in report["before"]["problems"]) == ["segment", "superblock"]
        assert report["done"] == [
            "superblock B at byte 65536: written anew",
            f"segment {segment}: header written anew",
        ]
        assert report["after"]["problems"] == []
        check_clean(image.path)
        assert all(copy["valid"] for copy in _native.inspect(os.fspath(image.path))["copies"])
        check_found(look(image, read_only=True), image)

    def test_progress(self, image: Image) -> None:
        told: list[tuple[int, int]] = []
        _native.repair(os.fspath(image.path), True, lambda done, total: told.append((done, total)))
        assert told[-1][0] == told[-1][1] > 0


def test_what_a_statistic_shows(killed: Image, tmp_path: Path) -> None:
    found = look(killed, read_only=True)
    log: dict[str, Any] = found.statistics["log"]
    assert log["damaged_superblocks"] == log["recovery_cut_frames"] == 0
