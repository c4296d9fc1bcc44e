"""Whose a volume is, and what its owner does when it is another's. Two hosts are two ids on one machine here; the
volume's lock keeps them apart only while both have it open, so a crash is a copy of the file. With real hosts, on a
real target: tests/t9_fabric/test_fencing.py."""

import errno
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from client import MIB, ROOT, Client, check_clean, fails, make_volume, still
from loop import loop_device
from support.mount import wait_for

from kvfs import _native
from kvfs.errors import UsageError, VolumeOwned
from kvfs.store import format as kvfs1
from kvfs.store import ownership
from kvfs.store import volume as volumes
from kvfs.store.hosts import VARIABLE, Host, this_host
from kvfs.store.ownership import Hold, take_over

A = Host(b"a" * 16, "host-a", "")
B = Host(b"b" * 16, "host-b", "")
C = Host(b"c" * 16, "host-c", "")
OWNER_BYTES = kvfs1.SUPERBLOCK_B + kvfs1.BLOCK


@contextmanager
def mounted(path: Path, host: Host, **options: Any) -> Iterator[Client]:
    """As a mount opens it; closed in the end, whatever that says."""
    hold = Hold(path, host)
    try:
        owner = f'{{"host": "{host.name}", "boot_id": "{host.boot_id}"}}'
        client = Client(
            path, host=host.id, host_name=host.name, owner=owner, io_timeout=20.0, on_locked=hold.take, **options
        )
        try:
            yield client
        finally:
            with suppress(OSError):
                client.close()
    finally:
        hold.end(in_order=False)


def crashed(path: Path, host: Host) -> Path:
    """A copy of the volume, mounted by ``host``, with a durable file ``old``, as a crash leaves it."""
    image = path.with_name("crashed")
    with mounted(path, host) as client:
        client.create(ROOT, b"old", b"o" * 70_000, durable=True)
        image.write_bytes(still(path))
    return image


def state(client: Client) -> str:
    return str(client.store.statistics()["health"]["state"])


def claim(path: Path, host: Host) -> int:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        return ownership.claim_volume(fd, ownership.read(path), host)
    finally:
        os.close(fd)


def take(path: Path, host: Host, force: str | None = None) -> ownership.Takeover:
    return take_over(path, host, force=force, tell=lambda _text: None)


def test_after_a_crash_the_same_host_goes_on_and_another_is_refused(volume: Path) -> None:
    image = crashed(volume, A)
    before = image.read_bytes()
    with pytest.raises(VolumeOwned, match=r"belongs to host host-a.*kvfsctl takeover"), mounted(image, B):
        pass
    with pytest.raises(OSError, match="belongs to another host") as error:  # the native side looks by itself, too
        Client(image, host=B.id)
    assert error.value.errno == errno.EREMOTE
    assert image.read_bytes() == before, "a refusal changes nothing"
    with mounted(image, A) as client:
        assert client.content(ROOT, b"old") == b"o" * 70_000


def test_containers_of_one_kernel_are_one_host(volume: Path) -> None:
    image = crashed(volume, Host(A.id, A.name, "the-same-boot"))
    with mounted(image, Host(B.id, B.name, "the-same-boot")) as client:
        assert client.content(ROOT, b"old") == b"o" * 70_000
    assert ownership.read(image).host == B.id


def test_the_name_of_a_host_is_not_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, " ")
    with pytest.raises(UsageError, match="expected a name in KVFS_HOST_ID, found none"):
        this_host()


def test_what_was_closed_in_order_is_free(volume: Path) -> None:
    for number, host in enumerate((A, B, A)):
        with mounted(volume, host) as client:
            assert sorted(client.names()) == [b"%d" % n for n in range(number)]
            client.create(ROOT, b"%d" % number, b"x")
        found = ownership.read(volume)
        assert (found.host, found.is_free) == (host.id, True)
    assert take(volume, C).fenced_by == "nothing"
    check_clean(volume)


