"""What kvfs has connected, and for whom: so that it is disconnected again, by whoever comes next if need be.

Below ``/run/kvfs/fabric``, for each subsystem, by a hash of its NQN::

    HASH.json    {"nqn", "users": [{"pid", "started", "store", "mountpoint", "device", "held": [...], "before": [...]}]}
    HASH.lock    an flock on it is held by whoever reads and changes the file, from before connecting to after it

A user is a process: a mount's daemon, or a command. It has entered itself before it connects, with the controllers
that were there ``before``; what a killed user had connected but not entered yet is therefore known, too. Controllers
it uses are ``held``; of these it disconnects the ones that are ``ours``, connected by kvfs, when it leaves, but

- what another live user holds is handed to that one,
- what something else uses (another namespace of the subsystem is mounted, say) stays, and is nobody's any more.

A user that is gone without having left is made to leave by the next one, by any ``kvfs mount`` and ``kvfs umount``.

Names are reused: ``nvme1`` is the controller that was connected only while its directory in sysfs is the same one, so
the inode number of that, which the kernel does not give twice, is kept beside the name. Processes are told apart
by their start time likewise. Nothing of this outlives a boot, as little as connections do.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from kvfs.errors import FabricError, NotConnected
from kvfs.fabric import nvme

DIRECTORY = Path("/run/kvfs/fabric")
_CONTROLLERS = Path("/sys/class/nvme")
_PATIENCE = 2.0  # s: udev, and the kernel while it takes down a killed daemon's rings, hold a device for instants


class Controller(msgspec.Struct, frozen=True):
    """``inode``: of its directory in sysfs."""

    name: str
    inode: int


class Held(msgspec.Struct):
    """``ours``: connected by kvfs."""

    controller: Controller
    address: str
    ours: bool


class User(msgspec.Struct):
    """``started``: in ticks after boot. ``before``: what was connected to the subsystem; None: connecting is done."""

    pid: int
    started: int
    store: str
    mountpoint: str | None
    device: str | None = None
    held: list[Held] = []
    before: list[Controller] | None = None

    def is_alive(self) -> bool:
        return _start_of(self.pid) == self.started


class Subsystem(msgspec.Struct):
    """What is known of one, while its lock is held."""

    nqn: str
    users: list[User] = []


class Ledger:
    """``directory``: for tests."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory

    @contextmanager
    def locked(self, nqn: str) -> Iterator["Entry"]:
        """The entry of a subsystem. Waits for whoever connects or disconnects it, which they do within time limits."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock(_key(nqn), fcntl.LOCK_EX):
            yield Entry(self._path(_key(nqn)), nqn)

    def sweep(self) -> list[str]:
        """Make everybody leave who is gone; what was done, a line each. What is being changed just now is left out."""
        notes: list[str] = []
        for path in sorted(self._directory.glob("*.json")):
            with contextlib.suppress(BlockingIOError), self._lock(path.stem, fcntl.LOCK_EX | fcntl.LOCK_NB):
                nqn = _load(path).nqn
                if nqn:
                    notes += Entry(path, nqn).sweep()
        return notes

    def device_of(self, mountpoint: Path) -> str | None:
        """Of the mount there: the device that its store is on, as its daemon opened it."""
        for path in sorted(self._directory.glob("*.json")):
            for user in reversed(_load(path).users):
                if user.mountpoint == str(mountpoint):
                    return user.device
        return None

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"

    @contextmanager
    def _lock(self, key: str, operation: int) -> Iterator[None]:
        """The file stays: whoever removed it would take it from under others that wait for it."""
        fd = os.open(self._directory / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, operation)
            yield
        finally:
            os.close(fd)


class Entry:
    """A subsystem's file, by whoever holds its lock; every change is in the file when the call returns."""

    def __init__(self, path: Path, nqn: str) -> None:
        self._path = path
        self._state = _load(path)
        self._state.nqn = nqn

    def enter(self, store: str, mountpoint: Path | None) -> User:
        """This process begins to connect."""
        pid = os.getpid()
        started = _start_of(pid)
        assert started is not None
        user = User(pid, started, store, None if mountpoint is None else str(mountpoint))
        user.before = [found for found, _ in self._connected()]
        self._state.users.append(user)
        self.save()
        return user

    def find(self, user: User) -> User | None:
        """``user`` as it is now: others may have handed it controllers since it was read."""
        same = (found for found in self._state.users if (found.pid, found.store) == (user.pid, user.store))
        return next((found for found in same if found.started == user.started), None)

    def sweep(self) -> list[str]:
        """Make every user leave that is gone."""
        notes: list[str] = []
        for user in [user for user in self._state.users if not user.is_alive()]:
            for note in self.leave(user):
                notes.append(f"{user.store}: {note}, left by process {user.pid}, which is gone")  # noqa: PERF401
        return notes

    def leave(self, user: User) -> list[str]:
        """``user`` has closed its store, or is gone. A line for each controller that was disconnected, or stays."""
        connected = self._connected()
        held = [each for each in user.held if each.controller in [found for found, _ in connected]]
        ours = {each.controller.name: each for each in held if each.ours}
        if user.before is not None:  # it was interrupted, and may have connected what it has not entered
            for found, address in connected:
                if found not in user.before and not self._holders(found):
                    ours.setdefault(found.name, Held(found, address, True))
        notes: list[str] = []
        left: list[Held] = []
        for each in ours.values():
            heirs = [other for other in self._holders(each.controller) if other is not user and other.is_alive()]
            if heirs:
                for mine in heirs[0].held:
                    mine.ours = mine.ours or mine.controller == each.controller
                continue
            if is_needed(each.controller.name, list(ours)):
                notes.append(f"{each.controller.name} ({each.address}) stays connected: something else uses it")
                continue
            try:
                nvme.disconnect(each.controller.name)
                notes.append(f"{each.controller.name} ({each.address}) disconnected")
            except NotConnected:
                continue  # it has gone by itself
            except FabricError as error:
                notes.append(f"{each.controller.name} ({each.address}) cannot be disconnected: {error.message}")
                left.append(each)
        user.held, user.before = left, None
        if not left:
            self._state.users = [other for other in self._state.users if other is not user]
        self.save()
        return notes

    def save(self) -> None:
        if not self._state.users:
            self._path.unlink(missing_ok=True)
            return
        draft = self._path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(self._state))
        draft.rename(self._path)

    def _connected(self) -> list[tuple[Controller, str]]:
        """The controllers of the subsystem that this host has now, and their addresses."""
        found = [
            (identify(controller.name), str(controller.address))
            for controller in nvme.list_controllers()
            if controller.nqn == self._state.nqn
        ]
        return [(controller, address) for controller, address in found if controller is not None]

    def _holders(self, controller: Controller) -> list[User]:
        return [user for user in self._state.users if any(held.controller == controller for held in user.held)]


