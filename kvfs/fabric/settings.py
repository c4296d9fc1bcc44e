"""Transport options of a store's connections, from several places: who wins, and what is refused.

The names, types and meanings are those of :class:`kvfs.fabric.nvme.ConnectOptions`, and ``host_traddr`` and
``host_iface`` of :class:`kvfs.fabric.nvme.Address`. Layers, the first that says
something wins::

    -o OPTION=VALUE                       the command line, fstab
    nvme+tcp://...?OPTION=VALUE           the store's URL
    [fabric.subsystem."NQN"]              the configuration file, for one subsystem
    [fabric]                              the configuration file, for all
    STORE_DEFAULTS                        of stores, where the kernel's own do not fit

Values are checked one by one where they are written, so that an error names the place.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from kvfs.errors import UsageError
from kvfs.fabric.nvme import Address, ConnectOptions
from kvfs.units import parse_duration

# s. While no path is there Linux keeps what is sent, by default until it gives the controller up after ten minutes, and
# whoever sent it cannot even exit before that. So what is sent comes back with an error in time, before a mount's
# --io-timeout is over; and the controller is never given up: the device would be gone for good, while a store that
# kvfs has connected is disconnected with its last user anyway.
STORE_DEFAULTS: Mapping[str, Any] = {"fast_io_fail_tmo": 15, "ctrl_loss_tmo": -1}

_OF_ADDRESS = ("host_traddr", "host_iface")
_TYPES = {
    **{field.name: field.type for field in msgspec.structs.fields(ConnectOptions)},
    **{field.name: field.type for field in msgspec.structs.fields(Address) if field.name in _OF_ADDRESS},
}
_SECONDS = ("_tmo", "_delay")  # ends of the names of options that are times
_FOR_EVER = -1  # seconds

OPTION_NAMES = tuple(_TYPES)


def fabric_option(name: str, value: object, where: str, directory: Path) -> Any:
    """What ``value``, text or a value of TOML, means for the option ``name``; ``where`` begins every error.

    Times are seconds, or have a unit as in 30s or 10m, or are -1 (for ever). Paths are relative to ``directory``.
    UsageError.
    """
    if name not in _TYPES:
        raise unknown_name(f"{where}: unknown transport option", name, OPTION_NAMES)
    kinds = _kinds(_TYPES[name])
    if name.endswith(_SECONDS) and isinstance(value, str) and value != str(_FOR_EVER):
        return _seconds(name, value, where)
    if name.endswith("_file"):
        if not isinstance(value, str) or not value:
            raise UsageError(f"{where}: {name}: expected the path of a file, found {_shown(value)}", "name a file")
        path = directory / value
        return path if Path in kinds else str(path)
    try:
        return msgspec.convert(value, _TYPES[name], strict=not isinstance(value, str))
    except msgspec.ValidationError:
        raise UsageError(
            f"{where}: {name}: expected {_described(kinds)}, found {_shown(value)}", f"as in {name}={_example(kinds)}"
        ) from None


class Chosen(msgspec.Struct, frozen=True):
    """What the layers come down to. ``origins``: by option, the name of the layer that it is from."""

    options: ConnectOptions
    host_traddr: str | None
    host_iface: str | None
    origins: dict[str, str]


def choose(layers: Mapping[str, Mapping[str, Any]]) -> Chosen:
    """``layers``: checked values, by the layers' names; the first one that has an option wins."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers.items():
        for name, value in layer.items():
            if name not in values:
                values[name], origins[name] = value, origin
    host_traddr, host_iface = (values.pop(name, None) for name in _OF_ADDRESS)
    return Chosen(ConnectOptions(**values), host_traddr, host_iface, origins)


def unknown_name(what: str, name: str, known: tuple[str, ...]) -> UsageError:
    """``what`` says what kind of thing is unknown, and where; the value that came with it may be a secret."""
    close = get_close_matches(name, known, n=1)
    return UsageError(f"{what} {name!r}", f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}")


def _seconds(name: str, value: str, where: str) -> int:
    try:
        return parse_duration(value)
    except UsageError as error:
        raise UsageError(
            f"{where}: {name}: {error.message}", "write seconds, or as in 30s or 10m; -1: for ever"
        ) from None


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that ``annotation`` allows, without None."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for kind in get_args(annotation) if kind is not type(None))
    return (annotation,)


def _described(kinds: tuple[Any, ...]) -> str:
    if bool in kinds:
        return "true or false"
    return "a number" if int in kinds or float in kinds else "text"


def _example(kinds: tuple[Any, ...]) -> str:
    return "true" if bool in kinds else "8" if int in kinds or float in kinds else "text"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
