"""The native store on a device that fails: errors, short transfers, delays, silence, a full device.

Each fault is injected below the store (``_native.FaultInjector``), above the kernel. That nothing is lost is checked by
opening the volume again, without faults, and by fsck.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from errno import EIO, ENODEV, ENOSPC
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from client import DIRECTORY, FILE, INO, MIB, ROOT, Client, check_clean, fails, make_volume, opened_volume
from support.mount import wait_for

from kvfs._native import FaultInjector
from kvfs.store.format import BLOCK, Superblock

TIMEOUT = 0.4  # s, of the stores here
_EVERYTHING = ["read", "write", "sync", "punch"]


@dataclass
class Broken:
    """A store that has not failed yet."""

    path: Path
    client: Client
    faults: FaultInjector

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.store.statistics()["health"]
        return found

    def recover(self) -> dict[str, Any]:
        """Tell it to, and wait for how that ends."""
        self.client.store.recover()
        return self.wait(lambda health: health["state"] == "healthy" or bool(health["last_answer"]))

    def wait(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            health = self.health()
            return health if condition(health) else None

        health: dict[str, Any] = wait_for(found, "the store's health")
        return health

    def fail_log(self, name: bytes = b"lost") -> None:
        """Turn it read-only: the log cannot be flushed."""
        rule = self.faults.add(["sync"], "error")
        with fails(EIO):
            self.client.create(ROOT, name, b"x" * 5000, durable=True)
        self.faults.remove(rule)
        assert self.health()["state"] == "read-only"


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Broken]:
    """Closed at the end without faults, if the test has not done so: it has to pass fsck and open again."""
    path = make_volume(tmp_path / "store.kvfs")
    faults = FaultInjector(1)
    broken = Broken(path, Client(path, io_timeout=TIMEOUT, faults=faults), faults)
    try:
        yield broken
    finally:
        faults.clear()
        broken.client.close()
    check_clean(path)
    with opened_volume(path):
        pass


def test_read_error_is_one_files_affair(broken: Broken) -> None:
    client = broken.client
    bad, good = client.create(ROOT, b"bad", os.urandom(MIB)), client.create(ROOT, b"good", data := os.urandom(MIB))
    rule = broken.faults.add(["read"], "error", count=1)
    with fails(EIO):
        client.read(bad)
    assert broken.faults.statistics()["rules"][0]["hits"] == 1
    assert client.read(good) == data
    broken.faults.remove(rule)
    assert len(client.read(bad)) == MIB  # an error is not a corrupt file: it stays
    assert broken.health()["state"] == "healthy"


def test_error_on_a_range_spares_the_others(broken: Broken) -> None:
    client = broken.client
    inos = {client.create(ROOT, b"%d" % i, bytes([i]) * MIB): i for i in range(8)}
    broken.faults.add(["read"], "error", offset=8 * MIB, end=9 * MIB, error=EIO)
    found = {ino: _outcome(partial(client.read, ino)) for ino in inos}
    assert all(found[ino] in (EIO, bytes([i]) * MIB) for ino, i in inos.items())
    assert 0 < list(found.values()).count(EIO) < len(inos)


@pytest.mark.parametrize("size", [MIB, 300_000, 4096, 100])
def test_short_transfers_are_continued(broken: Broken, size: int) -> None:
    client = broken.client
    broken.faults.add(["read", "write"], "short", probability=0.7)
    data = os.urandom(size)
    ino = client.create(ROOT, b"page", data, durable=True)
    assert client.read(ino) == data
    client.close()
    with opened_volume(broken.path) as again:
        assert again.content(ROOT, b"page") == data
    if size > 8192:
        assert broken.faults.statistics()["rules"][0]["hits"] > 0


def test_delays_within_the_timeout_are_waited_for(broken: Broken) -> None:
    client = broken.client
    broken.faults.add(_EVERYTHING, "delay", seconds=TIMEOUT / 4, probability=0.3)
    data = os.urandom(100_000)
    ino = client.create(ROOT, b"page", data, durable=True)
    assert client.read(ino) == data
    assert broken.health()["unanswered_total"] == 0


def test_unanswered_read_fails_in_time_and_the_file_is_well_later(broken: Broken) -> None:
    client = broken.client
    ino = client.create(ROOT, b"page", data := os.urandom(MIB))
    broken.faults.add(["read"], "hang")
    begin = time.monotonic()
    with fails(EIO):
        client.read(ino)
    assert time.monotonic() - begin >= TIMEOUT
    health = broken.health()
    assert health["unanswered"] == 1
    assert 0 < health["oldest_request_seconds"] < 60
    assert client.store.getattr(ino)[INO] == ino  # who does not need the device goes on
    broken.faults.clear()
    broken.wait(lambda health: health["unanswered"] == 0)
    assert client.read(ino) == data
    assert broken.health()["state"] == "healthy"


def test_many_unanswered_reads_leave_buffers_for_the_others(broken: Broken) -> None:
    """More of them than the store has buffers of any kind."""
    client = broken.client
    hung = client.create(ROOT, b"hung", data := os.urandom(MIB // 2))
    good = client.create(ROOT, b"good", os.urandom(MIB // 2))
    where = _place_of(broken, data)
    broken.faults.add(["read"], "hang", offset=where, end=where + 4096)
    for _ in range(3):
        tokens = [client.start("read", hung, 0, MIB // 2) for _ in range(60)]
        for token in tokens:
            with fails(EIO):
                client.finish(token)
    assert len(client.read(good)) == MIB // 2
    broken.faults.clear()
    broken.wait(lambda health: health["unanswered"] == 0)
    assert len(client.read(hung)) == MIB // 2


def test_unanswered_data_write_fails_the_flush_and_lands_later(broken: Broken) -> None:
    client = broken.client
    ino = client.store.create(ROOT, b"page", FILE, 0, 0)[INO]
    data = os.urandom(MIB)
    with client.opened(ino, write=True):
        client.write(ino, 0, b"1" * 4096)
        client.flush(ino)  # its segment is open by now: what follows writes data only
        broken.faults.add(["write"], "hang")
        client.write(ino, 0, data)
        with fails(EIO):
            client.flush(ino)
        broken.faults.clear()
        client.flush(ino)
    broken.wait(lambda health: health["unanswered"] == 0)
    if broken.health()["state"] == "read-only":  # the committer met the silence too
        assert broken.recover()["state"] == "healthy"
    assert client.content(ROOT, b"page") == data


def test_a_rename_that_was_given_up_never_happens(broken: Broken) -> None:
    client = broken.client
    client.create(ROOT, b"final", b"old", durable=True)
    ino = client.store.create(ROOT, b"tmp", FILE, 0, 0)[INO]
    client.store.open(ino, True)
    client.write(ino, 0, os.urandom(MIB))
    rule = broken.faults.add(["write"], "hang")
    client.write(ino, MIB, os.urandom(MIB))
    with fails(EIO):
        client.rename(ROOT, b"tmp", ROOT, b"final")
    broken.faults.remove(rule)
    broken.wait(lambda health: health["unanswered"] == 0)
    client.store.release(ino, True)
    if broken.health()["state"] == "read-only":
        assert broken.recover()["state"] == "healthy"
    assert client.content(ROOT, b"final") == b"old"


def test_data_write_error_costs_the_new_version_only(broken: Broken) -> None:
    client = broken.client
    ino = client.create(ROOT, b"page", old := os.urandom(100_000), durable=True)
    with client.opened(ino, write=True):
        broken.faults.add(["write"], "error", count=1)  # the segment is open, with room: this is data
        with fails(EIO):
            client.write(ino, 0, os.urandom(100_000))
            client.flush(ino)
        with fails(EIO):
            client.flush(ino)  # it stays an error, and is not retried into something torn
        broken.faults.clear()
    wait_for(lambda: client.content(ROOT, b"page") == old, "the old version")
    assert broken.health()["state"] == "healthy"


@pytest.mark.parametrize("kind", ["sync", "write"])
def test_failed_log_turns_the_store_read_only_and_it_recovers(broken: Broken, kind: str) -> None:
    client = broken.client
    before = client.create(ROOT, b"before", data := os.urandom(MIB), durable=True)
    broken.faults.add([kind], "error")
    with fails(EIO):
        client.create(ROOT, b"during", b"x" * 5000, durable=True)
    health = broken.wait(lambda health: health["state"] == "read-only")
    assert "metadata cannot be written" in health["reason"]
    assert client.store.statistics()["read_only"] == 1
    assert client.read(before) == data
    with fails(EIO):
        client.create(ROOT, b"refused", b"x")
    with fails(EIO):
        client.call("fsync", before)
    health = broken.recover()  # the device is not well yet
    assert health["state"] == "read-only"
    assert health["last_answer"]
    broken.faults.clear()
    assert broken.recover()["state"] == "healthy"
    after = client.create(ROOT, b"after", b"y" * 5000, durable=True)
    assert client.read(after) == b"y" * 5000
    assert client.read(before) == data
    with fails(22):
        client.store.recover()  # nothing is wrong


def test_recovered_store_survives_a_crash(broken: Broken) -> None:
    """What was done before the failure, acknowledged and in memory only, is on the device after recover()."""
    client = broken.client
    client.create(ROOT, b"durable", b"d" * 70_000, durable=True)
    client.create(ROOT, b"lazy", b"l" * 70_000)
    client.store.mkdir(ROOT, b"dir", DIRECTORY, 0, 0)
    broken.fail_log()
    assert broken.recover()["state"] == "healthy"
    image = broken.path.with_name("image")
    image.write_bytes(broken.path.read_bytes())  # as a crash at this moment would leave it
    check_clean(image)
    with opened_volume(image) as found:
        assert found.content(ROOT, b"durable") == b"d" * 70_000
        assert found.content(ROOT, b"lazy") == b"l" * 70_000
        assert b"dir" in found.names()


def test_read_only_store_keeps_what_was_fsynced_without_recover(broken: Broken) -> None:
    client = broken.client
    client.create(ROOT, b"durable", b"d" * 70_000, durable=True)
    broken.faults.add(["write", "sync"], "error")
    with fails(EIO):
        client.create(ROOT, b"lost", b"x" * 5000, durable=True)
    with fails(EIO):
        client.close()
    with opened_volume(broken.path) as found:
        assert found.content(ROOT, b"durable") == b"d" * 70_000


def test_close_recovers_when_the_device_is_well_again(broken: Broken) -> None:
    client = broken.client
    client.create(ROOT, b"lazy", b"l" * 70_000)
    broken.fail_log()
    client.close()
    assert check_clean(broken.path)["clean"]
    with opened_volume(broken.path) as found:
        assert found.content(ROOT, b"lazy") == b"l" * 70_000


def test_superblock_write_error(broken: Broken) -> None:
    """Superblocks are written with a checkpoint: here the one of recover()."""
    client = broken.client
    client.create(ROOT, b"kept", b"k" * 5000, durable=True)
    broken.fail_log()
    for offset, end in ((0, MIB), (32 * MIB - 4096, 32 * MIB)):  # A or B, the copy at the end
        broken.faults.add(["write"], "error", offset=offset, end=end)
        assert "checkpoint" in broken.recover()["last_answer"]
        broken.faults.clear()
    assert broken.recover()["state"] == "healthy"
    assert client.content(ROOT, b"kept") == b"k" * 5000


def test_what_another_host_has_written_is_not_overwritten(broken: Broken) -> None:
    """Its mount of the volume, while this one could not reach the device: a superblock of a later epoch."""
    broken.client.create(ROOT, b"kept", b"k" * 5000, durable=True)
    broken.fail_log()
    with broken.path.open("r+b", buffering=0) as device:
        ours = device.read(BLOCK)
        found = Superblock.parse(ours)
        theirs = replace(found, epoch=found.epoch + 2, sequence=found.sequence + 2)  # B may be a mount newer
        os.pwrite(device.fileno(), theirs.pack(), 0)
        health = broken.recover()
        assert (health["state"], "another host" in health["last_answer"]) == ("read-only", True)
        assert os.pread(device.fileno(), BLOCK, 0) == theirs.pack()
        os.pwrite(device.fileno(), ours, 0)
    assert broken.recover()["state"] == "healthy"


def test_segment_header_error_is_made_good(broken: Broken) -> None:
    """The first write of data opens a segment; its header is the first request."""
    client = broken.client
    broken.faults.add(["write"], "error", count=1)
    with fails(EIO):
        client.create(ROOT, b"first", b"f" * MIB, durable=True)
    broken.wait(lambda health: health["state"] == "read-only")
    assert broken.recover()["state"] == "healthy"
    client.create(ROOT, b"second", b"s" * 5000, durable=True)


def test_data_lost_by_a_failed_flush_is_not_served(broken: Broken) -> None:
    """A drive that fails a flush may have lost what it had taken: here one file's blocks are overwritten behind it."""
    client = broken.client
    client.create(ROOT, b"older", b"o" * 70_000, durable=True)
    client.create(ROOT, b"taken", data := os.urandom(70_000))
    where = broken.path.read_bytes().find(data[:4096])
    assert where > 0
    broken.fail_log()
    with broken.path.open("r+b") as device:
        device.seek(where)
        device.write(b"\0" * 4096)
    health = broken.recover()
    assert health["state"] == "healthy"
    assert health["verified_bytes_total"] >= 70_000
    assert client.content(ROOT, b"taken") is None  # a clean miss
    assert client.content(ROOT, b"older") == b"o" * 70_000
    assert any("the device lost" in line for line in client.warnings())


