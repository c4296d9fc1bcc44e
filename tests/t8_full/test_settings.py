"""Settings of directories and files (``user.kvfs.*``): what may be written, what is read back, what is inherited."""

import errno
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from client import DIRECTORY, FILE, INO, ROOT, Client, check_clean, fails, make_volume, opened_volume

from kvfs import _native

MIB, HOUR = 1 << 20, 3600
TENANT, STRANGER = 1000, 1001
FAR = b"2100-01-01T00:00:00Z"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_volume(tmp_path / "store.kvfs")


@pytest.fixture
def client(volume: Path) -> Iterator[Client]:
    with opened_volume(volume) as opened:
        yield opened
    check_clean(volume)


def make_directory(client: Client, name: bytes, parent: int = ROOT, uid: int = 0) -> int:
    attr = client.store.mkdir(parent, name, DIRECTORY, uid, uid)
    return int(attr[INO])


def why_kept(client: Client, ino: int) -> str | None:
    return _native.why_kept(client.store, ino)


# values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "normal"),
    [
        (b"quota.bytes", b"1048576", b"1048576"),
        (b"quota.bytes", b"64G", b"%d" % (64 << 30)),
        (b"quota.bytes", b"3MiB", b"%d" % (3 << 20)),
        (b"quota.bytes", b"0", b"0"),
        (b"quota.bytes", b"9223372036854775807", b"9223372036854775807"),
        (b"quota.files", b"0010", b"10"),
        (b"evictable", b"0", b"0"),
        (b"evictable", b"1", b"1"),
        (b"ttl", b"90", b"90"),
        (b"ttl", b"12h", b"43200"),
        (b"ttl", b"7d", b"604800"),
        (b"ttl", b"0", b"0"),
        (b"pin", b"2100-06-30T12:00:00Z", b"2100-06-30T12:00:00Z"),
        (b"pin", b"2100-06-30t12:00:00z", b"2100-06-30T12:00:00Z"),
        (b"pin", b"2100-06-30 12:00:00+02:00", b"2100-06-30T10:00:00Z"),
        (b"pin", b"2099-12-31T23:59:59.001-00:30", b"2100-01-01T00:30:00Z"),
        (b"pin", b"2100-06-30T12:00:00.000Z", b"2100-06-30T12:00:00Z"),
        (b"pin", b"2001-01-01T00:00:00Z", b"2001-01-01T00:00:00Z"),
    ],
)
def test_a_value_is_read_back_in_its_normal_form(client: Client, name: bytes, value: bytes, normal: bytes) -> None:
    directory = make_directory(client, b"d")
    client.store.setxattr(directory, b"user.kvfs." + name, value)
    assert client.store.getxattr(directory, b"user.kvfs." + name) == normal
    assert client.store.listxattr(directory) == [b"user.kvfs." + name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((b"quota.bytes", value) for value in (b"", b"-1", b"1.5G", b"64 G", b"64g", b"1KB", b"9223372036854775808")),
        (b"quota.bytes", b"8192P"),
        *((b"quota.files", value) for value in (b"", b"-1", b"10K", b"ten", b"1 ", b"18446744073709551616")),
        *((b"evictable", value) for value in (b"", b"2", b"no", b"true", b"00", b"0\0")),
        *((b"ttl", value) for value in (b"", b"-5", b"1w", b"1.5h", b"h", b"99999999999", b"1h30m")),
        *((b"pin", value) for value in (b"", b"tomorrow", b"-60", b"2100-01-01", b"2100-01-01T00:00:00")),
        *((b"pin", b"2100-" + rest) for rest in (b"13-01T00:00:00Z", b"02-30T00:00:00Z", b"01-01T24:00:00Z")),
        *((b"pin", b"2100-01-01T00:00:00" + rest) for rest in (b".Z", b"+1:00", b"+0100", b"ZZ", b"+24:00", b"\0")),
        (b"pin", b"2300-01-01T00:00:00Z"),
        (b"pin", b"1969-12-31T00:00:00Z"),
        (b"qota", b"1"),
        (b"", b"1"),
        (b"quota", b"1"),
    ],
)
def test_a_bad_value_is_refused_and_explained(volume: Path, name: bytes, value: bytes) -> None:
    client = Client(volume)
    directory = make_directory(client, b"d")
    client.store.setxattr(directory, b"user.kvfs.ttl", b"5")
    with fails(errno.EINVAL):
        client.store.setxattr(directory, b"user.kvfs." + name, value)
    assert client.store.listxattr(directory) == [b"user.kvfs.ttl"]
    assert client.store.getxattr(directory, b"user.kvfs.ttl") == b"5"
    [line] = client.warnings()
    assert 'setting of "/d" refused' in line
    assert "expected " in line
    assert "found " in line
    assert line.isprintable()
    client.close()


