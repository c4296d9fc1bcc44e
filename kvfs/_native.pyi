"""Typed face of the native store (C++20, nanobind; sources in ``native/``).

Three kinds of call:

* metadata calls are synchronous: they take microseconds, touch memory only and
  raise ``OSError`` with the errno that POSIX names;
* data calls take an integer ``token``. They either finish at once (the return
  value is the result) or return ``None``; then ``(token, result)`` arrives
  through ``completions()`` after ``eventfd`` turned readable. ``result`` is the
  value that the call would have returned, or ``-errno`` as a negative int;
* ``format_store``, ``inspect``, ``check`` and the ``Store`` constructor block
  (GIL released) and are for start-up and administration.

Every method is thread safe. Names, targets and xattr values are ``bytes``.
"""

from collections.abc import Callable
from typing import Any, final

# (ino, generation, mode, nlink, uid, gid, rdev, size, blocks_512, atime_ns, mtime_ns, ctime_ns)
Attr = tuple[int, int, int, int, int, int, int, int, int, int, int, int]

ROOT_INODE: int  # 1, as FUSE has it
FIRST_VIRTUAL_INODE: int  # inode numbers and file handles from here on are kvfs.fs.control's
NAME_MAX: int  # 255 bytes
BLOCK_SIZE: int  # 4096
FORMAT_VERSION: int  # 1

RENAME_NOREPLACE: int  # 1, as in <linux/fs.h>
RENAME_EXCHANGE: int  # 2

# fields that setattr() changes, or-ed together
SET_MODE: int
SET_UID: int
SET_GID: int
SET_ATIME: int
SET_MTIME: int
SET_ATIME_NOW: int
SET_MTIME_NOW: int

def format_store(
    path: str, size: int, segment_size: int = 0, label: str = "", uuid: bytes = b"", host: bytes = b""
) -> dict[str, Any]:
    """Write an empty KVFS1 volume of ``size`` bytes onto an existing file or block device.

    Checks nothing but geometry: what the device holds is the caller's to check.
    ``segment_size`` 0 chooses by size. ``uuid``: 16 bytes, random when empty. ``host``: 16 bytes, who formats it.
    Returns the superblock written, as in :func:`inspect`. Raises OSError
    (EINVAL: too small or geometry impossible; EROFS, ENOSPC, EIO, EBUSY: locked by a mount).
    """

def inspect(path: str) -> dict[str, Any]:
    """Read the three superblocks without taking the volume.

    ``{"device_size": int, "copies": [{"copy": "A"|"B"|"end", "offset": int, "valid": bool,
    "problem": str | None, "superblock": {...} | None}, ...], "best": int | None, "problem": str | None,
    "beat": {...} | None, "claim": {...} | None}``.
    ``superblock``: version, compat, ro_compat, incompat, uuid (hex with dashes), label, size, segment_size,
    segments, sequence, epoch, created_ns, clean (bool), owner (JSON text of the last mount, "" if none), host
    (16 bytes, None where no host was named). ``beat``, ``claim``: host, host_name, epoch, count, written_ns, yields
    (bool), owner.
    ``problem`` at the top is one line, expected and found, when the volume cannot be used; ``error`` is the errno that
    goes with it, 0 when it can.
    Raises OSError only when the device cannot be opened or read.
    """

LOOK_INTERVAL: float  # s between two looks of a mount at who owns its volume
LEASE: float  # s after such a look in which it may write metadata

def write_claim(fd: int, uuid: bytes, epoch: int, host: bytes, host_name: str, owner: str) -> None:
    """Write that the volume ``uuid`` behind ``fd`` (O_DIRECT) is ``host``'s from ``epoch`` on, and flush. OSError."""

