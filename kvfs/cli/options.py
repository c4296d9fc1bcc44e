"""Mount options in the style of fstab: ``-o ro,size=64G,nofail,...``."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from kvfs.cli.settings import MountSettings
from kvfs.errors import UsageError
from kvfs.fabric.settings import OPTION_NAMES, fabric_option
from kvfs.units import parse_duration, parse_size

# flags of the kernel's own that libfuse passes on for any file system
_KERNEL_FLAGS = {"nosuid", "nodev", "noexec", "exec", "noatime", "sync", "dirsync"}
# for mount(8), fstab's readers and systemd, or what kvfs does anyway (it always has default_permissions)
_IGNORED = {
    *("defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group"),
    *("async", "atime", "relatime", "norelatime", "strictatime", "nostrictatime", "nodiratime", "diratime"),
    *("lazytime", "nolazytime", "default_permissions", "comment"),
}
# pages need neither, and what a tenant left in a store must not become a way to another's rights
_NEVER = {"suid", "dev"}
_FLAGS = {"ro", "rw", "allow_other", "noallow_other"}
_VALUES = {"size", "log", "sweep_after", "on_full", "config"}
_ON_FULL: tuple[Literal["evict", "enospc"], ...] = ("evict", "enospc")


@dataclass(frozen=True)
class FstabOptions:
    """What ``-o`` asked for. ``fabric``: checked transport options; ``extra`` goes to libfuse as it is; ``config``:
    the configuration file."""

    settings: MountSettings = field(default_factory=MountSettings)
    fabric: dict[str, Any] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    config: Path | None = None


def parse_options(texts: Iterable[str], *, sloppy: bool = False) -> FstabOptions:
    """``texts``: the arguments of every ``-o``. A later option overrides an earlier one, as with mount(8).

    Transport options of a store on a fabric (``ctrl_loss_tmo=60``) win over those in its URL.

    UsageError for an option that is unknown (unless ``sloppy``), lacks its value or has one too many.
    """
    read_only: bool | None = None
    allow_other: bool | None = None
    values: dict[str, str] = {}
    fabric: dict[str, Any] = {}
    extra: list[str] = []
    for option in (part for text in texts for part in text.split(",") if part):
        name, equals, value = option.partition("=")
        if name.startswith(("x-", "X-")) or name in _IGNORED:
            continue
        if name == "remount":
            raise UsageError("option remount is not supported", "unmount, then mount with the new options")
        if name in _NEVER:
            raise UsageError(f"mount option {name} is not supported", "kvfs mounts are always nosuid and nodev")
        if name in _VALUES or name in OPTION_NAMES:
            if not value:
                raise UsageError(f"mount option {name} needs a value", f"write {name}=...")
            if name in _VALUES:
                values[name] = value
            else:
                fabric[name] = fabric_option(name, value, "mount option", Path.cwd())
        elif name not in _FLAGS and name not in _KERNEL_FLAGS:
            if not sloppy:
                raise _unknown(name)
        elif equals:
            raise UsageError(f"mount option {name} takes no value, found {option!r}", f"write {name}")
        elif name in _KERNEL_FLAGS:
            extra.append(name)
        elif name in ("ro", "rw"):
            read_only = name == "ro"
        else:
            allow_other = name == "allow_other"
    return FstabOptions(
        MountSettings(
            read_only=read_only,
            allow_other=allow_other,
            size=parse_size(values["size"]) if "size" in values else None,
            log=Path(values["log"]) if "log" in values else None,
            sweep_after=parse_duration(values["sweep_after"]) if "sweep_after" in values else None,
            on_full=_on_full(values["on_full"]) if "on_full" in values else None,
        ),
        fabric,
        tuple(extra),
        Path(values["config"]) if "config" in values else None,
    )


def _on_full(value: str) -> Literal["evict", "enospc"]:
    for known in _ON_FULL:
        if value == known:
            return known
    raise UsageError(f"mount option on_full: expected {' or '.join(_ON_FULL)}, found {value!r}", "write on_full=evict")


def _unknown(name: str) -> UsageError:
    known = sorted({*_FLAGS, *_VALUES, *_KERNEL_FLAGS, *_IGNORED, *OPTION_NAMES})
    close = get_close_matches(name, known, n=1)
    advice = f"did you mean {close[0]}?" if close else "known: " + ", ".join(sorted(_FLAGS | _VALUES)) + ", fstab's own"
    return UsageError(f"unknown mount option {name!r}", advice)