def test_a_pin_is_a_time_however_it_was_given(client: Client) -> None:
    directory = make_directory(client, b"d")
    for value, seconds in ((b"90", 90), (b"30m", 1800), (b"2h", 2 * HOUR), (b"1d", 24 * HOUR)):
        before = time.time()
        client.store.setxattr(directory, b"user.kvfs.pin", value)
        after = time.time()
        until = datetime.strptime(client.store.getxattr(directory, b"user.kvfs.pin").decode(), "%Y-%m-%dT%H:%M:%SZ")
        assert before + seconds <= until.replace(tzinfo=UTC).timestamp() < after + seconds + 1


def test_a_flood_of_bad_values_does_not_fill_the_log(volume: Path) -> None:
    client = Client(volume)
    for _ in range(200):
        with fails(errno.EINVAL):
            client.store.setxattr(ROOT, b"user.kvfs.ttl", b"soon")
    lines = client.warnings()
    assert len(lines) == 20
    assert "only counted" in lines[-1]
    assert client.store.statistics()["settings"]["refused_total"] == 200
    client.close()


def test_create_and_replace_hold_for_settings(client: Client) -> None:
    ino = client.create(ROOT, b"page")
    with fails(errno.ENODATA):
        client.store.setxattr(ino, b"user.kvfs.evictable", b"0", 2)
    assert why_kept(client, ino) is None
    client.store.setxattr(ino, b"user.kvfs.evictable", b"0", 1)
    with fails(errno.EEXIST):
        client.store.setxattr(ino, b"user.kvfs.evictable", b"1", 1)
    assert why_kept(client, ino) == "not_evictable"


def test_a_quota_is_a_directorys(volume: Path) -> None:
    client = Client(volume)
    ino = client.create(ROOT, b"page")
    for name in (b"user.kvfs.quota.bytes", b"user.kvfs.quota.files"):
        with fails(errno.EINVAL):
            client.store.setxattr(ino, name, b"1")
    assert all("expected a directory" in line for line in client.warnings())
    for name in (b"user.kvfs.pin", b"user.kvfs.evictable", b"user.kvfs.ttl"):
        client.store.setxattr(ino, name, b"1")
    client.close()


# rights --------------------------------------------------------------------------------------------


def test_who_may_set_what(client: Client) -> None:
    """Quotas: root and whoever mounted; the others: the owner too."""
    directory = make_directory(client, b"d", uid=TENANT)
    settings = {b"quota.bytes": b"1G", b"quota.files": b"9", b"pin": FAR, b"evictable": b"0", b"ttl": b"60"}
    for short, value in settings.items():
        name = b"user.kvfs." + short
        with fails(errno.EPERM):
            client.store.setxattr(directory, name, value, 0, STRANGER)
        if short.startswith(b"quota"):
            with fails(errno.EPERM):
                client.store.setxattr(directory, name, value, 0, TENANT)
        else:
            client.store.setxattr(directory, name, value, 0, TENANT)
            client.store.removexattr(directory, name, TENANT)
        client.store.setxattr(directory, name, value, 0, 0)
        with fails(errno.EPERM):
            client.store.removexattr(directory, name, STRANGER)
        assert client.store.getxattr(directory, name) == value.replace(b"1G", b"1073741824")
    with fails(errno.EPERM):
        client.store.removexattr(directory, b"user.kvfs.quota.bytes", TENANT)
    for name in (b"user.kvfs.usage.bytes", b"user.kvfs.usage.files"):
        with fails(errno.EPERM):
            client.store.setxattr(directory, name, b"0", 0, 0)
        with fails(errno.EPERM):
            client.store.removexattr(directory, name, 0)
    client.store.setxattr(directory, b"user.other", b"anybody's", 0, STRANGER)


# what keeps a file -----------------------------------------------------------------------------------


def test_what_is_in_use_is_kept(client: Client) -> None:
    ino = client.create(ROOT, b"page", b"x" * MIB)
    assert why_kept(client, ino) is None
    with client.opened(ino):
        assert why_kept(client, ino) == "open"
    assert why_kept(client, ino) is None
    fresh = client.store.create(ROOT, b"new", FILE, 0, 0)[INO]
    assert why_kept(client, fresh) == "being_written"
    client.flush(fresh)
    assert why_kept(client, fresh) is None
    client.store.forget(fresh, 1)
    directory = make_directory(client, b"d")
    fifo = client.store.mknod(ROOT, b"fifo", stat.S_IFIFO | 0o644, 0, 0)[INO]
    link = client.store.symlink(ROOT, b"link", b"page", 0, 0)[INO]
    assert [why_kept(client, other) for other in (ROOT, directory, fifo, link, 10**9)] == ["not_a_file"] * 5


