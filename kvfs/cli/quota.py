"""``kvfsctl quota``: limits on what lies below a directory, kept as ``user.kvfs.quota.bytes`` and ``.files``.

Usage is read back from the same directory (``user.kvfs.usage.*``, which exist where a quota does), so whoever may read
the directory sees how much of its quota is used. What counts, native/store/quota.hpp says.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvfs.cli.admin import ask
from kvfs.cli.mounts import mount_of, mount_table
from kvfs.cli.pin import refused
from kvfs.errors import KvfsError, UsageError
from kvfs.units import format_size, parse_size

_QUOTA_BYTES, _QUOTA_FILES = "user.kvfs.quota.bytes", "user.kvfs.quota.files"
_USAGE_BYTES, _USAGE_FILES = "user.kvfs.usage.bytes", "user.kvfs.usage.files"


@dataclass(frozen=True)
class Quota:
    """``bytes`` in blocks of 4 KiB, as du has them, and ``files`` of every kind lie below ``path``; None: no limit."""

    path: str
    bytes: int
    files: int
    most_bytes: int | None
    most_files: int | None


def set_quota(directory: Path, *, size: str | None, files: int | None) -> Quota:
    """The quota that results. UsageError when nothing is to be set, KvfsError for what the mount refuses."""
    if size is None and files is None:
        raise UsageError("expected --bytes, --files or both, found neither", "write for example --bytes 64G")
    real = _directory(directory)
    values = {}
    if size is not None:
        values[_QUOTA_BYTES] = 0 if size == "0" else parse_size(size)
    if files is not None:
        values[_QUOTA_FILES] = files
    try:
        for name, value in values.items():
            os.setxattr(real, name, str(value).encode())
    except OSError as error:
        raise _refused(directory, error) from error
    return show_quota(directory)


def clear_quota(directory: Path) -> bool:
    """Whether there was one. KvfsError for what the mount refuses."""
    real = _directory(directory)
    was_set = False
    for name in (_QUOTA_BYTES, _QUOTA_FILES):
        try:
            os.removexattr(real, name)
            was_set = True
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise _refused(directory, error) from error
    return was_set


def show_quota(directory: Path) -> Quota:
    """KvfsError where no quota is set."""
    real = _directory(directory)
    used, files = _number(real, _USAGE_BYTES), _number(real, _USAGE_FILES)
    if used is None or files is None:
        raise KvfsError(f"{directory}: no quota is set here", f"set one: kvfsctl quota set {directory} --bytes 64G")
    return Quota(str(directory), used, files, _number(real, _QUOTA_BYTES) or None, _number(real, _QUOTA_FILES) or None)


def list_quotas(mountpoint: Path) -> list[Quota]:
    """By path. NotMounted and MountError as ``kvfs.cli.admin.ask``."""
    return [
        Quota(
            path=str(mountpoint / found["path"].lstrip("/")),
            bytes=found["bytes"],
            files=found["files"],
            most_bytes=found["most_bytes"] or None,
            most_files=found["most_files"] or None,
        )
        for found in ask(mountpoint, "quotas")
    ]


def print_quotas(quotas: Sequence[Quota]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("directory", overflow="fold")
    for heading in ("used", "of", "files", "of"):
        table.add_column(heading, justify="right", no_wrap=True)
    for quota in quotas:
        table.add_row(
            Text(quota.path),
            format_size(quota.bytes),
            "-" if quota.most_bytes is None else format_size(quota.most_bytes),
            str(quota.files),
            "-" if quota.most_files is None else str(quota.most_files),
        )
    Console(highlight=False).print(table)


def _directory(path: Path) -> Path:
    resolved, _ = mount_of(path, mount_table())
    if not resolved.is_dir():
        raise KvfsError(f"{path}: expected a directory, found {'a file' if resolved.exists() else 'nothing'}")
    return resolved


def _number(path: Path, name: str) -> int | None:
    try:
        return int(os.getxattr(path, name))
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def _refused(directory: Path, error: OSError) -> KvfsError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return KvfsError(f"{directory}: quotas are not yours to set", "ask whoever mounted, or root")
    return refused(directory, error)