def test_takeover_of_an_owner_that_is_alive(volume: Path) -> None:
    with mounted(volume, A) as first:
        ino = first.create(ROOT, b"durable", b"d" * 70_000, durable=True)
        epoch = ownership.read(volume).epoch
        with pytest.raises(VolumeOwned, match=r"belongs to host host-a.*its owner is alive.*--force host-a"):
            take(volume, B)
        with pytest.raises(UsageError, match="expected --force to name the owner, 'host-a', found 'host-x'"):
            take(volume, B, "host-x")
        assert state(first) == "healthy"
        assert take(volume, A).fenced_by == "nothing", "it is its own"
        done = take(volume, B, "host-a")
        assert (done.was_alive, done.fenced_by, done.yielded) == (True, "record", True)
        assert state(first) == "fenced"
        assert "host-b" in first.store.statistics()["health"]["reason"]
        assert first.read(ino) == b"d" * 70_000
        for refused in (
            lambda: first.create(ROOT, b"refused", b"x"),
            lambda: first.store.unlink(ROOT, b"durable"),
            lambda: first.store.recover(),
        ):
            with fails(errno.EROFS):
                refused()
        with fails(errno.EIO):
            first.fsync(ino)
        before = volume.read_bytes()
        with fails(errno.EIO):
            first.close()
        assert volume.read_bytes() == before, "who was fenced writes nothing, not even when it closes"
    with pytest.raises(VolumeOwned, match="belongs to host host-b, which took it over"), mounted(volume, A):
        pass
    with mounted(volume, B) as second:
        assert second.content(ROOT, b"durable") == b"d" * 70_000
        assert ownership.read(volume).epoch > epoch
        second.create(ROOT, b"new", b"n")
    check_clean(volume)


def test_a_clone_with_the_same_machine_id_is_no_reboot(volume: Path) -> None:
    """Virtual machines are copied with their machine ids; the owner's beat tells."""
    image = crashed(volume, Host(A.id, A.name, "one-boot"))
    twin = Host(A.id, A.name, "another-boot")
    found = ownership.read(image)
    stop = threading.Event()

    def beat() -> None:
        mark = kvfs1.HostMark(uuid=found.uuid, host_uuid=A.id, epoch=found.epoch, host_name=A.name)
        with image.open("r+b", buffering=0) as file:
            for count in itertools.count(1):
                os.pwrite(file.fileno(), replace(mark, count=count).pack(), kvfs1.HOST_BEAT)
                if stop.wait(_native.LOOK_INTERVAL / 4):
                    return

    owner = threading.Thread(target=beat)
    owner.start()
    try:
        with pytest.raises(VolumeOwned, match="another host that goes by this one's id"), mounted(image, twin):
            pass
    finally:
        stop.set()
        owner.join()
    with mounted(image, twin) as client:
        assert client.content(ROOT, b"old") == b"o" * 70_000


def test_a_claim_while_the_owners_host_recovers(volume: Path) -> None:
    """Recovery may take longer than a takeover: it is asked once more whose the volume is before it is written."""
    image = crashed(volume, A)
    faults = _native.FaultInjector()
    rule = faults.add(["read"], "hang", offset=kvfs1.FIRST_SEGMENT, count=1)
    failures: list[BaseException] = []

    def mount() -> None:
        try:
            with mounted(image, A, faults=faults):
                pass
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=mount)
    thread.start()
    try:
        wait_for(lambda: faults.statistics()["rules"][0]["hits"] or not thread.is_alive(), "recovery reads the log")
        claim(image, B)
        before = image.read_bytes()
    finally:
        faults.remove(rule)
        thread.join()
    assert [getattr(failure, "errno", 0) for failure in failures] == [errno.EREMOTE], failures
    assert image.read_bytes() == before
    with mounted(image, B) as client:
        assert client.content(ROOT, b"old") == b"o" * 70_000


def test_the_new_owner_dies_in_its_first_mount(volume: Path) -> None:
    """After each of its writes: the volume stays the new owner's, whole."""
    image = crashed(volume, A)
    claim(image, B)
    is_whole = False
    for writes in itertools.count():
        torn = image.with_name("torn")
        shutil.copy(image, torn)
        faults = _native.FaultInjector()
        faults.add(["write"], "error", skip=writes)
        try:
            with mounted(torn, B, faults=faults):
                is_whole = True  # what comes later is the mount's life
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017
        with pytest.raises(VolumeOwned, match="host-b"), mounted(torn, A):
            pass
        with mounted(torn, B) as client:
            assert client.content(ROOT, b"old") == b"o" * 70_000
        check_clean(torn)
        if is_whole:
            break
    assert writes > 2


def test_a_takeover_that_was_killed_after_its_claim(volume: Path) -> None:
    """The claim is all that there is to be torn from it: the volume is the claimant's, or may be taken from it."""
    image = crashed(volume, A)
    claim(image, B)
    with pytest.raises(VolumeOwned, match="host-b"), mounted(image, A):
        pass
    assert volumes.info(image).claimed is not None
    claim(image, C)
    with pytest.raises(VolumeOwned, match="host-c"), mounted(image, B):
        pass
    with mounted(image, C) as client:
        assert client.content(ROOT, b"old") == b"o" * 70_000
    check_clean(image)


