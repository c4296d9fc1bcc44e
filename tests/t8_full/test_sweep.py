"""What the store removes by itself though it is not full: orphaned temporary files, and files whose time is over."""

import errno
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from client import DIRECTORY, FILE, INO, ROOT, Client, check_clean, fails, make_volume, opened_volume
from support.expect import write_file
from support.mount import KvfsMount, close_test_mount, make_test_mount, wait_for
from support.process import Child

from kvfs import _native

HOUR = 3600
FAR = b"2100-01-01T00:00:00Z"
UUID = "0123456789abcdef0123456789abcdef"

# as the clients of DESIGN 6 name what they have not finished
TEMPORARY = [
    "0a1b2c3d.bin_6713871234.tmp",  # vLLM's file-system tier
    f"0000000000000042.bin.{UUID}.tmp",  # llm-d
    "model@1@0@ff00.data.tmp",  # LMCache
    f".{UUID}.tmp",  # SGLang HiCacheFile
    "manifest.json.tmp.4711",
    f"outdir.tmp-{UUID}",
    ".tmp",
]
# finished, whatever the name looks like
FINISHED = ["page", "page.bin", "tmp", "tmpfile", "template", "x.tmpl", "x.tmp_", "a.temp", "tmp.bin", "x.TMP", "xtmp"]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_volume(tmp_path / "store.kvfs")


@pytest.fixture
def client(volume: Path) -> Iterator[Client]:
    """Orphans are swept after an hour; tests say what time it is."""
    with opened_volume(volume, sweep_after=HOUR) as opened:
        yield opened
    check_clean(volume)


def sweep(client: Client, seconds: float) -> None:
    """As if so much time had passed."""
    _native.sweep(client.store, time.time_ns() + int(seconds * 1e9))


def end(writer: Child) -> None:
    writer.kill()
    os.waitpid(writer.pid, 0)


def set_(client: Client, ino: int, name: bytes, value: bytes) -> None:
    client.store.setxattr(ino, b"user.kvfs." + name, value)


def test_orphans(client: Client) -> None:
    for name in (*TEMPORARY, *FINISHED):
        client.create(ROOT, name.encode(), b"x" * 5000)
    for name in TEMPORARY[:2]:  # the kernel has these in its cache of names
        assert client.store.lookup(ROOT, name.encode())
    sweep(client, HOUR - 60)
    assert len(client.names()) == len(TEMPORARY) + len(FINISHED)
    sweep(client, HOUR + 60)
    assert sorted(client.names()) == sorted(name.encode() for name in FINISHED)
    counters = client.store.statistics()["sweep"]
    assert counters["orphans_removed_total"] == len(TEMPORARY)
    assert client.store.statistics()["eviction"]["files_total"]["orphan"] == len(TEMPORARY)
    assert counters["removed_bytes_total"] == 8192 * len(TEMPORARY)
    client.drain()
    dropped = [event[2].decode() for event in client.events if event[0] == "drop"]
    assert sorted(dropped) == sorted(TEMPORARY[:2]), "the kernel has to be told"
    for name in FINISHED:
        assert client.content(ROOT, name.encode()) == b"x" * 5000