def identify(name: str) -> Controller | None:
    """``None``: it is gone."""
    try:
        return Controller(name, (_CONTROLLERS / name).stat().st_ino)
    except FileNotFoundError:
        return None


def is_needed(name: str, leaving: Sequence[str]) -> bool:
    """Whether a namespace is in use that would lose its last path with the controllers ``leaving``."""
    controllers = {controller.name: controller for controller in nvme.list_controllers()}
    controller = controllers.get(name)
    if controller is None:
        return False
    staying = [
        other
        for other in controllers.values()
        if other.nqn == controller.nqn and other.name not in leaving and other.state == "live"
    ]
    kept = {namespace.path for other in staying for namespace in other.namespaces}
    return any(_is_used(namespace.path) for namespace in controller.namespaces if namespace.path not in kept)


def _is_used(device: Path) -> bool:
    """By a file system, another device, a process that claims or locks it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fd = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EBUSY:
                return False  # nobody can use it
        else:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return False
            finally:
                os.close(fd)
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)


def _load(path: Path) -> Subsystem:
    """Nothing where there is no such file, or one that kvfs has not written."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Subsystem)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Subsystem("")


def _key(nqn: str) -> str:
    return hashlib.sha256(nqn.encode()).hexdigest()[:32]


def _start_of(pid: int) -> int | None:
    """``None``: no such process, or it has ended and only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
