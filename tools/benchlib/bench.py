"""What the rows share: the options, the targets by name and purpose, files that were laid out once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchlib import disks, system
from benchlib.callgrind import Callgrind
from benchlib.figures import Measurement
from benchlib.fio import FioJob, run_fio
from benchlib.metadata import MetadataClient
from benchlib.offer import Offer, offer_of
from benchlib.pattern import BLOCK
from benchlib.system import BenchError
from benchlib.targets import Directory, Kvfs, Target
from benchlib.usage import watched
from benchlib.workers import run_together
from benchlib.workloads import FileSet, PublishFiles, ReadFiles, Share, Workload
from kvfs.errors import KvfsError, UsageError
from kvfs.units import format_size

NATIVE = "native"  # kvfs, native data path, requests through clones of /dev/fuse
RING = "native-ring"  # the same with FUSE over io_uring
PYFUSE3 = "pyfuse3"  # kvfs, all through Python
RAW = "raw"  # fio on the store's file, or on one in the same state; no Target, the rows know what to do
TMPFS = "tmpfs"
_KVFS = {NATIVE: ("native", "clones"), RING: ("native", "uring"), PYFUSE3: ("pyfuse3", "")}
_SHARED_MEMORY = Path("/dev/shm")  # tmpfs on every Linux with POSIX shared memory

MIB = 1 << 20
PAGE_SIZES = (2 * MIB, 32 * MIB)
_WARM_TIMEOUT = 300.0  # s


@dataclass(frozen=True)
class Options:
    """Sizes in bytes. ``data``: of each set of files read or written. ``seconds``: of each random read.
    ``targets``: names to measure, all if empty."""

    rounds: int
    threads: int
    request: int
    data: int
    store_size: int
    small_files: int
    lookups: int
    seconds: float
    kvfs_command: Path
    targets: tuple[str, ...] = ()

    def check(self) -> None:
        """UsageError when the sizes contradict each other."""
        if self.request % BLOCK:
            raise UsageError(f"--request: expected a multiple of 4 KiB, found {self.request} bytes")
        least = self.threads * max(PAGE_SIZES)
        if self.data < least:
            found = format_size(self.data)
            raise UsageError(f"--data: expected one 32 MiB file per client, {format_size(least)}, found {found}")
        if self.store_size < 3 * self.data:
            least_store, found = format_size(3 * self.data), format_size(self.store_size)
            raise UsageError(f"--store-size: expected three times --data, {least_store}, or more, found {found}")


class Bench:
    """Makes targets when they are first asked for, and takes all of them down.

    A target has several incarnations: one to read from, which keeps its files through the whole run, one to
    write to, which starts empty in every round, and of kvfs one whose warm pages come through the request loop, and
    one like it whose instructions are counted.
    """

    def __init__(self, options: Options, work: Path) -> None:
        options.check()
        need, free = 12 * options.data, system.free_bytes(work)
        if free < need:
            raise BenchError(f"{work}: expected {format_size(need)} free, found {format_size(free)}", "use less --data")
        self.options = options
        self.work = work
        self.offer: Offer = offer_of(options.kvfs_command)
        self.metadata = MetadataClient(work)
        self.has_loop = disks.has_loop_devices()
        self.local = disks.KIND if self.has_loop else system.filesystem_type(work)
        self.names = self._available()
        if options.targets:
            if unknown := set(options.targets) - set(self.names):
                raise UsageError(f"--target: expected some of {', '.join(self.names)}, found {unknown.pop()}")
            self.names = self.chosen(*options.targets)
        self._targets: dict[tuple[str, str], Target] = {}
        self._next_id = 0
        self._read_sets: dict[tuple[str, int], FileSet] = {}
        self._shared_files: dict[str, FileSet] = {}

    def _available(self) -> list[str]:
        paths = self.offer.data_paths or ("pyfuse3",)
        names = [name for name, (path, _) in _KVFS.items() if path in paths]
        if RING in names and self.offer.ring_problem:
            names.remove(RING)
        names += [RAW, self.local]
        if system.mounts().count((str(_SHARED_MEMORY), "tmpfs")) and self.options.data * 6 < min(
            system.free_bytes(_SHARED_MEMORY), system.memory_bytes("MemAvailable")
        ):
            names.append(TMPFS)
        return names

    def chosen(self, *names: str) -> list[str]:
        """Those of ``names`` that are measured in this run, in that order."""
        return [name for name in names if name in self.names]

    def first_kvfs(self) -> str | None:
        """The kvfs whose store's file the raw peer goes by."""
        return next(iter(self.chosen(NATIVE, PYFUSE3)), None)

    def reading(self, name: str) -> Target:
        return self._target(name, "read")

    def writing(self, name: str) -> Target:
        return self._target(name, "write")

    def memory(self, name: str) -> Kvfs:
        """Mounted so that the request loop answers reads of warm pages, where passthrough could."""
        return _as_kvfs(self._target(name, "memory"))

    def instrumented(self, name: str) -> Callgrind:
        """The same under callgrind."""
        target = self._target(name, "callgrind")
        assert isinstance(target, Callgrind)
        return target

    def store_of(self, name: str, purpose: str) -> Path:
        """The file behind a kvfs target."""
        return _as_kvfs(self._target(name, purpose)).store

    def _target(self, name: str, purpose: str) -> Target:
        key = name, purpose
        if key not in self._targets:
            self._targets[key] = self._make(name, purpose)
        return self._targets[key]

    def _make(self, name: str, purpose: str) -> Target:
        if name == TMPFS:
            return Directory(name, _SHARED_MEMORY / f"{self.work.name}-{purpose}")
        if name not in _KVFS:
            root = self.work / f"{name}-{purpose}"
            return disks.LoopDisk(name, root, self.options.store_size) if self.has_loop else Directory(name, root)
        options = self.offer.options(*_KVFS[name], passthrough=purpose in ("read", "write"))
        kind = Callgrind if purpose == "callgrind" else Kvfs
        target = kind(f"{name}-{purpose}", self.options.kvfs_command, self.work, self.options.store_size, options)
        self._targets[name, purpose] = target  # before the mount: close() has to clear one that failed half-way
        target.mount()
        return target

    def drop(self, name: str, purpose: str) -> None:
        """Take a target down early, for its memory or its space."""
        target = self._targets.pop((name, purpose), None)
        if target is not None:
            target.close()

    def close(self) -> None:
        failures = []
        while self._targets:
            _, target = self._targets.popitem()
            try:
                target.close()
            except (OSError, KvfsError) as error:  # the others are to be taken down all the same
                failures.append(str(error))
        if failures:
            raise BenchError(f"clean-up: {'; '.join(failures)}")

    # files -------------------------------------------------------------------

    def new_files(self, count: int, size: int) -> FileSet:
        """Ids that no other set of this run has, so that no stale answer passes for a right one."""
        files = FileSet(self._next_id, count, size)
        self._next_id += count
        return files

    def page_files(self, size: int) -> FileSet:
        return self.new_files(self.options.data // size, size)

    def read_set(self, name: str, size: int) -> tuple[Path, FileSet]:
        """The directory and the files of ``size`` bytes that target ``name`` keeps for the rows that read."""
        directory = self.reading(name).directory(f"pages-{size // MIB}m")
        if (name, size) not in self._read_sets:
            files = self.page_files(size)
            self.publish(self.reading(name), directory, files, direct=name != TMPFS, durable=True)
            self._read_sets[name, size] = files
        return directory, self._read_sets[name, size]

    def shared_file(self, name: str, size: int) -> FileSet:
        """One file that several rows and targets have, with the same content."""
        if name not in self._shared_files:
            self._shared_files[name] = self.new_files(1, size)
        return self._shared_files[name]

    def warm(self, target: Target, directory: Path, files: FileSet, *, check_all: bool) -> None:
        """Bring ``files`` into memory the way a user would: `kvfsctl warm`, where there is one, and one buffered read.

        ``check_all``: compare every byte of that read.
        """
        if isinstance(target, Kvfs) and target.is_native and self.offer.warms:
            kvfsctl = self.options.kvfs_command.with_name("kvfsctl")
            system.run_command([str(kvfsctl), "warm", str(directory)], _WARM_TIMEOUT)
        self.read(target, directory, files, direct=False, check_all=check_all)

    # work ---------------------------------------------------------------------

    def together(self, target: Target, workloads: Sequence[Workload]) -> Measurement:
        """Run one client for each workload, all at once, and add what the target's daemon used meanwhile."""
        return watched(target.pids(), lambda: run_together(workloads))

    def fio(self, target: Target | None, job: FioJob, *, counts_requests: bool = False) -> Measurement:
        """``target``: whose files they are; None on a raw file. ``counts_requests``: units are these, not bytes."""
        done = watched(target.pids() if target else [], lambda: run_fio(job))
        return replace(done, units=done.latency.samples) if counts_requests else done

    def publish(self, target: Target, directory: Path, files: FileSet, *, direct: bool, durable: bool) -> Measurement:
        workload = PublishFiles(directory, files, Share(files.count), direct, durable)
        return self.together(target, [workload] * min(self.options.threads, files.count))

    def read(
        self,
        target: Target,
        directory: Path,
        files: FileSet,
        *,
        direct: bool,
        check_all: bool = False,
        passes: int = 1,
        clients: int | None = None,
        request: int | None = None,
    ) -> Measurement:
        request, share = min(request or self.options.request, files.size), Share(files.count * passes)
        workload = ReadFiles(directory, files, share, request, direct, check_all)
        return self.together(target, [workload] * (clients or self.options.threads))


def _as_kvfs(target: Target) -> Kvfs:
    assert isinstance(target, Kvfs)
    return target