def test_a_claim_that_is_torn_is_none(volume: Path) -> None:
    image = crashed(volume, A)
    claim(image, B)
    with image.open("r+b") as file:
        file.seek(kvfs1.HOST_CLAIM + 512)  # of the first sector the new bytes, of the others what was there before
        file.write(bytes(kvfs1.BLOCK - 512))
    block = bytearray(image.read_bytes()[kvfs1.HOST_CLAIM :][: kvfs1.BLOCK])
    block[60] ^= 1
    with image.open("r+b") as file:
        file.seek(kvfs1.HOST_CLAIM)
        file.write(block)
    with mounted(image, A) as client:
        assert client.content(ROOT, b"old") == b"o" * 70_000


def test_of_two_hosts_that_claim_one_gets_it(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = crashed(volume, A)
    found = ownership.read(image)
    fd = os.open(image, os.O_RDWR | os.O_DIRECT)
    try:
        with monkeypatch.context() as blind:  # neither sees the other's
            blind.setattr(ownership, "read", lambda _path: found)
            epochs = [ownership.claim_volume(fd, found, host) for host in (B, C)]
        with pytest.raises(VolumeOwned, match=r"host-c.* was faster"):  # who looked before it claimed
            ownership.claim_volume(fd, found, B)
    finally:
        os.close(fd)
    assert epochs[0] == epochs[1]
    with pytest.raises(VolumeOwned, match=r"host-c.* was faster"):
        ownership.refuse_rival(image, epochs[0], B)
    ownership.refuse_rival(image, epochs[1], C)


def test_no_superblock_is_written_over_a_claim(volume: Path) -> None:
    """Nothing of the looks that come with time: the claim is there in the instant before the volume is closed."""
    with mounted(volume, A) as client:
        client.create(ROOT, b"old", b"o" * 70_000, durable=True)
        claim(volume, B)
        with fails(errno.EIO):
            client.close()
        assert state_after_close(volume) == (A.id, False)


def state_after_close(path: Path) -> tuple[bytes | None, bool]:
    found = ownership.read(path)
    return found.host, found.clean


def test_a_late_superblock_of_the_old_owner_does_not_count(volume: Path) -> None:
    image = crashed(volume, A)
    late = image.read_bytes()[: kvfs1.BLOCK]
    claim(image, B)
    with mounted(image, B) as client:
        client.create(ROOT, b"new", b"n" * 70_000, durable=True)
    superblock = kvfs1.Superblock.parse(late)
    stale = replace(superblock, sequence=superblock.sequence + 1000)
    with image.open("r+b") as file:
        file.write(stale.pack())
    assert ownership.read(image).host == B.id
    with mounted(image, B) as client:
        assert client.content(ROOT, b"new") == b"n" * 70_000
    check_clean(image)


def test_the_old_owners_log_is_no_part_of_what_was_taken_over(volume: Path) -> None:
    """A frame that the old owner had sent before it noticed arrives behind the end of its log."""
    image = crashed(volume, A)
    old = image.read_bytes()
    superblock = kvfs1.Superblock.parse(old[: kvfs1.BLOCK])
    claim(image, B)
    with mounted(image, B) as client:
        client.create(ROOT, b"new", b"n" * 70_000, durable=True)
        after = image.with_name("after")
        after.write_bytes(still(image))
    place = superblock.first_segment + superblock.log_segment * superblock.segment_size
    with after.open("r+b") as file:
        file.seek(place + superblock.log_offset)
        file.write(os.urandom(8 * kvfs1.BLOCK))
    with mounted(after, B) as client:
        assert client.content(ROOT, b"new") == b"n" * 70_000
        assert client.content(ROOT, b"old") == b"o" * 70_000


@pytest.mark.parametrize("what", ["data", "log"])
def test_a_target_that_refuses_writes_fences(volume: Path, what: str) -> None:
    faults = _native.FaultInjector()
    with mounted(volume, A, faults=faults) as client:
        client.create(ROOT, b"old", b"o" * 70_000, durable=True)
        faults.add(["write"], "error", error=errno.EBADE, offset=kvfs1.FIRST_SEGMENT if what == "log" else 0)
        with suppress(OSError):
            client.create(ROOT, b"new", b"n" * (3 * MIB if what == "data" else 1), durable=True)
        wait_for(lambda: state(client) == "fenced", "the store is fenced")
        assert "the target refuses writes" in client.store.statistics()["health"]["reason"]
        with fails(errno.EROFS):
            client.create(ROOT, b"refused", b"x")
        claim(volume, B)  # as the taker does once it has preempted; until then its name is not known
        wait_for(lambda: "host-b" in client.store.statistics()["health"]["reason"], "it says who")


@pytest.mark.ci
def test_who_cannot_look_does_not_write_the_log(volume: Path) -> None:
    """A lease: no metadata goes out once the last look is too old, and recover() looks first."""
    faults = _native.FaultInjector()
    with mounted(volume, A, faults=faults) as client:
        rule = faults.add(["read"], "error", offset=0, end=OWNER_BYTES)
        looks = "failed_looks_total"
        wanted = int(_native.LEASE / _native.LOOK_INTERVAL) + 1
        wait_for(lambda: client.store.statistics()["ownership"][looks] > wanted, "looks that fail", timeout=60)
        with fails(errno.EIO):
            client.create(ROOT, b"new", b"n", durable=True)
        assert state(client) == "read-only"
        client.store.recover()
        wait_for(lambda: client.store.statistics()["health"]["last_answer"], "an answer")
        assert "who owns the volume" in client.store.statistics()["health"]["last_answer"]
        faults.remove(rule)
        client.store.recover()
        wait_for(lambda: state(client) == "healthy", "recovered")
        client.create(ROOT, b"after", b"a", durable=True)
        client.close()
    check_clean(volume)


def test_formatting_and_repair_are_refused_like_a_mount(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = crashed(volume, A)
    monkeypatch.setenv("KVFS_HOST_ID", "another")
    with pytest.raises(VolumeOwned, match="host-a"):
        volumes.create(image, 32 * MIB, force=str(image))
    with image.open("r+b") as file:
        file.seek(kvfs1.SUPERBLOCK_B)
        file.write(bytes(kvfs1.BLOCK))
    before = image.read_bytes()
    with pytest.raises(VolumeOwned, match="host-a"):
        volumes.repair(image)
    assert image.read_bytes() == before
    monkeypatch.setenv("KVFS_HOST_ID", A.id.hex())
    assert volumes.repair(image).after.clean


def test_a_second_mount_on_the_owners_host_is_still_in_use(volume: Path) -> None:
    with mounted(volume, A), pytest.raises(OSError, match="in use by") as error, mounted(volume, A):
        pass
    assert error.value.errno == errno.EBUSY


@contextmanager
def counted(outcomes: list[str], expected: int) -> Iterator[None]:
    """Notes the block's failure; ``expected`` is the only one that is let pass."""
    try:
        yield
    except OSError as error:
        outcomes.append(errno.errorcode[error.errno or 0])
        if error.errno != expected:
            raise


@contextmanager
def read_only(path: Path, outcomes: list[str]) -> Iterator[Client]:
    """A reader, opened again while what it is to read does not fit together."""
    client = None
    while client is None:
        with counted(outcomes, errno.EUCLEAN):
            client = Client(path, read_only=True)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.root
def test_a_reader_on_another_host_never_sees_wrong_bytes(tmp_path: Path) -> None:
    """It opens the volume again and again while its owner writes all of it anew: what it reads is some version of a
    file, or an error."""
    path = make_volume(tmp_path / "store.kvfs", 16 * MIB)
    pages = {b"page%d" % n: n for n in range(8)}
    stop = threading.Event()
    written = 0
    with loop_device(path) as device, mounted(path, A, evict=True) as owner:

        def version(number: int, count: int) -> bytes:
            return b"".join(b"%06d%010d" % (number, count) for _ in range(40_000))

        def write() -> None:
            nonlocal written
            while not stop.is_set():
                for name, number in pages.items():
                    owner.create(ROOT, b"tmp", version(number, written), durable=True)
                    owner.rename(ROOT, b"tmp", ROOT, name)
                written += 1

        writer = threading.Thread(target=write)
        writer.start()
        outcomes: list[str] = []
        try:
            wait_for(lambda: written > 0 or not writer.is_alive(), "the first round")
            for _ in range(12):
                with read_only(device, outcomes) as reader:
                    for name, number in [*pages.items()] * 2:
                        with counted(outcomes, errno.EIO):
                            data = reader.content(ROOT, name)
                            if data is not None:
                                expected = version(number, int(data[6:16]))
                                outcomes.append("good" if data == expected else "WRONG BYTES")
        finally:
            stop.set()
            writer.join()
        assert written > 0
        assert "good" in outcomes
        assert set(outcomes) <= {"good", "EIO", "EUCLEAN"}
        assert state(owner) == "healthy"
    check_clean(path)
