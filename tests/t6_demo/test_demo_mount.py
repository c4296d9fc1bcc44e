"""Mount control: a mount is made, taken over, made cold and never lost."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo import mount
from demo.mount import KvfsMount
from support.mount import is_mounted, run_command

from kvfs.cli.mounts import daemon_of, kvfs_mount_at
from kvfs.errors import BadMountpoint, MountError, MountInUse

KVFS = Path(sys.executable).parent / "kvfs"
pytestmark = [
    pytest.mark.kvfs_only,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="NOT TESTED: no /dev/fuse"),
]


@pytest.fixture
def mountpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # dropping the whole machine's caches is not this test's business
    monkeypatch.setattr(mount, "_drop_all_caches", lambda: "")
    path = tmp_path / "some" / "mnt"
    try:
        yield path
    finally:
        if is_mounted(path):
            run_command("kvfs", "umount", path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store.kvfs"
    run_command("kvfsctl", "format", "--size", "256M", path)
    return path


def test_a_mount_is_made_and_taken_over(mountpoint: Path, store: Path) -> None:
    first = KvfsMount(KVFS, mountpoint, store)
    first.open()
    (mountpoint / "file").write_text("kept")
    second = KvfsMount(KVFS, mountpoint, None)
    second.open()
    assert second.store == store
    assert (mountpoint / "file").read_text() == "kept"


def test_cold_is_another_daemon_with_the_same_files(mountpoint: Path, store: Path) -> None:
    place = KvfsMount(KVFS, mountpoint, store)
    place.open()
    (mountpoint / "file").write_text("kept")
    before = daemon_of(kvfs_mount_at(mountpoint))
    place.make_cold()
    after = daemon_of(kvfs_mount_at(mountpoint))
    assert None not in (before, after)
    assert before != after
    assert (mountpoint / "file").read_text() == "kept"
    assert place.cold.startswith("store unmounted and mounted again, ")


def test_the_mount_of_a_killed_daemon_is_made_anew(mountpoint: Path, store: Path) -> None:
    KvfsMount(KVFS, mountpoint, store).open()
    daemon = daemon_of(kvfs_mount_at(mountpoint))
    assert daemon is not None
    pidfd = os.pidfd_open(daemon)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 30)[0], "killed, but still there"
    os.close(pidfd)
    again = KvfsMount(KVFS, mountpoint, None)
    again.open()
    assert again.store == store
    assert list(mountpoint.iterdir()) == []


def test_an_interrupt_between_unmounting_and_mounting_waits(
    mountpoint: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = KvfsMount(KVFS, mountpoint, store)
    place.open()

    def interrupt() -> str:
        assert not is_mounted(mountpoint)
        signal.raise_signal(signal.SIGINT)
        return "dropped"

    monkeypatch.setattr(mount, "_drop_all_caches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        place.make_cold()
    assert is_mounted(mountpoint)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_busy_mount_stays_and_its_user_is_named(mountpoint: Path, store: Path) -> None:
    place = KvfsMount(KVFS, mountpoint, store)
    place.open()
    with (mountpoint / "open").open("w"), pytest.raises(MountError, match=rf"in use by .*\({os.getpid()}\)"):
        place.make_cold()
    assert is_mounted(mountpoint)


def test_another_store_is_refused(mountpoint: Path, store: Path, tmp_path: Path) -> None:
    KvfsMount(KVFS, mountpoint, store).open()
    with pytest.raises(MountInUse, match=r"expected .*other\.kvfs mounted, found .*store\.kvfs"):
        KvfsMount(KVFS, mountpoint, tmp_path / "other.kvfs").open()
    assert is_mounted(mountpoint)


def test_files_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(BadMountpoint, match="expected an empty directory, found mine"):
        KvfsMount(KVFS, tmp_path, None).open()


def test_a_file_is_no_mountpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadMountpoint, match="file: File exists"):
        KvfsMount(KVFS, tmp_path / "file", None).open()


def test_another_file_system_is_refused() -> None:
    with pytest.raises(MountInUse, match=r"/proc: expected a free directory, found proc \(proc\)"):
        KvfsMount(KVFS, Path("/proc"), None).open()


def test_what_kvfs_says_is_passed_on(mountpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a store " * 1000)
    with pytest.raises(MountError) as caught:
        KvfsMount(KVFS, mountpoint, tmp_path / "text").open()
    assert str(tmp_path / "text") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not is_mounted(mountpoint)
