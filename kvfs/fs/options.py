"""What a mount is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DataPath = Literal["native", "pyfuse3"]
RequestLoop = Literal["clones", "uring", "auto"]
OnFull = Literal["evict", "enospc"]


@dataclass(frozen=True)
class MountOptions:
    """Absolute paths. ``fsname``: the source in the mount table. ``extra``: flags of mount(8), as they are.

    ``sweep_after``: seconds until an orphaned temporary file is removed, 0: never. ``on_full``: drop cold files when
    room is wanted, or refuse the write.

    ``log``: where the caller has sent the process's log; only reported here. Of the native data path: ``threads`` of
    its request loop (0: by cores), ``passthrough`` where kernel and privileges allow, ``warm_bytes`` of memory for
    warm pages (0: none, None: a quarter of what the machine or the cgroup has).

    ``io_timeout``: seconds after which a request that the device keeps fails with EIO (0: never). ``inject_faults``:
    for tests, see ``kvfs.fs.faults``. ``physical_space``: what an agent publishes of the device's, else it is asked
    itself.
    """

    store: Path
    mountpoint: Path
    read_only: bool
    allow_other: bool
    fsname: str
    sweep_after: int
    log: Path | None
    extra: tuple[str, ...]
    on_full: OnFull
    data_path: DataPath
    threads: int
    request_loop: RequestLoop
    passthrough: bool
    warm_bytes: int | None
    io_timeout: float = 30.0
    inject_faults: bool = False
    physical_space: Path | None = None

    def flags(self) -> tuple[str, ...]:
        """What the kernel is to be told, in the words of mount(8)."""
        flags = ["default_permissions", *self.extra]
        if self.allow_other:
            flags.append("allow_other")
        if self.read_only:
            flags.append("ro")
        return tuple(flags)