def check(path: str, verify_data: bool = True, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """fsck, read-only: recover in memory, verify every checksum, cross-check names, links and segments.

    ``progress(done_bytes, total_bytes)``. Returns ``{"files", "directories", "bytes", "extents", "segments",
    "segments_used", "log_frames", "clean": bool (closed in order),
    "problems": [{"kind", "where", "detail"}...], "problem_count"}``;
    ``files`` counts all that is not a directory.
    Damage to checkpoint or log, for which ``Store`` refuses the volume, is a problem here: what is left is checked.
    Raises OSError like ``Store`` when the volume cannot be opened at all.
    """

def repair(
    path: str,
    verify_data: bool = True,
    progress: Callable[[int, int], None] | None = None,
    *,
    owner: str = "",
    host: bytes = b"",
    host_name: str = "",
    on_locked: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """fsck --repair: check; where that found anything, keep what can be trusted, drop the rest, check metadata again.

    ``{"before": as check(), "after": as check(), "done": [line, ...], "files_dropped": int}``; a volume without
    problems is not written to. Raises OSError like ``Store``, and ENOSPC when there is no room for a new checkpoint.
    """

def scrub_start(store: Store, rate: int = 0) -> None:
    """Begin to read and verify everything, or go on where it was paused, in this mount or an earlier one.

    ``rate``: bytes a second at most, 0: unlimited; a scrub under way takes it too.
    """

def scrub_pause(store: Store) -> None:
    """Blocks for a request of the device. The position is kept."""

def scrub_cancel(store: Store) -> None:
    """As scrub_pause; the next start begins at the beginning."""

def scrub_status(store: Store) -> dict[str, int]:
    """``running`` (0 or 1), ``next_inode`` (0: no pass is under way), ``rate_bytes``, ``expected_bytes``; of the pass:
    ``pass_files``, ``pass_bytes``, ``pass_damaged`` (checksummed units), ``pass_dropped`` (files), ``pass_unreadable``
    (requests), ``started_ns``; ``finished_ns`` and ``passes_total`` of complete passes."""

@final
class ReadBuffer:
    """Verified bytes, by the buffer protocol, without a copy; memory goes back to the pool when dropped."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Directory:
    """A snapshot of one directory, taken by ``Store.opendir`` (and again by ``rewind``)."""

    def read(self, position: int, count: int, remember: bool = False) -> list[tuple[bytes, Attr, int]]:
        """Up to ``count`` live entries from ``position`` on: (name, attr, position of the next).

        With ``remember`` each counts one kernel reference (see ``Store.forget``).
        Position 0 takes a fresh snapshot. Entries removed since the snapshot are left out.
        "." and ".." are not included. An empty list means the end.
        """

@final
class Store:
    """One mounted volume. ``owner``: JSON text kept in the superblock and shown to whoever is refused."""

    def __init__(
        self,
        path: str,
        *,
        read_only: bool = False,
        owner: str = "",
        buffer_bytes: int = 0,
        cache_bytes: int = 0,
        sweep_after: float = 0.0,
        io_timeout: float = 0.0,
        faults: FaultInjector | None = None,
        evict: bool = False,
        host: bytes = b"",
        host_name: str = "",
        on_locked: Callable[[int], None] | None = None,
    ) -> None:
        """Open and recover; ``sweep_after``: seconds until an orphaned temporary file is removed, 0: never.

        ``io_timeout`` in seconds: calls get EIO when the device keeps a request for longer, 0: never.
        ``evict``: drop cold files when room is wanted, instead of ENOSPC. A call that names the inode of a file that
        was evicted raises ESTALE: its name is to be looked up again.

        ``host``: 16 bytes, who opens it, and, of a mount for writing, is fenced when another host takes the volume over
        (``native/store/ownership.hpp``); none: whoever, and nothing is watched. ``on_locked``: called with the locked
        device's descriptor before anything is read; what it raises comes out of here.

        OSError: EBUSY (in use; message says who), EREMOTE (another host's), EUCLEAN (corrupt), EMEDIUMTYPE (not kvfs),
        EPROTONOSUPPORT (newer version), EROFS, ENOENT, EACCES, EIO; the message is one line with expected and found."""

    @property
    def eventfd(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    def completions(self) -> list[tuple[int, Any]]:
        """Drain the eventfd and return what has finished.

        Token 0 is an event: ``("log", level, text)`` with logging's numeric levels, or ``("drop", parent, name)``:
        native removed a file, corrupt or evicted, and the kernel's dentry must be invalidated.
        """

    # names and attributes -------------------------------------------------
    def lookup(self, parent: int, name: bytes, client: int = 0) -> Attr | None:
        """``None`` when absent. Counts one kernel reference (see forget) when present.

        ``client``: who asks, a process or thread id, for the eviction policy.
        """
    def getattr(self, ino: int) -> Attr: ...
    def setattr(
        self,
        ino: int,
        fields: int,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        atime_ns: int = 0,
        mtime_ns: int = 0,
    ) -> Attr:
        """Size is changed by truncate()."""
    def create(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Attr:
        """A regular file, mode with S_IFREG; EEXIST when the name is taken. Counts one reference."""
    def mknod(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Attr:
        """Regular file, FIFO or socket; device nodes get EPERM. Counts one reference."""
    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Attr: ...
    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attr: ...
    def readlink(self, ino: int) -> bytes: ...
    def link(self, ino: int, parent: int, name: bytes) -> Attr: ...
    def unlink(self, parent: int, name: bytes) -> int:
        """Returns the inode number that lost a link."""
    def rmdir(self, parent: int, name: bytes) -> int: ...
    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, token: int) -> int | None:
        """A data call: publishes the file's data before its new name. Result 0."""
    def remember(self, ino: int, count: int = 1) -> None:
        """Count kernel references that readdirplus hands out; calls that return an Attr of a name count their own."""
    def forget(self, ino: int, count: int) -> None: ...
    def parent(self, ino: int) -> int:
        """The directory that holds directory ``ino`` ("..")."""
    def open(self, ino: int, write: bool, truncate: bool = False, client: int = 0) -> None:
        """Counts a handle. With O_TRUNC use truncate() after it; ``truncate`` only says one follows."""
    def release(self, ino: int, write: bool) -> None: ...
    def opendir(self, ino: int) -> Directory: ...
    def touch_atime(self, ino: int) -> None: ...
    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0, caller: int | None = None) -> None:
        """``user.kvfs.*`` are settings: EINVAL, and a line in the log, for what says nothing, EPERM when ``caller``, a
        user id, may not set it (None: whoever mounted). What is read back is the value in its normal form."""
    def getxattr(self, ino: int, name: bytes) -> bytes: ...
    def listxattr(self, ino: int) -> list[bytes]: ...
    def removexattr(self, ino: int, name: bytes, caller: int | None = None) -> None: ...
    def statfs(self) -> dict[str, int]:
        """block_size, blocks, blocks_free, files, files_free, name_max."""

    # data --------------------------------------------------------------------
    def read(self, ino: int, offset: int, size: int, token: int) -> ReadBuffer | None:
        """Never short before end of file; EIO on a checksum mismatch (the file is then dropped)."""
    def write(self, ino: int, offset: int, data: bytes, token: int) -> int | None:
        """Result: len(data), once the bytes are taken over (the buffer pool bounds what is in flight).
        ENOSPC and EFBIG come here; a device error comes at the next flush, fsync or write."""
    def truncate(self, ino: int, size: int, token: int) -> int | None: ...
    def fallocate(self, ino: int, mode: int, offset: int, length: int, token: int) -> int | None:
        """``mode`` as in fallocate(2): 0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE (| KEEP_SIZE). Result 0.

        What mode 0 sets aside is the file's for the first write of each block, until the last handle is released.
        ENOSPC now, EFBIG beyond 16 TiB, EOPNOTSUPP for any other mode, EINVAL for a length of 0.
        """
    def seek(self, ino: int, offset: int, whence: int, token: int) -> int | None:
        """``os.SEEK_DATA`` or ``os.SEEK_HOLE``, by blocks of 4 KiB; ENXIO where there is none, EINVAL for others."""
    def copy_range(
        self, ino_in: int, offset_in: int, ino_out: int, offset_out: int, length: int, token: int
    ) -> int | None:
        """Result: bytes copied, fewer than ``length`` at the source's end or when there is much data. Holes stay holes.

        EINVAL when the ranges overlap in one file; what write() raises, when nothing was copied before.
        """
    def flush(self, ino: int, token: int) -> int | None:
        """Wait for the file's data to reach the device and commit it to the metadata log (lazily durable)."""
    def fsync(self, ino: int, token: int) -> int | None:
        """flush, then make data, name and everything logged before it durable. Works on directories."""
    def sync(self, token: int) -> int | None:
        """fsync of everything."""

    # the volume --------------------------------------------------------------
    def statistics(self) -> dict[str, Any]:
        """Counters (keys that end in ``_total``) and gauges, nested by component; all values int, float or str."""
    def health(self) -> dict[str, Any]:
        """``statistics()["health"]`` alone: ``state``, ``error`` (the errno that made it read-only, or 0),
        ``reason``...
        """
    def set_physical(self, total_bytes: int, free_bytes: int, rewrites_in_place: bool) -> None:
        """What is really there under the store's space (``native/store/physical.hpp``): its second ledger."""
    def forget_physical(self) -> None:
        """No news: what the store has is what there is."""
    def recover(self) -> None:
        """Begin to make a volume writable that a failed write of metadata turned read-only.

        How it goes is in ``statistics()["health"]``: ``state`` (healthy, read-only, recovering, fenced), ``reason``,
        and after a failure ``last_answer``. OSError: EINVAL (nothing is wrong), EALREADY (at it), EROFS (opened
        read-only, or fenced).
        """
    def close(self) -> None:
        """Flush, checkpoint, mark clean, give the volume up. Blocks, with an ``io_timeout`` for a few times that at
        most. Safe to call twice. OSError EIO: what was not fsynced may be lost; the volume is given up all the same.
        """

@final
class FaultInjector:
    """For tests: makes requests to a store's device fail (``native/uring/faults.hpp``)."""

    def __init__(self, seed: int = 0) -> None: ...
    def add(
        self,
        kinds: list[str],
        effect: str,
        *,
        error: int = 5,
        seconds: float = 0,
        offset: int = 0,
        end: int = 0,
        count: int | None = None,
        skip: int = 0,
        probability: float = 1,
    ) -> int:
        """A rule; its id. ``kinds``: read, write, sync, punch. ``effect``: error (with the errno ``error``), short,
        delay (of ``seconds``), hang (until the rule goes). ``offset`` to ``end``: bytes of the device that a request
        must touch; ``end`` 0: no end. ``count``: requests that it applies to, after ``skip`` others. ValueError."""
    def remove(self, rule: int) -> bool: ...
    def clear(self) -> None: ...
    def statistics(self) -> dict[str, Any]: ...

def quotas(store: Store, recount: bool = False) -> list[dict[str, Any]]:
    """Of each directory with a quota: path, inode, bytes and files below it, most_bytes, most_files (0: no limit) and
    refused (requests that got EDQUOT). ``recount``: counted_bytes and counted_files too, from the files themselves."""

def why_kept(store: Store, ino: int) -> str | None:
    """What keeps the store from removing the inode by itself now: ``not_a_file``, ``open``, ``being_written``,
    ``pinned``, ``not_evictable``. None: nothing does."""

def sweep(store: Store, now_ns: int) -> None:
    """Remove what the sweeper would have removed by ``now_ns`` (since the epoch)."""

def give_large_blocks_back() -> None:
    """From now on what this process frees of 128 KiB and more goes back to the system at once, for good: memory per
    file is a promise, and glibc's heaps otherwise keep what a burst once took (mallopt(3), M_MMAP_THRESHOLD)."""

def default_warm_budget() -> int:
    """Bytes: a quarter of what the machine, or the memory cgroup, has."""

def memory_reading(root: str = "") -> tuple[int, int, int]:
    """(total, available, floor that is left to others) in bytes, of the machine or its tightest cgroup.

    ``root``: in front of /proc and /sys.
    """

@final
class WarmPage:
    """A whole file in memory, by the buffer protocol, read-only; held as long as this object lives."""

    @property
    def ino(self) -> int: ...
    @property
    def backing_id(self) -> int:
        """Positive when it is registered for FOPEN_PASSTHROUGH, else 0."""
    @property
    def fd(self) -> int:
        """Of the memory's file; belongs to the page."""
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class WarmTier:
    """The warm tier on its own (native/warm/tier.hpp). Takes the store's inode hook; close it before the store.

    ``budget``, ``least_file`` and ``largest_file`` in bytes (0: a quarter of the budget). ``fuse_fd``: for passthrough.
    """

    def __init__(
        self,
        store: Store,
        budget: int,
        *,
        least_file: int = 65536,
        largest_file: int = 0,
        fuse_fd: int = -1,
        system_root: str = "",
    ) -> None:
        """``system_root``: in front of /proc and /sys, where the memory's state is read."""
    def find(self, ino: int) -> WarmPage | None: ...
    def stage(self, ino: int) -> WarmPage | None:
        """Blocks, GIL released. ``None``: too small, too large, no room, not readable, or changed meanwhile."""
    def opened(self, ino: int) -> WarmPage | None:
        """For a passthrough handle; pair with released()."""
    def released(self, page: WarmPage) -> None: ...
    def joined(self, page: WarmPage, may_write: bool) -> None:
        """One more handle on a page in use; ``may_write``: it may map it shared and writable. Pair with released()."""
    def write_back(self, page: WarmPage) -> None:
        """Write to the store what mappings have changed; blocks, GIL released."""
    def drop(self, ino: int) -> bool:
        """False when the page is in use by passthrough."""
    def refresh(self, ino: int, offset: int, length: int) -> None:
        """Bring a page in use up to date with the store; blocks, GIL released."""
    def control(self, ino: int, command: int, report: bytes) -> bytes:
        """An ioctl of native/warm/ioctl.hpp; blocks, GIL released."""
    def statistics(self) -> dict[str, Any]: ...
    def close(self) -> None:
        """Waits for stagings in flight. Safe to call twice."""

@final
class Trial:
    """A file system of one file of 64 MiB of zeros in memory, under any name, to compare request loops by."""

    def __init__(self, fuse_fd: int, *, threads: int = 0, loop: str = "clones") -> None:
        """As Splitter."""

    def start(self) -> None:
        """Answer INIT and start. Raises OSError."""
    def close(self) -> None:
        """Give the connection up."""
    @property
    def loop(self) -> str:
        """What it came to: clones or uring."""

def read_rate(fd: int, readers: int, size: int, seconds: float) -> float:
    """Reads of ``size`` bytes per second that ``readers`` threads get together from a Trial's file.

    ``fd``: opened with O_DIRECT. ``seconds``: how long they read. Raises OSError."""

@final
class Splitter:
    """The native data path of one mount: reads the kernel's requests, answers its share, relays the rest to Python."""

    def __init__(
        self,
        store: Store,
        fuse_fd: int,
        *,
        threads: int = 0,
        loop: str = "clones",
        read_only: bool = False,
        passthrough: bool = True,
        warm_bytes: int = 0,
    ) -> None:
        """``fuse_fd``: a mounted connection whose INIT nobody has read; the splitter's from now on. ``threads`` 0: by
        cores. ``loop``: clones or uring. Raises OSError, ValueError."""

    def take_socket(self) -> int:
        """A descriptor that speaks FUSE like /dev/fuse, for pyfuse3; the caller's."""
    def start(self) -> None:
        """Answer INIT and start. OSError EPROTO: what came was no INIT of FUSE 7."""
    def stop(self, python_answers: bool = True) -> None:
        """Take no more requests; returns when those in hand are answered. Those that Python holds get EIO unless
        ``python_answers``."""
    def close(self) -> None:
        """stop(False), then give the connection up. While the store is still open."""

    @property
    def ended_fd(self) -> int:
        """Readable when the connection is over: unmounted, or a thread of the loop has failed."""
    @property
    def end_error(self) -> int:
        """0, or the negative errno that ended it."""
    def statistics(self) -> dict[str, Any]: ...
    def warm_statistics(self) -> dict[str, Any]:
        """Of the warm tier; empty where there is none."""

def eviction_policies() -> list[str]:
    """Names that :class:`EvictionPolicy` takes; the first is the store's own."""

def simulated_policies() -> list[str]:
    """Names that :class:`CacheSimulation` takes: those of :func:`eviction_policies`, and those that know the future."""

@final
class EvictionPolicy:
    """One of the store's eviction policies by itself (native/policy/policy.hpp), for tests. Not thread safe.

    ``id``: a small number, the object's while it is resident. ``key``: its name's, 64 well-mixed bits. ``space``: bytes
    that its eviction gives back, ``length`` when ``None``. ValueError for an unknown name.
    """

    def __init__(self, name: str, capacity_bytes: int) -> None: ...
    def admitted(
        self, id: int, key: int, length: int, now_ns: int, *, client: int = 0, space: int | None = None
    ) -> None: ...
    def touched(self, id: int, now_ns: int, *, client: int = 0) -> None: ...
    def missed(self, key: int, now_ns: int, *, client: int = 0) -> None: ...
    def removed(self, id: int) -> None: ...
    def victims(self, bytes_wanted: int, *, refused: set[int] = ..., among: set[int] | None = None) -> list[int]:
        """Coldest first, evicted when this returns. ``refused`` may not go now; ``among``: only these are asked for."""

    def statistics(self) -> dict[str, int]:
        """resident, ghosts, ghost_hits, evicted, refused (objects), memory_bytes."""

@final
class CacheTrace:
    """Requests for :class:`CacheSimulation`: in order of time, each an ordered list of block ids as runs."""

    def __init__(self) -> None: ...
    def add(self, now_ns: int, client: int, tail: float, runs: list[tuple[int, int]]) -> None:
        """``tail``: how much of the last block is filled, in (0, 1]. ``runs``: (first id, length); ids should be dense.

        ValueError when one of them cannot be.
        """

    @property
    def requests(self) -> int: ...
    @property
    def blocks(self) -> int:
        """Different ones: the footprint."""

    @property
    def references(self) -> int: ...

@final
class CacheSimulation:
    """A cache of ``capacity_blocks`` under ``policy``, driven by ``trace`` (native/policy/simulation.hpp).

    Its capacity is at least 1. ValueError for an unknown policy.
    """

    def __init__(self, trace: CacheTrace, policy: str, capacity_blocks: int) -> None: ...
    def step(self, requests: int) -> bool:
        """Run the next ``requests``, without the GIL; false when the trace has ended."""

    def result(self) -> dict[str, int]:
        """requests, references, prefix_hits, hits, most_resident (blocks), cpu_ns, and the policy's statistics.

        ``cpu_ns``: of the simulation and its policy.
        """

EVICTION_MORE: int
EVICTION_WAIT: int  # more, after the log or the kernel has caught up
EVICTION_DONE: int

@final
class EvictionJob:
    """Evicts what lies below some directories, least recently used first, in steps of a millisecond or so.

    ``roots``: inode numbers of directories, which stand for all that is below them, and of files; none: everything.
    ``bytes``: when to stop; None: when nothing is left that may go. One thread at a time.
    """

    def __init__(self, store: Store, *, roots: list[int], bytes: int | None, dry_run: bool) -> None: ...
    def step(self) -> int:
        """EVICTION_MORE, EVICTION_WAIT or EVICTION_DONE; the GIL is released meanwhile."""
    def progress(self) -> dict[str, Any]:
        """``{"looked", "to_look": inode numbers, "files", "bytes": evicted (or what would be), "wanted_bytes",
        "kept": {reason: {"files", "bytes"}}, "used_files": left alone because they were used meanwhile}``;
        reasons: "open", "being_written"."""
