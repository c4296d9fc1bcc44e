"""Where the pages live: a kvfs mount, or a plain directory to compare it with; and how reads from it are made cold."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from kvfs.cli.mounts import FSTYPE, daemon_of, is_dead, kvfs_mount_at, mount_at
from kvfs.errors import BadMountpoint, MountError, MountInUse, one_line

_UMOUNT_TIMEOUT = 100  # s, for what is not yet on the store; kvfs then says what it waits for
_COMMAND_TIMEOUT = 120.0  # s, for a command that hangs
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class Place(Protocol):
    """``label``: for the table. ``cold``: what ``make_cold`` did, "" before the first."""

    label: str
    directory: Path
    cold: str

    def make_cold(self) -> None:
        """See to it that the next reads come from the device."""


class KvfsMount:
    """A kvfs mount that is made when it is not there, taken over when it is, and left up at the end.

    ``store``: the one to mount; kvfs's default when None, until ``open`` found out which that is.
    """

    label = "kvfs"

    def __init__(self, program: Path, mountpoint: Path, store: Path | None) -> None:
        self.directory = mountpoint
        self.store = store
        self.cold = ""
        self._program = program

    def open(self) -> None:
        """Mount, or take over the kvfs mount of an earlier run. Raises MountError and its kin."""
        mount = mount_at(self.directory)
        if mount is None:
            self._make_mountpoint()
            self._mount()
        elif mount.fstype != FSTYPE:
            raise MountInUse(
                f"{self.directory}: expected a free directory, found {mount.source} ({mount.fstype}) mounted on it",
                "choose another --mount",
            )
        elif self.store is not None and mount.source != str(self.store.resolve()):
            raise MountInUse(
                f"{self.directory}: expected {self.store} mounted, found {mount.source}",
                f"leave out --store, or run `{self._program} umount {self.directory}` first",
            )
        elif daemon_of(mount) is None and is_dead(mount):
            self.store = Path(mount.source)
            self._umount()
            self._mount()
        self.store = Path(kvfs_mount_at(self.directory).source)

    def make_cold(self) -> None:
        """Mount the store anew: the daemon's memory and what the kernel cached of the mount are gone with it."""
        assert self.store is not None, "open() comes first"
        with _interrupts_deferred():
            self._umount()
            try:
                dropped = _drop_all_caches() or _forget("the store", [self.store])
            finally:
                self._mount()
        self.cold = f"store unmounted and mounted again, {dropped}"

    def _make_mountpoint(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            hidden = next(self.directory.iterdir(), None)
        except OSError as error:
            raise BadMountpoint(f"{self.directory}: {error.strerror}", "choose another --mount") from error
        if hidden is not None:
            raise BadMountpoint(
                f"{self.directory}: expected an empty directory, found {hidden.name} in it", "choose another --mount"
            )

    def _mount(self) -> None:
        with _interrupts_deferred():
            self._run("mount", *([self.store] if self.store else []), self.directory)

    def _umount(self) -> None:
        self._run("umount", "--timeout", str(_UMOUNT_TIMEOUT), self.directory)

    def _run(self, *arguments: str | Path) -> None:
        """Run the kvfs program to its end; in a session of its own, so that Ctrl-C misses it and its daemon.

        Its output goes through a file, because a daemon that inherited a pipe would keep it open.
        """
        with tempfile.TemporaryFile() as output:
            command = [str(part) for part in (self._program, *arguments)]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            try:
                code = process.wait(_COMMAND_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise MountError(
                    f"{' '.join(command)}: not done after {_COMMAND_TIMEOUT:g} s",
                    f"see what process {process.pid} does",
                ) from None
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
        if code != 0:
            text = lines[-1] if lines else f"exit status {code} and no message"
            raise MountError(one_line(text.removeprefix("kvfs: ")))


class PlainDirectory:
    """Any directory. Cold: its pages are on the device and out of the page cache."""

    label = "files"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cold = ""

    def open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def make_cold(self) -> None:
        # only clean pages can be dropped
        pages = [page for page in self.directory.rglob("*.kv") if page.is_file()]
        for page in pages:
            with page.open("rb") as file:
                os.fsync(file.fileno())
        self.cold = _drop_all_caches() or _forget("the pages", pages)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C inside takes effect at the end: half a remount would leave no mount."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _drop_all_caches() -> str:
    """What was dropped, "" when this user may not (or a container hides the file)."""
    try:
        _DROP_CACHES.write_text("3\n")
    except OSError:
        return ""
    return "the kernel's caches dropped"


def _forget(name: str, files: list[Path]) -> str:
    """Ask the kernel to forget what it cached of ``files``, which any user may ask who may open them.

    What came of it, in words in which the files are called ``name``.
    """
    for file in files:
        try:
            fd = os.open(file, os.O_RDONLY)
        except PermissionError:
            return f"the kernel's caches not dropped (that needs root, or access to {file})"
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return f"{name} dropped from the page cache (posix_fadvise; only root may drop all caches)"
