"""What a file or device holds, asked before anything is written to it.

Four questions, in this order; the first that is answered with yes decides:

1. Is superblock A a valid one of KVFS1? Then it is a kvfs volume, whatever a file's bytes may look like further in.
2. Does ``blkid -p`` (util-linux's low-level probing: no cache, no udev) know it? File systems, partition tables, LVM,
   md, LUKS, swap. A list of magics of our own would be shorter and older than blkid's.
3. Does another superblock copy remain, or a damaged one?
4. Is any byte other than zero, in the first and the last MiB and in samples in between? Then it is data that nobody
   here knows, and just as precious. This needs no blkid.
"""

import errno
import os
import shutil
import subprocess
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from uuid import UUID

import msgspec

from kvfs.store import format as kvfs1

_EDGE = 1 << 20
_SAMPLE = 64 * 1024
_SAMPLES = 256
_BLKID_TIMEOUT = 60  # s: a device that answers slower than that is not one to format
_BLKID_AMBIVALENT = 8  # exit status

_NAMES = {
    "LVM2_member": "an LVM physical volume",
    "linux_raid_member": "a member of an md RAID array",
    "crypto_LUKS": "a LUKS-encrypted volume",
    "swap": "swap space",
    "zfs_member": "a member of a ZFS pool",
}


class Content(StrEnum):
    EMPTY = "empty"
    KVFS = "kvfs"
    KNOWN = "known"
    UNKNOWN = "unknown"


class Signature(msgspec.Struct, frozen=True):
    """``description`` completes the sentence "it holds ..."."""

    content: Content
    description: str


def probe(path: str | os.PathLike[str]) -> Signature:
    """What the regular file or block device at ``path`` holds. OSError when it cannot be read."""
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        copies = _copies(fd)
        if isinstance(first := copies["A"], kvfs1.Superblock):
            return Signature(Content.KVFS, describe_volume(first))
        if known := _ask_blkid(path):
            return Signature(Content.KNOWN, known)
        for name, copy in copies.items():
            if isinstance(copy, kvfs1.Superblock):
                return Signature(Content.KVFS, describe_volume(copy))
            if isinstance(copy, kvfs1.TooNew):
                return Signature(Content.KVFS, f"a kvfs volume of a newer format (superblock {name}: {copy})")
            if isinstance(copy, kvfs1.BadChecksum):
                return Signature(Content.KVFS, f"a damaged kvfs volume (superblock {name}: {copy})")
        offset = _find_data(fd)
    if offset is not None:
        return Signature(Content.UNKNOWN, f"data of an unknown kind (at byte {offset})")
    return Signature(Content.EMPTY, "nothing")


def describe_volume(superblock: kvfs1.Superblock) -> str:
    label = f"label {superblock.label!r}, " if superblock.label else ""
    created = datetime.fromtimestamp(superblock.created_ns // 10**9, UTC)
    return f"a kvfs volume ({label}uuid {UUID(bytes=superblock.uuid)}, created {created:%Y-%m-%d %H:%M:%S} UTC)"


def describe_kernel_use(path: str | os.PathLike[str]) -> str | None:
    """How the kernel uses the block device at ``path``, or a partition of it; None when /proc and /sys don't say.

    Words for a message: whether it is in use at all, only an O_EXCL open tells, in every mount namespace.
    """
    device = Path(path).stat().st_rdev
    node = Path("/sys/dev/block", _numbers(device))
    users = {_numbers(device): node}
    users |= {(entry.parent / "dev").read_text().strip(): entry.parent for entry in node.glob("*/partition")}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] in users:
            return f"mounted on {fields[4]}"
    for directory in users.values():
        holders = sorted(entry.name for entry in (directory / "holders").glob("*"))
        if holders:
            return f"part of {', '.join(holders)}"
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        swap = Path(line.split()[0])
        if swap.is_block_device() and _numbers(swap.stat().st_rdev) in users:
            return "swapped to"
    return None


def read_newest(path: str | os.PathLike[str]) -> kvfs1.Superblock | None:
    """The superblock that counts, None without one. OSError when ``path`` cannot be read."""
    with open(path, "rb", buffering=0) as file:
        valid = [copy for copy in _copies(file.fileno()).values() if isinstance(copy, kvfs1.Superblock)]
    return max(valid, key=lambda copy: (copy.epoch, copy.sequence), default=None)


def _numbers(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _copies(fd: int) -> dict[str, kvfs1.Superblock | kvfs1.FormatError | None]:
    """Each superblock copy, or what is wrong with it, or None where nothing says kvfs."""
    offsets = kvfs1.superblock_offsets(os.lseek(fd, 0, os.SEEK_END))
    return {name: _copy(os.pread(fd, kvfs1.BLOCK, offset)) for name, offset in offsets.items()}


def _copy(block: bytes) -> kvfs1.Superblock | kvfs1.FormatError | None:
    if len(block) < kvfs1.BLOCK:
        return None
    try:
        return kvfs1.Superblock.parse(block)
    except kvfs1.BadMagic:
        return None
    except kvfs1.FormatError as exc:
        return exc


def _ask_blkid(path: str | os.PathLike[str]) -> str | None:
    # an ordinary user's PATH often lacks the directories where Debian has it
    blkid = shutil.which("blkid", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if blkid is None:
        return None
    command = [blkid, "-p", "-o", "export", str(Path(path).absolute())]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=_BLKID_TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise TimeoutError(errno.ETIMEDOUT, f"expected an answer within {_BLKID_TIMEOUT} s, found none") from exc
    if result.returncode == _BLKID_AMBIVALENT:
        return "signatures of several file systems"
    if result.returncode != 0:  # nothing found, or a blkid that cannot probe: the search for any data goes on
        return None
    # PART_ENTRY_* describe the partition that the device is, not what it holds
    found = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    kind, table = found.get("TYPE"), found.get("PTTYPE")
    if kind is None and table is None:
        return None
    if kind is None:
        return f"a {table} partition table"
    name = _NAMES.get(kind) or (f"a file system, {kind}" if found.get("USAGE") == "filesystem" else f"{kind} data")
    details = [f"{key.lower()} {found[key]}" for key in ("LABEL", "UUID") if key in found]
    return f"{name} ({', '.join(details)})" if details else name


def _find_data(fd: int) -> int | None:
    """Where a byte that is not zero lies, of those looked at; up to 16 MiB are looked at whole."""
    size = os.lseek(fd, 0, os.SEEK_END)
    step = max(_SAMPLE, size // _SAMPLES // kvfs1.BLOCK * kvfs1.BLOCK)
    looks = [(0, _EDGE), (max(0, size - _EDGE), _EDGE)]
    looks += [(start, _SAMPLE) for start in range(0, size, step)]
    for start, count in looks:
        # in a sparse file the sample is taken where the next data is, not in a hole
        at = _next_data(fd, start)
        if at is None:
            continue
        chunk = os.pread(fd, count, at)
        if any(chunk):
            return at + len(chunk) - len(chunk.lstrip(b"\0"))
    return None


def _next_data(fd: int, start: int) -> int | None:
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
        if exc.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a block device, or a file system that cannot say
            return start
        raise
