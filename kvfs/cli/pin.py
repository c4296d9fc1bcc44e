"""``kvfsctl pin`` and ``unpin``: leases, kept as the extended attribute ``user.kvfs.pin``.

Set as the caller, so rights are those of the attribute: the owner of the file or directory, root, whoever mounted.
Native reads the time (native/store/settings.hpp has the syntax) and gives it back in its normal form.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kvfs.cli.mounts import mount_of, mount_table
from kvfs.errors import KvfsError, UsageError
from kvfs.units import parse_duration

PIN = "user.kvfs.pin"


@dataclass(frozen=True)
class Pin:
    """``until``: RFC 3339, UTC."""

    path: str
    until: str


@dataclass(frozen=True)
class Unpinned:
    path: str
    was_pinned: bool


def pin_paths(paths: Sequence[Path], *, lasting: str | None, until: str | None) -> list[Pin]:
    """One of ``lasting``, a time from now on, and ``until``, a time of RFC 3339.

    UsageError for both, neither or no time, NotMounted for a path outside kvfs: nothing is pinned then. KvfsError for
    what the mount refuses.
    """
    if lasting is not None and until is None:
        value = str(parse_duration(lasting))
    elif until is not None and lasting is None:
        value = _deadline(until)
    else:
        found = "neither" if lasting is None else "both"
        raise UsageError(f"expected --for or --until, found {found}", "say how long, as in --for 2h")
    resolved = _resolved(paths)
    pins = []
    for path, real in zip(paths, resolved, strict=True):
        try:
            os.setxattr(real, PIN, value.encode())
            pins.append(Pin(str(path), os.getxattr(real, PIN).decode()))
        except OSError as error:
            raise refused(path, error) from error
    return pins


def unpin_paths(paths: Sequence[Path]) -> list[Unpinned]:
    """NotMounted for a path outside kvfs, and nothing is unpinned then; KvfsError for what the mount refuses."""
    resolved = _resolved(paths)
    unpinned = []
    for path, real in zip(paths, resolved, strict=True):
        try:
            os.removexattr(real, PIN)
            unpinned.append(Unpinned(str(path), was_pinned=True))
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise refused(path, error) from error
            unpinned.append(Unpinned(str(path), was_pinned=False))
    return unpinned


def refused(path: Path, error: OSError) -> KvfsError:
    """What a person is told of a setting that the mount did not take."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return KvfsError(f"{path}: not yours to set", "ask its owner, whoever mounted, or root")
    return KvfsError(f"{path}: {(error.strerror or str(error)).lower()}")


def _deadline(text: str) -> str:
    hint = "write it as in 2026-01-31T18:00:00Z"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"expected a time of RFC 3339, found {text!r}", hint) from None
    if time.tzinfo is None:
        raise UsageError(f"expected a time with its zone, found {text!r}", hint)
    if time <= datetime.now(UTC):
        raise UsageError(f"expected a time to come, found {text!r}", "`kvfsctl unpin` takes a pin back")
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def print_pins(pins: Sequence[Pin]) -> None:
    for pin in pins:
        print(f"{pin.path}: pinned until {pin.until}")


def print_unpinned(unpinned: Sequence[Unpinned]) -> None:
    for each in unpinned:
        print(f"{each.path}: {'no longer pinned' if each.was_pinned else 'was not pinned'}")


def _resolved(paths: Sequence[Path]) -> list[Path]:
    table = mount_table()
    return [mount_of(path, table)[0] for path in paths]
