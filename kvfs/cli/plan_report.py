"""``kvfs mount --print-config``: what would be used, and where each part of it comes from."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kvfs.cli.config import toml_lines, toml_value
from kvfs.cli.plan import Plan
from kvfs.fabric.store import FabricPath, FabricStore


def describe(plan: Plan) -> dict[str, Any]:
    """For JSON. ``settings``: by name, the value and its origin; ``paths``: of a store on a fabric, with the transport
    options that are set."""
    request, settings, origins = plan
    store = request.store
    return {
        "store": str(store),
        "mountpoint": str(request.mountpoint),
        "settings": {
            name: {"value": _plain(value), "origin": origins[name]}
            for name, value in msgspec.structs.asdict(settings).items()
            if value is not None
        },
        "paths": [_path(path) for path in store.paths] if isinstance(store, FabricStore) else [],
    }


def plan_text(plan: Plan) -> str:
    """A configuration file that says all of it, with the origins as comments."""
    request, settings, origins = plan
    store = request.store
    lines = [f"# {store} on {request.mountpoint}", "[mount]"]
    lines += toml_lines(msgspec.structs.asdict(settings), origins)
    if isinstance(store, FabricStore):
        for number, path in enumerate(store.paths):
            lines += ["", f"# {path.url}", f"# nsid: {'the only one' if store.nsid is None else store.nsid}"]
            # a second table of the same name would not be TOML
            lines += [f"{'# ' if number else ''}{line}" for line in _section(store.nqn, path)]
    return "\n".join(lines)


def _section(nqn: str, path: FabricPath) -> list[str]:
    return [f"[fabric.subsystem.{toml_value(nqn)}]", *toml_lines(_options(path), path.origins)]


def _options(path: FabricPath) -> dict[str, Any]:
    """Those that somebody has set."""
    values: Mapping[str, Any] = {
        **msgspec.structs.asdict(path.options),
        "host_traddr": path.address.host_traddr,
        "host_iface": path.address.host_iface,
    }
    return {name: value for name, value in values.items() if name in path.origins}


def _path(path: FabricPath) -> dict[str, Any]:
    return {
        "url": path.url.text,
        "address": str(path.address),
        "nqn": path.url.nqn,
        "nsid": path.url.nsid,
        "options": {
            name: {"value": _plain(value), "origin": path.origins[name]} for name, value in _options(path).items()
        },
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
