"""``kvfs mount`` and ``kvfs umount``: the life of a mount as its user sees it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from place import NOBODY, Place
from support.mount import is_mounted, wait_for

from kvfs.cli.mounts import daemon_of, kvfs_mount_at

PAGE = bytes(range(256)) * 1000


def daemon(place: Place) -> int:
    pid = daemon_of(kvfs_mount_at(place.mountpoint))
    assert pid is not None
    return pid


def is_gone(pid: int) -> bool:
    """It has exited; whoever started it may still have to take notice of that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def umount(place: Place, *options: str) -> None:
    done = place.run("kvfs", "umount", *options, place.mountpoint)
    assert (done.status, done.output) == (0, ""), done
    # on a busy machine a flush may take long enough to be spoken of
    assert all("unmounted; waiting: daemon" in line for line in done.error.splitlines()), done
    assert not is_mounted(place.mountpoint)


# --- mounting --------------------------------------------------------------------------------------------------------


def test_returns_when_the_mount_answers(place: Place) -> None:
    done = place.mount()
    assert (done.status, done.error) == (0, "")
    pid = daemon(place)
    assert done.output == f"{place.store} is mounted on {place.mountpoint} (pid {pid}, log {place.log})\n"
    (place.mountpoint / "page").write_bytes(PAGE)
    umount(place)
    assert is_gone(pid)
    assert place.mount().status == 0
    assert (place.mountpoint / "page").read_bytes() == PAGE
    umount(place)
    assert place.run("kvfsctl", "fsck", place.store).status == 0


def test_a_new_store_is_sparse_and_private(place: Place) -> None:
    assert place.mount().status == 0
    status = place.store.stat()
    assert status.st_size == 64 << 20
    assert status.st_blocks * 512 < 8 << 20
    assert status.st_mode & 0o077 == 0


def test_without_a_store_there_is_an_embedded_one(place: Place) -> None:
    """As an ordinary user's, in the user's data directory; root's lies in the system's and is not for tests."""
    environment = {"XDG_DATA_HOME": str(place.home / "data"), "XDG_STATE_HOME": str(place.home / "state")}
    code = (
        "import sys; from kvfs import paths; from kvfs.cli.kvfs import main;"
        "paths.os = type('os', (), {'geteuid': lambda: 1, 'environ': paths.os.environ});"
        f"sys.argv = ['kvfs', 'mount', {str(place.mountpoint)!r}]; main()"
    )

    def free() -> int:
        space = os.statvfs(place.home)
        return space.f_bavail * space.f_frsize

    before = free()
    done = place.run("python", "-c", code, environment=environment)
    assert done.status == 0, done
    store = place.home / "data" / "kvfs" / "default.kvfs"
    assert kvfs_mount_at(place.mountpoint).source == str(store)
    status = store.stat()
    # half of what is free; others write and remove meanwhile
    assert 0 < status.st_size <= 0.51 * max(before, free())
    assert status.st_blocks * 512 < 64 << 20
    assert list((place.home / "state" / "kvfs").glob("*.log"))
    umount(place)


def test_names_that_need_care(place: Place) -> None:
    """Blanks, commas, quotes, backslashes, colons and what is no ASCII, in both paths."""
    directory = place.root / "a b,ro\\,\"'\t:#é%"
    mountpoint = directory / "mnt"
    mountpoint.mkdir(parents=True)
    store = directory / "store"
    done = place.run("kvfs", "mount", "--size", "64M", "--log", place.log, store, mountpoint)
    assert done.status == 0, done
    assert kvfs_mount_at(mountpoint).source == str(store)
    (mountpoint / "page").write_bytes(PAGE)
    assert json.loads(place.run("kvfsctl", "status", "--json", mountpoint).output)["components"]
    assert place.run("kvfs", "umount", mountpoint).status == 0
    assert not is_mounted(mountpoint)


def test_a_path_that_is_no_text_is_refused(place: Place) -> None:
    """They are shown in JSON, which has no way to say them."""
    name = os.fsdecode(b"\xff")
    for arguments in ((name, place.mountpoint), (place.store, name)):
        place.run("kvfs", "mount", *arguments).says("expected a path in UTF-8", "\\udcff")
    place.run("kvfsctl", "info", name).says("expected a path in UTF-8", "\\udcff")


def test_a_mountpoint_by_symlink_and_relative_path(place: Place) -> None:
    (place.root / "link").symlink_to("mnt")
    done = place.run("kvfs", "mount", "--size", "64M", "--log", "log", "store.kvfs", "./link/")
    assert done.status == 0, done
    assert kvfs_mount_at(place.mountpoint).source == str(place.store)
    assert place.run("kvfs", "umount", "link").status == 0
    assert not is_mounted(place.mountpoint)


