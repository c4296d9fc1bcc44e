"""Settings of a mount, from several places: the command line, ``-o``, the configuration file, what kvfs takes itself.

Each place fills in a :class:`MountSettings` as far as it says something; of each setting :func:`merge` takes the first.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from kvfs.errors import UsageError
from kvfs.units import parse_duration, parse_seconds, parse_size

_SWEEP_AFTER = 3600  # s: no client takes an hour to write a page
_MOST_THREADS = 256


class MountSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``None``: nothing said. Sizes in bytes, times in seconds; see ``kvfs.fs.options`` for what each one does.

    ``warm_size`` 0: no memory for warm pages.
    """

    size: int | None = None
    read_only: bool | None = None
    allow_other: bool | None = None
    log: Path | None = None
    data_path: Literal["native", "pyfuse3"] | None = None
    threads: int | None = None
    request_loop: Literal["clones", "uring", "auto"] | None = None
    passthrough: bool | None = None
    warm_size: int | None = None
    sweep_after: int | None = None
    io_timeout: float | None = None
    physical_space: Path | None = None
    on_full: Literal["evict", "enospc"] | None = None


DEFAULTS = MountSettings(
    read_only=False,
    data_path="native",
    threads=0,
    request_loop="auto",
    passthrough=True,
    sweep_after=_SWEEP_AFTER,
    io_timeout=30.0,
    on_full="evict",
)

SETTING_NAMES = MountSettings.__struct_fields__
_TYPES = {field.name: field.type for field in msgspec.structs.fields(MountSettings)}


def merge(layers: Mapping[str, MountSettings]) -> tuple[MountSettings, dict[str, str]]:
    """Of each setting what the first layer says that says something; and, by setting, the name of that layer."""
    found: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in SETTING_NAMES:
        for origin, layer in layers.items():
            value = getattr(layer, name)
            if value is not None:
                found[name], origins[name] = value, origin
                break
    return MountSettings(**found), origins


def parse_warm_size(text: str) -> int:
    """Bytes; ``0`` is allowed, for none."""
    return 0 if text.strip() == "0" else parse_size(text)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "size": parse_size,
    "warm_size": parse_warm_size,
    "sweep_after": parse_duration,
    "io_timeout": parse_seconds,
}
_FORMS = {
    "size": "a size, as in 64G",
    "warm_size": "a size, as in 16G, or 0",
    "sweep_after": "a time, as in 30m",
    "io_timeout": "a time, as in 30s",
    "threads": f"a number from 0 to {_MOST_THREADS}",
    "data_path": "native or pyfuse3",
    "request_loop": "clones, uring or auto",
    "on_full": "evict or enospc",
    "log": "the path of a file",
    "physical_space": "the path of a file",
}


def setting(name: str, value: object, where: str, directory: Path) -> Any:
    """What a value of the configuration file means for the setting ``name``, one of SETTING_NAMES.

    Sizes and times are numbers or text as on the command line; paths are relative to ``directory``. UsageError, which
    begins with ``where``.
    """
    wrong = UsageError(f"{where}: {name}: expected {_FORMS.get(name, 'true or false')}, found {value!r}", "correct it")
    if name in _PARSERS:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise wrong
        try:
            return _PARSERS[name](str(value))
        except UsageError:
            raise wrong from None
    if name in ("log", "physical_space"):
        if not isinstance(value, str) or not value:
            raise wrong
        return directory / value
    try:
        converted = msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError:
        raise wrong from None
    if name == "threads" and not 0 <= converted <= _MOST_THREADS:
        raise wrong
    return converted