@pytest.mark.parametrize("error", [ENODEV, EIO])
def test_device_disappears_and_returns(broken: Broken, error: int) -> None:
    client = broken.client
    ino = client.create(ROOT, b"page", data := os.urandom(MIB), durable=True)
    broken.faults.add(_EVERYTHING, "error", error=error)
    with fails(EIO):
        client.read(ino)
    with fails(EIO):
        client.create(ROOT, b"lost", b"x" * 5000, durable=True)
    broken.wait(lambda health: health["state"] == "read-only")
    broken.faults.clear()
    assert broken.recover()["state"] == "healthy"
    assert client.read(ino) == data
    client.create(ROOT, b"after", b"y" * 5000, durable=True)


def test_device_falls_silent_and_returns(broken: Broken) -> None:
    client = broken.client
    ino = client.create(ROOT, b"page", data := os.urandom(MIB), durable=True)
    broken.faults.add(_EVERYTHING, "hang")
    with fails(EIO):
        client.read(ino)
    with fails(EIO):
        client.create(ROOT, b"late", b"x" * 5000, durable=True)
    health = broken.wait(lambda health: health["state"] == "read-only")
    assert "not answered in time" in health["reason"]
    assert "still has writes" in broken.recover()["last_answer"]
    broken.faults.clear()
    assert broken.recover()["state"] == "healthy"
    assert client.read(ino) == data
    client.create(ROOT, b"after", b"y" * 5000, durable=True)