def test_of_two_mounts_of_a_new_store_one_wins(place: Place) -> None:
    """And the loser does not remove what the winner uses."""
    second = place.root / "mnt2"
    second.mkdir()
    command = ("kvfs", "mount", "--size", "64M", "--log", place.log, place.store)
    for round_number in range(3):
        both = [place.start(*command, mountpoint) for mountpoint in (place.mountpoint, second)]
        errors = [process.communicate(timeout=60)[1] for process in both]
        statuses = [process.returncode for process in both]
        assert sorted(statuses) == [0, 1], (round_number, errors)
        assert place.store.exists()
        assert errors[statuses.index(1)].count(b"\n") == 1
        winner = (place.mountpoint, second)[statuses.index(0)]
        (winner / "page").write_bytes(PAGE)
        assert place.run("kvfs", "umount", winner).status == 0
        assert place.run("kvfsctl", "fsck", place.store).status == 0
        place.store.unlink()


@pytest.mark.parametrize("option", [("--read-only",), ("-o", "ro")])
def test_read_only(place: Place, option: tuple[str, ...]) -> None:
    place.format()
    before = place.store.read_bytes()
    assert place.mount(*option).status == 0
    with pytest.raises(OSError, match="Read-only"):
        (place.mountpoint / "page").touch()
    umount(place)
    assert place.store.read_bytes() == before


def test_options_reach_the_kernel(place: Place) -> None:
    assert place.mount("-o", "noexec,nofail,x-systemd.automount", "--no-allow-other").status == 0
    options = kvfs_mount_at(place.mountpoint).options
    assert "noexec" in options
    assert "default_permissions" in options
    assert "allow_other" not in options


def test_stays_in_the_foreground_and_tells_systemd(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(place.root / "notify"))
        systemd.settimeout(60)
        with place.start("kvfs", "mount", "-f", "--size", "64M", place.store, place.mountpoint,
                         environment={"NOTIFY_SOCKET": str(place.root / "notify")}) as process:  # fmt: skip
            assert b"READY=1" in systemd.recv(4096)
            assert is_mounted(place.mountpoint)
            (place.mountpoint / "page").write_bytes(PAGE)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert b"mounted on" in error
        assert not is_mounted(place.mountpoint)


def test_foreground_logs_to_a_file_when_told(place: Place) -> None:
    command = ("kvfs", "mount", "-f", "--log", place.log, "--size", "64M", place.store, place.mountpoint)
    with place.start(*command) as process:
        wait_for(lambda: is_mounted(place.mountpoint) and "answers" in place.log.read_text(), "the mount")
        umount(place)
        output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error) == (0, b"", b"")


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("errors.MountError('the mount is lost', 'try again')", "the mount is lost; try again"),
        ("OSError(errno.EIO, 'input/output error')", "mounted, but does not answer: input/output error"),
    ],
)
def test_a_mount_that_fails_when_it_is_asked_first_is_one_line(place: Place, failure: str, line: str) -> None:
    """And leaves nothing: neither the mount nor the store that was made for it."""
    code = (
        "import errno, os, sys; from kvfs import errors; from kvfs.cli.kvfs import main\n"
        "from kvfs.fs import mount\n"
        "def fail(_path):\n"
        f"    raise {failure}\n"
        "mount.os = type('os', (), {**vars(os), 'stat': staticmethod(fail)})\n"
        f"sys.argv = ['kvfs', 'mount', '-f', '--log', 'log', '--size', '64M', {str(place.store)!r}, "
        f"{str(place.mountpoint)!r}]; main()"
    )
    done = place.run("python", "-c", code)
    done.says(line)
    assert done.status == 1
    assert not is_mounted(place.mountpoint)
    assert not place.store.exists()


def test_foreground_failure_is_one_line(place: Place) -> None:
    place.run("kvfs", "mount", "-f", place.store, place.root / "none").says("/none: no such directory")


# --- mountpoints that cannot be --------------------------------------------------------------------------------------


def test_mountpoints_that_cannot_be(place: Place) -> None:
    missing = place.root / "none"
    place.run("kvfs", "mount", place.store, missing).says("no such directory", f"mkdir -p {missing}")
    file = place.root / "file"
    file.touch()
    place.run("kvfs", "mount", place.store, file).says("expected a directory, found a file")
    place.run("kvfs", "mount", place.mountpoint / "s", place.mountpoint).says("lies below the mountpoint")
    assert not place.store.exists()


def test_a_mountpoint_in_use(place: Place) -> None:
    assert place.mount().status == 0
    other = place.root / "other.kvfs"
    done = place.run("kvfs", "mount", "--size", "64M", other, place.mountpoint)
    done.says("expected a free directory", f"kvfs umount {place.mountpoint}")
    assert not other.exists()