def test_who_is_alive_is_left_alone(client: Client) -> None:
    """Open, pinned, not evictable, or touched since."""
    for name in (b"open.tmp", b"pinned.tmp", b"kept.tmp", b"dead.tmp"):
        client.create(ROOT, name)
    pinned, kept = client.find(ROOT, b"pinned.tmp"), client.find(ROOT, b"kept.tmp")
    assert pinned is not None
    assert kept is not None
    set_(client, pinned, b"pin", FAR)
    set_(client, kept, b"evictable", b"0")
    ino = client.find(ROOT, b"open.tmp")
    assert ino is not None
    unfinished = client.store.create(ROOT, b"unfinished.tmp", FILE, 0, 0)[INO]
    with client.opened(ino):
        sweep(client, 10 * HOUR)
        assert sorted(client.names()) == [b"kept.tmp", b"open.tmp", b"pinned.tmp", b"unfinished.tmp"]
    client.flush(unfinished)
    client.store.forget(unfinished, 1)
    sweep(client, 10 * HOUR)
    assert sorted(client.names()) == [b"kept.tmp", b"pinned.tmp"]
    client.store.removexattr(pinned, b"user.kvfs.pin")
    set_(client, kept, b"evictable", b"1")
    later = (time.time_ns() // 10**9 + 9 * HOUR) * 10**9
    client.store.setattr(kept, _native.SET_ATIME, atime_ns=later)
    sweep(client, 9 * HOUR + 60)
    assert client.names() == [b"kept.tmp"]
    sweep(client, 11 * HOUR)
    assert client.names() == []


def test_no_sweep_was_asked_for(volume: Path) -> None:
    with opened_volume(volume) as client:
        client.create(ROOT, b"dead.tmp")
        sweep(client, 1000 * HOUR)
        assert client.names() == [b"dead.tmp"]


def test_time_to_live(client: Client) -> None:
    """Counted from the last use; the nearest setting counts, and 0 means never."""
    outer = client.store.mkdir(ROOT, b"outer", DIRECTORY, 0, 0)[INO]
    inner = client.store.mkdir(outer, b"inner", DIRECTORY, 0, 0)[INO]
    for directory in (ROOT, outer, inner):
        client.create(directory, b"page")
    own = client.create(inner, b"own")
    set_(client, outer, b"ttl", b"100")
    set_(client, inner, b"ttl", b"0")
    set_(client, own, b"ttl", b"50")
    sweep(client, 49)
    assert sorted(client.names(inner)) == [b"own", b"page"]
    sweep(client, 51)
    assert (client.names(outer), client.names(inner)) == ([b"inner", b"page"], [b"page"])
    sweep(client, 101)
    assert (client.names(outer), client.names(inner)) == ([b"inner"], [b"page"])
    client.store.removexattr(inner, b"user.kvfs.ttl")
    sweep(client, 101)
    assert client.names(inner) == []
    assert client.content(ROOT, b"page") == b""
    assert client.store.statistics()["sweep"]["expired_removed_total"] == 3
    assert client.find(ROOT, b"outer") == outer, "directories stay"


def test_a_used_file_lives_on(client: Client) -> None:
    set_(client, ROOT, b"ttl", b"100")
    read, written, idle = (client.create(ROOT, name) for name in (b"read", b"written", b"idle"))
    soon = time.time_ns() + 90 * 10**9
    client.store.setattr(read, _native.SET_ATIME, atime_ns=soon)
    client.store.setattr(written, _native.SET_MTIME, mtime_ns=soon)
    client.store.setattr(idle, _native.SET_MTIME, mtime_ns=1)  # long ago: its status has changed just now
    sweep(client, 95)
    assert len(client.names()) == 3
    sweep(client, 110)
    assert sorted(client.names()) == [b"read", b"written"]
    sweep(client, 200)
    assert client.names() == []


def test_pins_are_stronger_than_ttl(client: Client) -> None:
    set_(client, ROOT, b"ttl", b"100")
    for name, setting, value in ((b"pinned", b"pin", FAR), (b"kept", b"evictable", b"0")):
        set_(client, client.create(ROOT, name), setting, value)
    client.create(ROOT, b"gone")
    sweep(client, 1000)
    assert sorted(client.names()) == [b"kept", b"pinned"]


def test_all_names_go_and_the_longest_life_counts(client: Client) -> None:
    short, long = (client.store.mkdir(ROOT, name, DIRECTORY, 0, 0)[INO] for name in (b"short", b"long"))
    ino = client.create(short, b"page")
    client.store.link(ino, long, b"page")
    client.store.forget(ino, 1)
    set_(client, short, b"ttl", b"10")
    set_(client, long, b"ttl", b"100")
    sweep(client, 50)
    assert client.names(short) == [b"page"]
    sweep(client, 101)
    assert (client.names(short), client.names(long)) == ([], [])


def test_what_was_swept_stays_away(volume: Path) -> None:
    """Also after a crash, once that is durable; and what a quota counted for it comes back."""
    client = Client(volume, sweep_after=HOUR)
    directory = client.store.mkdir(ROOT, b"d", DIRECTORY, 0, 0)[INO]
    set_(client, directory, b"quota.files", b"2")
    for name in (b"a.tmp", b"b.tmp"):
        client.create(directory, name, b"x", durable=True)
    with fails(errno.EDQUOT):
        client.create(directory, b"page")
    sweep(client, 2 * HOUR)
    client.create(directory, b"page")
    client.sync()
    crashed = volume.with_name("crashed.kvfs")
    crashed.write_bytes(volume.read_bytes())
    client.close()
    for path in (volume, crashed):
        with opened_volume(path) as after:
            assert after.names(directory) == [b"page"]
            assert after.store.getxattr(directory, b"user.kvfs.usage.files") == b"1"
        check_clean(path)


# in a mount -----------------------------------------------------------------------------------------


@pytest.mark.kvfs_only
def test_of_a_killed_writer(tmp_path: Path) -> None:
    """Its temporary file goes by itself; that of a living writer, and the finished page, stay."""
    mount = make_test_mount("256M", ("--sweep-after", "2s"))
    writers: list[Child] = []
    try:
        assert isinstance(mount, KvfsMount)

        def write_half(name: str) -> None:
            fd = os.open(mount / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(fd, b"x" * 100_000)
            write_file(mount / f"{name}.is-written")
            time.sleep(1000)

        for name in ("dead.bin_1.tmp", "alive.bin_2.tmp"):
            writers.append(Child(partial(write_half, name)))
            wait_for(partial(os.path.exists, mount / f"{name}.is-written"), f"{name} written")
        write_file(mount / "page.bin", b"y")
        end(writers.pop(0))
        wait_for(lambda: not os.path.exists(mount / "dead.bin_1.tmp"), "the orphan swept", 30)
        assert "dead.bin_1.tmp" not in os.listdir(mount.path)
        assert os.stat(mount / "alive.bin_2.tmp").st_size == 100_000
        assert os.stat(mount / "page.bin").st_size == 1
        end(writers.pop())
        wait_for(lambda: not os.path.exists(mount / "alive.bin_2.tmp"), "the second orphan swept", 30)
        os.setxattr(mount.path, "user.kvfs.ttl", b"1")
        wait_for(lambda: os.listdir(mount.path) == [], "all pages expired", 30)
    finally:
        for writer in writers:
            end(writer)
        close_test_mount(mount)
