"""The configuration file: TOML, for what does not belong on a command line.

::

    [mount]                    # defaults of the options of `kvfs mount`, by their names
    threads = 8
    warm_size = "64G"

    [fabric]                   # transport options of every connection (kvfs.fabric.nvme.ConnectOptions)
    ctrl_loss_tmo = "10m"

    [fabric.subsystem."nqn.2014-08.org.example:pages"]    # and of one subsystem's
    hostnqn = "nqn.2014-08.org.nvmexpress:uuid:..."
    dhchap_secret_file = "pages.key"                      # relative to this file

Everything is checked when it is loaded, used or not: a typo must not wait for the day when it counts.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kvfs.cli.settings import SETTING_NAMES, MountSettings, setting
from kvfs.errors import UsageError
from kvfs.fabric.settings import fabric_option, unknown_name
from kvfs.fabric.url import check_nqn

DEFAULT_PATH = Path("/etc/kvfs/kvfs.toml")


class Config(msgspec.Struct, frozen=True):
    """``path``: where it comes from, None: there is none. ``fabric``: checked transport options, of all subsystems;
    ``subsystems``: by NQN, what is said for one."""

    path: Path | None = None
    mount: MountSettings = MountSettings()
    fabric: dict[str, Any] = {}
    subsystems: dict[str, dict[str, Any]] = {}


def load_config(path: Path | None) -> Config:
    """Of ``path``, which has to be there, or of the default place, where there need be none. UsageError."""
    chosen = DEFAULT_PATH if path is None else path.absolute()
    try:
        text = chosen.read_bytes().decode()
    except FileNotFoundError:
        if path is None:
            return Config()
        raise UsageError(f"{path}: no such configuration file", "check the path") from None
    except OSError as error:
        raise UsageError(f"{chosen}: cannot be read: {error.strerror}", "--config names another") from error
    except UnicodeDecodeError:
        raise UsageError(f"{chosen}: expected TOML, found something that is not UTF-8", "check the path") from None
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{chosen}: expected TOML, found an error: {error}", "correct it") from error
    return _checked(content, chosen)


def _checked(content: dict[str, Any], path: Path) -> Config:
    for name in content:
        if name not in ("mount", "fabric"):
            raise unknown_name(f"{path}: unknown section", name, ("mount", "fabric"))
    mount = _table(content, "mount", f"{path}")
    for name in mount:
        if name not in SETTING_NAMES:
            raise unknown_name(f"{path}: [mount]: unknown setting", name, SETTING_NAMES)
    fabric = dict(_table(content, "fabric", f"{path}"))
    subsystems = _table(fabric, "subsystem", f"{path}: [fabric]")
    fabric.pop("subsystem", None)
    checked: dict[str, dict[str, Any]] = {}
    for nqn in subsystems:
        where = f'{path}: [fabric.subsystem."{nqn}"]'
        check_nqn(nqn, where)
        checked[nqn] = _options(_table(subsystems, nqn, f"{path}: [fabric.subsystem]"), where, path.parent)
    return Config(
        path=path,
        mount=MountSettings(
            **{name: setting(name, value, f"{path}: [mount]", path.parent) for name, value in mount.items()}
        ),
        fabric=_options(fabric, f"{path}: [fabric]", path.parent),
        subsystems=checked,
    )


def _table(content: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise UsageError(f"{where}: expected a table {name}, found {found!r}", f"write [{name}]")
    return found


def _options(content: Mapping[str, Any], where: str, directory: Path) -> dict[str, Any]:
    return {name: fabric_option(name, value, where, directory) for name, value in content.items()}


def toml_lines(values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterable[str]:
    """``name = value  # where that comes from``, for every value that is not None."""
    for name, value in values.items():
        if value is not None:
            origin = origins.get(name)
            yield f"{name} = {toml_value(value)}" + (f"  # {origin}" if origin else "")


def toml_value(value: object) -> str:
    """Of text, paths, numbers and truth values."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0") + "0"  # never with an exponent
    if isinstance(value, int):
        return str(value)
    # TOML's basic strings have JSON's escapes, but for DEL and for pairs of surrogates
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def config_text(config: Config) -> str:
    """``config`` in its normal form, which means the same when it is loaded."""
    lines = ["[mount]", *toml_lines(msgspec.structs.asdict(config.mount), {}), "", "[fabric]"]
    lines += toml_lines(config.fabric, {})
    for nqn, options in config.subsystems.items():
        lines += ["", f"[fabric.subsystem.{toml_value(nqn)}]", *toml_lines(options, {})]
    return "\n".join(lines)