@pytest.mark.root
def test_a_mountpoint_used_by_another_file_system(place: Place) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", place.mountpoint], timeout=60, check=True)
    place.mount().says("expected a free directory", "tmpfs", "choose another")
    place.run("kvfs", "umount", place.mountpoint).says("expected a kvfs mount, found tmpfs")
    assert is_mounted(place.mountpoint)


@pytest.mark.root
def test_no_fuse_device(place: Place) -> None:
    """In a mount namespace of its own, with an empty /dev."""
    script = f'mount -t tmpfs none /dev && exec {place.program("kvfs")} mount "$@"'
    done = place.run("/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", place.store, place.mountpoint)
    done.says("/dev/fuse: no such device", "modprobe fuse")
    assert done.status == 1
    assert not place.store.exists()


# --- unmounting ------------------------------------------------------------------------------------------------------


def test_umount_waits_until_the_store_is_free(place: Place) -> None:
    for round_number in range(5):
        assert place.mount().status == 0, f"round {round_number}"
        for number in range(8):
            (place.mountpoint / str(number)).write_bytes(os.urandom(1 << 20))
        umount(place)


def test_nothing_mounted(place: Place) -> None:
    done = place.run("kvfs", "umount", place.mountpoint)
    done.says("nothing is mounted here")
    assert done.status == 1
    place.run("kvfsctl", "status", place.mountpoint).says("nothing is mounted here")
    assert place.run("kvfs", "umount", "--quiet", place.mountpoint).status == 0


def test_a_busy_mount_names_its_users(place: Place) -> None:
    assert place.mount().status == 0
    pid = daemon(place)
    (place.mountpoint / "page").write_bytes(PAGE)
    with (place.mountpoint / "page").open("rb") as page:
        place.run("kvfs", "umount", place.mountpoint).says("in use by", f"({os.getpid()})", "--lazy")
        assert is_mounted(place.mountpoint)
        umount(place, "--lazy")
        assert page.read() == PAGE
        assert not is_gone(pid)
    wait_for(lambda: is_gone(pid), "the daemon's end after the last close")
    assert place.mount().status == 0


def test_a_daemon_that_takes_too_long(place: Place) -> None:
    assert place.mount().status == 0
    pid = daemon(place)
    os.kill(pid, signal.SIGSTOP)
    try:
        # neither looks into the mount, which would hang; by symlink just as little
        (place.root / "link").symlink_to(place.mountpoint)
        place.run("kvfs", "mount", place.store, place.root / "link").says("expected a free directory")
        done = place.run("kvfs", "umount", "--timeout", "0.2", place.mountpoint)
    finally:
        os.kill(pid, signal.SIGCONT)
    done.says(f"unmounted, but after 0.2 s daemon {pid} is stopped", f"kill -CONT {pid}", f"{place.store} not closed")
    wait_for(lambda: is_gone(pid), "the daemon's end")


@pytest.fixture
def other_namespace(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """A mounted store, and a process whose mount namespace has a copy of that mount, as a container would."""
    assert place.mount().status == 0
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == b"ready\n"
        try:
            yield sleeper
        finally:
            sleeper.kill()


@pytest.mark.root
def test_umount_says_which_namespace_it_waits_for(place: Place, other_namespace: subprocess.Popen[bytes]) -> None:
    pid = daemon(place)
    held = f"mounted on {place.mountpoint} in the mount namespace of sleep ({other_namespace.pid})"
    with place.start("kvfs", "umount", place.mountpoint) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.startswith(f"kvfs: {place.mountpoint}: unmounted; waiting: daemon {pid} still serves it, {held}; ")
        assert not is_mounted(place.mountpoint)
        assert process.poll() is None
        other_namespace.kill()
        output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, b""), error
    assert is_gone(pid)


@pytest.mark.root
def test_to_interrupt_the_wait_for_a_namespace_is_safe(place: Place, other_namespace: subprocess.Popen[bytes]) -> None:
    pid = daemon(place)
    (place.mountpoint / "page").write_bytes(PAGE)
    with place.start("kvfs", "umount", place.mountpoint) as process:
        assert process.stderr is not None
        assert b"Ctrl-C" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, b"kvfs: interrupted\n")
    assert not is_gone(pid)
    done = place.mount()
    done.says("in use", f"pid {pid}")
    namespace = ["nsenter", "--target", str(other_namespace.pid), "--mount"]
    copy = subprocess.run([*namespace, "cat", place.mountpoint / "page"], capture_output=True, timeout=60, check=True)
    assert copy.stdout == PAGE
    subprocess.run([*namespace, "umount", place.mountpoint], timeout=60, check=True)
    wait_for(lambda: is_gone(pid), "the daemon's end after the last copy")
    assert place.mount().status == 0
    assert (place.mountpoint / "page").read_bytes() == PAGE


