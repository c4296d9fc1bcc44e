"""A kvfs mount for tests: made by the command a user would type, and always cleared.

``KVFS_TEST_DIR=/some/dir`` puts :class:`PlainDirectory` in its place, so that the tests themselves are
tested against the kernel's own file systems. ``KVFS_DATA_PATH=native|pyfuse3`` chooses the mounts' data path.

The daemon's process id is found as the process that has the store open: that needs nothing of the daemon,
and is right also when the daemon is what is broken.
"""

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from support.forked import can_fork, run_forked

COMMAND_TIMEOUT = 60  # s: a command that needs longer hangs
# What calls into a mount end with when its daemon is killed or its connection aborted: before it, in the kernel's queue
# or in the daemon's hands; ECANCELED comes of requests that were in a ring (FUSE over io_uring).
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED, errno.ENODEV, errno.EIO, errno.EINTR)
_BINARIES = Path(sys.executable).parent
_PROBLEM = re.compile(r"\b(WARNING|ERROR|CRITICAL|Traceback)\b|Sanitizer|terminate called")


def data_path() -> str:
    """Of the mounts that tests make."""
    return os.environ.get("KVFS_DATA_PATH", "native")


@contextmanager
def page_cache_lock(*, shared: bool) -> Iterator[None]:
    """The page cache is the machine's, and ``tools/test`` runs tests side by side.

    Who counts on what is in it shares this lock, who drops all of it has it alone.
    """
    with open(Path(tempfile.gettempdir()) / f"kvfs-tests-page-cache-{os.getuid()}.lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


class CommandError(AssertionError):
    """A command failed or hung; the message carries its output."""


def run_command(name: str, *arguments: str | os.PathLike[str], timeout: float = COMMAND_TIMEOUT) -> str:
    """Run a console script of this environment; its output. CommandError when it fails or hangs.

    Output goes through a file: a daemon that kept a pipe open would make the wait for its end endless.
    """
    command = [str(_BINARIES / name), *(os.fspath(argument) for argument in arguments)]
    with tempfile.TemporaryFile() as output:
        try:
            code: int | str = _status(command, output, timeout)
        except subprocess.TimeoutExpired:
            code = f"no exit within {timeout} s"
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code != 0:
        raise CommandError(f"{' '.join(command)}: {code}\n{text}")
    return text


def _status(command: list[str], output: BinaryIO, timeout: float) -> int:
    name, *arguments = command
    if can_fork(script := Path(name).name):
        status = run_forked(script, arguments, output, timeout)
        if status is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return status
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout, check=False
    ).returncode


def is_mounted(path: str | os.PathLike[str]) -> bool:
    """Read from mountinfo: stat() fails on the mount of a dead daemon, and os.path.ismount() then says no."""
    wanted = os.fsencode(path)
    with open("/proc/self/mountinfo", "rb") as table:
        return any(re.sub(rb"\\(\d{3})", lambda m: bytes([int(m[1], 8)]), line.split()[4]) == wanted for line in table)


def wait_for(condition: Any, what: str, timeout: float = 20) -> Any:
    """Poll until ``condition()`` is true; its value. AssertionError naming ``what`` when it stays false."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.01)
    return value


class TestMount:
    """What a test sees of the file system under test: a path-like thing with a life cycle."""

    __test__ = False
    is_kvfs: bool

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "mnt"
        self.path.mkdir()

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        return self.path / name

    def drop_caches(self) -> None:
        """Write back, then forget the kernel's pages, names and inodes (root only)."""
        os.sync()
        with page_cache_lock(shared=False):
            Path("/proc/sys/vm/drop_caches").write_text("3")

    def remount(self, drop_caches: bool = False) -> None:
        raise NotImplementedError

    def take_log_problems(self) -> list[str]:
        """Warning and error lines that the daemon logged since the last call."""
        return []

    def ensure_alive(self) -> None:
        """Mount again when an earlier test left the mount dead."""

    def abort(self) -> None:
        """Make every call that hangs in the mount return with an error."""

    def close(self) -> None:
        shutil.rmtree(self.root)


class PlainDirectory(TestMount):
    """A directory of whatever file system ``KVFS_TEST_DIR`` is on."""

    is_kvfs = False

    def __init__(self, parent: Path) -> None:
        super().__init__(_fresh_directory(parent))

    def remount(self, drop_caches: bool = False) -> None:
        if drop_caches:
            self.drop_caches()


