"""From what somebody wrote (command line, ``-o``, configuration file) to what a mount is to be."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from kvfs import paths
from kvfs.cli.config import Config
from kvfs.cli.mounts import resolve_mountpoint
from kvfs.cli.options import FstabOptions
from kvfs.cli.settings import DEFAULTS, MountSettings, merge
from kvfs.cli.stores import Store, find_store

if TYPE_CHECKING:
    from kvfs.fs.options import DataPath, OnFull, RequestLoop  # at run time the daemon imports kvfs.fs, after its fork

_Value = TypeVar("_Value")


def _given(value: _Value | None) -> _Value:
    """A setting that has a default."""
    assert value is not None
    return value


@dataclass(frozen=True)
class NativeOptions:
    """Of the native data path, and whether it is taken at all; see ``kvfs.fs.options``."""

    data_path: "DataPath" = "native"
    threads: int = 0
    request_loop: "RequestLoop" = "auto"
    passthrough: bool = True
    warm_bytes: int | None = None


@dataclass(frozen=True)
class DeviceOptions:
    """Of the store's device; see ``kvfs.fs.options``."""

    io_timeout: float = 30.0
    inject_faults: bool = False
    physical_space: Path | None = None


@dataclass(frozen=True)
class MountRequest:
    """Absolute paths, symlinks resolved. ``size`` in bytes: of a store to be made, or what an existing one has to be.

    ``log`` None: standard error. ``sweep_after``: as in ``kvfs.fs.options``.
    """

    store: Store
    mountpoint: Path
    size: int | None
    read_only: bool
    allow_other: bool
    log: Path | None
    extra: tuple[str, ...] = ()
    on_full: "OnFull" = "evict"
    native: NativeOptions = NativeOptions()
    sweep_after: int = _given(DEFAULTS.sweep_after)
    device: DeviceOptions = DeviceOptions()


class Plan(NamedTuple):
    """``origins``: by setting, the place that it comes from."""

    request: MountRequest
    settings: MountSettings
    origins: dict[str, str]


def plan(
    names: Sequence[str],
    fstab: FstabOptions,
    given: MountSettings | None = None,
    *,
    config: Config | None = None,
    foreground: bool = False,
    inject_faults: bool = False,
) -> Plan:
    """``names``: ``[STORE ...] MOUNTPOINT``. What was ``given`` on the command line wins over ``-o``, and that over
    ``config``. Raises UsageError."""
    *stores, mountpoint = names
    config = config or Config()
    target = paths.require_text(resolve_mountpoint(Path(mountpoint)))
    settings, origins = merge(
        {
            "command line": given or MountSettings(),
            "-o": fstab.settings,
            str(config.path): config.mount,
            "default": DEFAULTS,
            "default for this user": MountSettings(allow_other=os.geteuid() == 0),
            "default here": MountSettings(log=None if foreground else paths.default_log(target)),
        }
    )
    request = MountRequest(
        store=find_store(stores, config, fstab.fabric),
        mountpoint=target,
        size=settings.size,
        read_only=_given(settings.read_only),
        allow_other=_given(settings.allow_other),
        log=settings.log and settings.log.absolute(),
        extra=fstab.extra,
        on_full=_given(settings.on_full),
        native=NativeOptions(
            data_path=_given(settings.data_path),
            threads=_given(settings.threads),
            request_loop=_given(settings.request_loop),
            passthrough=_given(settings.passthrough),
            warm_bytes=settings.warm_size,
        ),
        sweep_after=_given(settings.sweep_after),
        device=DeviceOptions(
            io_timeout=_given(settings.io_timeout),
            inject_faults=inject_faults,
            physical_space=settings.physical_space and settings.physical_space.absolute(),
        ),
    )
    return Plan(request, settings, origins)