def test_pins_are_inherited_and_end(client: Client) -> None:
    outer = make_directory(client, b"outer")
    inner = make_directory(client, b"inner", outer)
    ino, other = client.create(inner, b"page"), client.create(ROOT, b"page")
    for where in (ino, inner, outer, ROOT):
        client.store.setxattr(where, b"user.kvfs.pin", FAR)
        assert why_kept(client, ino) == "pinned"
        assert why_kept(client, other) == ("pinned" if where == ROOT else None)
        client.store.setxattr(where, b"user.kvfs.pin", b"2001-01-01T00:00:00Z")
        assert why_kept(client, ino) is None
        client.store.setxattr(where, b"user.kvfs.pin", FAR)
        client.store.removexattr(where, b"user.kvfs.pin")
        assert why_kept(client, ino) is None
    # a pin on a part of the tree does not take that of the whole back
    client.store.setxattr(outer, b"user.kvfs.pin", FAR)
    client.store.setxattr(inner, b"user.kvfs.pin", b"2001-01-01T00:00:00Z")
    assert why_kept(client, ino) == "pinned"


def test_the_nearest_evictable_wins(client: Client) -> None:
    outer = make_directory(client, b"outer")
    inner = make_directory(client, b"inner", outer)
    ino = client.create(inner, b"page")
    steps: list[tuple[int, bytes, str | None]] = [
        (ROOT, b"0", "not_evictable"),
        (outer, b"1", None),
        (inner, b"0", "not_evictable"),
        (ino, b"1", None),
    ]
    for where, value, kept in steps:
        client.store.setxattr(where, b"user.kvfs.evictable", value)
        assert why_kept(client, ino) == kept
    for where, kept in ((ino, "not_evictable"), (inner, None), (outer, "not_evictable"), (ROOT, None)):
        client.store.removexattr(where, b"user.kvfs.evictable")
        assert why_kept(client, ino) == kept


def test_a_renamed_file_inherits_from_where_it_is(client: Client) -> None:
    kept, loose = make_directory(client, b"kept"), make_directory(client, b"loose")
    client.store.setxattr(kept, b"user.kvfs.evictable", b"0")
    ino = client.create(loose, b"page")
    client.rename(loose, b"page", kept, b"page")
    assert why_kept(client, ino) == "not_evictable"
    client.rename(ROOT, b"kept", loose, b"kept")
    assert why_kept(client, ino) == "not_evictable"
    client.rename(kept, b"page", loose, b"page")
    assert why_kept(client, ino) is None


def test_one_of_several_names_is_enough(client: Client) -> None:
    kept, loose = make_directory(client, b"kept"), make_directory(client, b"loose")
    client.store.setxattr(kept, b"user.kvfs.pin", FAR)
    ino = client.create(loose, b"page")
    client.store.link(ino, kept, b"page")
    client.store.forget(ino, 1)
    assert why_kept(client, ino) == "pinned"
    client.store.unlink(loose, b"page")
    assert why_kept(client, ino) == "pinned"
    client.store.link(ino, loose, b"page")
    client.store.forget(ino, 1)
    client.store.unlink(kept, b"page")
    assert why_kept(client, ino) is None


def crash(volume: Path) -> Path:
    copy = volume.with_name("crashed.kvfs")
    copy.write_bytes(volume.read_bytes())
    return copy


@pytest.mark.parametrize("end", [lambda volume: volume, crash], ids=["closed", "crashed"])
def test_settings_outlive_the_mount(volume: Path, end: Callable[[Path], Path]) -> None:
    settings = {
        b"user.kvfs.quota.bytes": b"1073741824",
        b"user.kvfs.quota.files": b"100",
        b"user.kvfs.pin": FAR,
        b"user.kvfs.evictable": b"0",
        b"user.kvfs.ttl": b"86400",
    }
    client = Client(volume)
    directory = make_directory(client, b"d")
    pinned, loose = client.create(directory, b"page", b"x" * MIB), client.create(ROOT, b"page")
    for name, value in settings.items():
        client.store.setxattr(directory, name, value)
    client.sync()
    if end is not crash:
        client.close()
    with opened_volume(end(volume)) as after:
        assert {name: after.store.getxattr(directory, name) for name in settings} == settings
        assert sorted(after.store.listxattr(directory)) == sorted(settings)
        assert why_kept(after, pinned) == "pinned"
        assert why_kept(after, loose) is None
        assert after.store.getxattr(directory, b"user.kvfs.usage.bytes") == b"%d" % MIB
        assert after.store.getxattr(directory, b"user.kvfs.usage.files") == b"1"
    if end is crash:
        client.close()


def test_a_removed_directory_takes_its_settings_along(client: Client) -> None:
    for _ in range(3):
        directory = make_directory(client, b"d")
        client.store.setxattr(directory, b"user.kvfs.pin", FAR)
        client.store.setxattr(directory, b"user.kvfs.quota.files", b"1")
        client.store.rmdir(ROOT, b"d")
        client.store.setxattr(directory, b"user.kvfs.evictable", b"0")  # somebody has it open still
        client.store.forget(directory, 1)
    counters = client.store.statistics()["settings"]
    assert (counters["quotas"], counters["inodes_with_settings"]) == (0, 0)
    ino = client.create(ROOT, b"page")
    assert why_kept(client, ino) is None