def test_close_on_a_silent_device_ends(broken: Broken) -> None:
    client = broken.client
    client.create(ROOT, b"durable", b"d" * 70_000, durable=True)
    client.create(ROOT, b"lazy", b"l" * 70_000)
    broken.faults.add(_EVERYTHING, "hang")
    with fails(EIO):
        client.close()
    broken.faults.clear()
    with opened_volume(broken.path) as found:
        assert found.content(ROOT, b"durable") == b"d" * 70_000


def test_thin_device_that_finds_space_after_a_trim(broken: Broken) -> None:
    """ENOSPC for one write: everything free is trimmed, the write is sent again, nobody sees it."""
    client = broken.client
    client.create(ROOT, b"dead", os.urandom(4 * MIB), durable=True)
    client.store.unlink(ROOT, b"dead")
    client.sync()
    broken.faults.add(["write"], "error", error=ENOSPC, count=1)
    data = os.urandom(MIB)
    ino = client.create(ROOT, b"page", data, durable=True)
    assert client.read(ino) == data
    assert broken.health()["state"] == "healthy"


def test_full_thin_device_is_a_full_store(broken: Broken) -> None:
    client = broken.client
    kept = client.create(ROOT, b"kept", data := os.urandom(MIB), durable=True)
    where = _place_of(broken, data)
    broken.faults.add(["write"], "error", error=ENOSPC, offset=where + MIB)  # the log lies in front of it
    with fails(ENOSPC):
        client.create(ROOT, b"page", os.urandom(MIB // 2))
    assert client.read(kept) == data
    broken.faults.clear()
    if broken.health()["state"] == "read-only":
        assert broken.recover()["state"] == "healthy"
    client.create(ROOT, b"after", os.urandom(MIB // 2), durable=True)
    assert client.read(kept) == data


def test_random_faults_never_give_wrong_bytes(broken: Broken) -> None:
    """Errors, short transfers and delays at random under writes and reads: what reads, reads right."""
    client = broken.client
    for kinds, effect, probability in (
        (["read"], "error", 0.05),
        (["write"], "error", 0.02),
        (["read", "write"], "short", 0.2),
        (_EVERYTHING, "delay", 0.05),
    ):
        broken.faults.add(kinds, effect, probability=probability, seconds=0.02)
    contents: dict[bytes, bytes] = {}
    for i in range(120):
        name = b"%d" % (i % 20)
        data = os.urandom(4096 * (1 + i * 7 % 60))
        tmp = b"tmp%d" % i
        failed = _failure(partial(client.create, ROOT, tmp, data))
        failed = failed or _failure(partial(client.rename, ROOT, tmp, ROOT, name))
        if not failed:
            contents[name] = data
        else:
            assert failed in (EIO, ENOSPC)
            if broken.health()["state"] == "read-only":
                broken.recover()
        for wanted, expected in list(contents.items())[:4]:
            assert _outcome(partial(client.content, ROOT, wanted)) in (None, EIO, expected, data)
    broken.faults.clear()
    if broken.health()["state"] == "read-only":
        assert broken.recover()["state"] == "healthy"
    for name, expected in contents.items():
        assert client.content(ROOT, name) in (None, expected)


def _outcome(call: Callable[[], Any]) -> Any:
    """What it returns, or the errno that it fails with."""
    try:
        return call()
    except OSError as error:
        return error.errno


def _failure(call: Callable[[], Any]) -> int:
    """0, or the errno that it fails with."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def _place_of(broken: Broken, data: bytes) -> int:
    """The device offset of a file's first block."""
    broken.client.sync()
    where = broken.path.read_bytes().find(data[:4096])
    assert where > 0
    return where