class KvfsMount(TestMount):
    """A store in a regular file, mounted with ``kvfs mount``.

    ``path``: the mount point; ``store``, ``log``: files beside it; ``pid``: the daemon's.
    """

    is_kvfs = True

    def __init__(self, size: str = "2G", options: tuple[str, ...] = (), parent: Path | None = None) -> None:
        super().__init__(_fresh_directory(parent))
        self.size = size
        self.options = options
        self.store = self.root / "store.kvfs"
        self.log = self.root / "kvfs.log"
        self._log_seen = 0
        self.pid = 0
        try:
            self.mount()
        except BaseException:
            self.close()
            raise

    def mount(self) -> None:
        options = ("--size", self.size, "--log", self.log, "--data-path", data_path(), *self.options)
        run_command("kvfs", "mount", *options, self.store, self.path)
        assert is_mounted(self.path), f"kvfs mount returned 0, but {self.path} is not mounted"
        self.pid = self._holder_of_store()

    def umount(self) -> None:
        run_command("kvfs", "umount", self.path)
        assert not is_mounted(self.path), f"kvfs umount returned 0, but {self.path} is still mounted"

    def remount(self, drop_caches: bool = False) -> None:
        self.umount()
        if drop_caches:
            self.drop_caches()
        self.mount()

    def kill9(self) -> float:
        """Kill the daemon, clear what it left with ``kvfs umount``, mount again; seconds that this mount took."""
        self.abort()
        self.umount()
        begin = time.monotonic()
        self.mount()
        return time.monotonic() - begin

    def abort(self) -> None:
        if self.pid and _is_running(self.pid):
            os.kill(self.pid, signal.SIGKILL)
            wait_for(lambda: not _is_running(self.pid), f"daemon {self.pid} gone after SIGKILL")
        self.pid = 0

    def fsck(self) -> None:
        """``kvfsctl fsck`` of the unmounted store; CommandError with its findings when it is not clean."""
        run_command("kvfsctl", "fsck", self.store, timeout=300)

    def take_log_problems(self) -> list[str]:
        if not self.log.exists():
            return []
        with self.log.open("rb") as log:
            log.seek(self._log_seen)
            new = log.read()
        self._log_seen += len(new)
        return [line for line in new.decode(errors="replace").splitlines() if _PROBLEM.search(line)]

    def ensure_alive(self) -> None:
        if not (self.pid and _is_running(self.pid) and is_mounted(self.path)):
            self.abort()
            self._clear()
            self.mount()

    def close(self) -> None:
        """Unmount, whatever state the mount is in, and remove the store. Raises what ``kvfs umount`` said."""
        try:
            if is_mounted(self.path):
                self.umount()
        finally:
            self.abort()
            self._clear()
            shutil.rmtree(self.root)

    def _clear(self) -> None:
        while is_mounted(self.path):
            subprocess.run(["umount", "-l", self.path], timeout=COMMAND_TIMEOUT, check=True)

    def _holder_of_store(self) -> int:
        wanted = self.store.stat()
        holders = set()
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                found = link.stat()
            except OSError:  # closed, or its process gone, since the listing
                continue
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                holders.add(int(link.parts[2]))
        assert len(holders) == 1, f"expected one process that has {self.store} open, found {sorted(holders)}"
        return holders.pop()


live_mounts: list[TestMount] = []


def make_test_mount(size: str = "2G", options: tuple[str, ...] = ()) -> TestMount:
    """What ``KVFS_TEST_DIR`` says: a kvfs mount, or a plain directory. Pair with :func:`close_test_mount`."""
    plain = os.environ.get("KVFS_TEST_DIR")
    mount = PlainDirectory(Path(plain)) if plain else KvfsMount(size, options)
    live_mounts.append(mount)
    return mount


def close_test_mount(mount: TestMount) -> None:
    live_mounts.remove(mount)
    mount.close()


@contextmanager
def clean_mount(size: str = "2G", options: tuple[str, ...] = (), parent: Path | None = None) -> Iterator[KvfsMount]:
    """A kvfs mount that unmounts in the end and passes fsck then, whatever its daemon had to say meanwhile."""
    with unmounted_clean(KvfsMount(size, options, parent=parent)) as mount:
        yield mount


@contextmanager
def unmounted_clean(mount: KvfsMount) -> Iterator[KvfsMount]:
    """``mount`` is among the live ones as long as this lasts; then it is unmounted and has to pass fsck."""
    live_mounts.append(mount)
    try:
        yield mount
        mount.umount()
        mount.fsck()
    finally:
        close_test_mount(mount)


@contextmanager
def checked_mount(size: str = "2G", options: tuple[str, ...] = ()) -> Iterator[TestMount]:
    """A test mount; a kvfs store has to pass fsck, and its daemon to have logged no problem, when it is done."""
    mount = make_test_mount(size, options)
    try:
        yield mount
        if isinstance(mount, KvfsMount):
            mount.ensure_alive()
            mount.umount()
            assert mount.take_log_problems() == []
            mount.fsck()
    finally:
        close_test_mount(mount)


def _fresh_directory(parent: Path | None) -> Path:
    """Under a directory that other users may search, which pytest's tmp_path is not."""
    root = Path(tempfile.mkdtemp(prefix="kvfs-test-", dir=parent))
    root.chmod(0o755)
    return root


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