@pytest.mark.root
def test_a_timeout_says_what_it_waited_for(place: Place) -> None:
    """A bind mount, and then a file that is open in one that is detached: no table shows that any more."""
    assert place.mount().status == 0
    pid = daemon(place)
    (place.mountpoint / "page").write_bytes(PAGE)
    copy = place.root / "copy"
    copy.mkdir()
    subprocess.run(["mount", "--bind", place.mountpoint, copy], timeout=60, check=True)
    done = place.run("kvfs", "umount", "--timeout", "0", place.mountpoint)
    done.says(f"unmounted, but after 0 s daemon {pid} still serves it, mounted on {copy} too")
    second = place.root / "second"
    second.mkdir()
    subprocess.run(["mount", "--bind", copy, second], timeout=60, check=True)
    with (copy / "page").open("rb"):
        subprocess.run(["umount", "--lazy", copy], timeout=60, check=True)
        done = place.run("kvfs", "umount", "--timeout", "0", second)
        done.says(f"daemon {pid} still serves it, used by", f"({os.getpid()})")
    wait_for(lambda: is_gone(pid), "the daemon's end after the last close")


def test_sigterm_flushes_and_unmounts(place: Place) -> None:
    assert place.mount().status == 0
    pid = daemon(place)
    (place.mountpoint / "page").write_bytes(PAGE)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: is_gone(pid), "the daemon's end")
    assert not is_mounted(place.mountpoint)
    assert json.loads(place.run("kvfsctl", "info", "--json", place.store).output)["clean"] is True
    assert place.mount().status == 0
    assert (place.mountpoint / "page").read_bytes() == PAGE


@pytest.mark.parametrize("is_busy", [False, True])
def test_umount_clears_the_mount_of_a_killed_daemon(place: Place, is_busy: bool) -> None:
    assert place.mount().status == 0
    (place.mountpoint / "page").write_bytes(PAGE)
    users = [(place.mountpoint / "page").open("rb")] if is_busy else []
    pid = daemon(place)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_gone(pid), "the daemon's end")
    place.run("kvfsctl", "status", place.mountpoint).says("daemon is gone", "kvfs umount")
    place.mount().says("expected a free directory", "kvfs umount")
    umount(place)
    for user in users:
        with contextlib.suppress(OSError):  # ENOTCONN: its file system is gone
            user.close()
    assert place.mount().status == 0
    umount(place)
    assert place.run("kvfsctl", "fsck", place.store).status == 0


# --- an ordinary user ------------------------------------------------------------------------------------------------


@pytest.fixture
def as_nobody(place: Place) -> Place:
    """``place``, nobody's."""
    for path in (place.root, place.mountpoint, place.home):
        os.chown(path, NOBODY, NOBODY)
    return place


@pytest.mark.root
def test_an_ordinary_user_mounts_through_fusermount(as_nobody: Place) -> None:
    place = as_nobody
    with place.open_fuse_device():
        done = place.run("kvfs", "mount", "--size", "64M", place.store, place.mountpoint, nobody=True)
        assert done.status == 0, done
        assert place.store.stat().st_uid == NOBODY
        assert f"user_id={NOBODY}" in kvfs_mount_at(place.mountpoint).options
        assert (place.home / ".local" / "state" / "kvfs").is_dir()
        place.run("kvfsctl", "status", place.mountpoint).says("permission denied", "--allow-other")
        done = place.run("/bin/cp", "/etc/hostname", place.mountpoint / "file", nobody=True)
        assert done.status == 0, done
        done = place.run("kvfs", "umount", place.mountpoint, nobody=True)
    assert (done.status, done.error) == (0, "")
    assert not is_mounted(place.mountpoint)


@pytest.mark.root
def test_what_an_ordinary_user_lacks_is_said(as_nobody: Place) -> None:
    place = as_nobody
    with place.open_fuse_device():
        place.run("kvfs", "mount", place.store, "/usr", nobody=True).says("/usr: you may not write to it")
        if "\nuser_allow_other" not in Path("/etc/fuse.conf").read_text():
            done = place.run("kvfs", "mount", "-o", "allow_other", place.store, place.mountpoint, nobody=True)
            done.says("user_allow_other", "/etc/fuse.conf")
        done = place.run("kvfs", "mount", place.store, place.mountpoint, nobody=True, environment={"PATH": "/nowhere"})
        done.says("fusermount3: not found", "install the package fuse3")
        assert not place.store.exists()
        assert place.mount().status == 0
        done = place.run("kvfs", "umount", place.mountpoint, nobody=True)
        done.says(str(place.mountpoint), "as the user who mounted it, or as root")
    assert is_mounted(place.mountpoint)
