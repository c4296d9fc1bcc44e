"""What a command takes as STORE: the path of a file or a device, or the URL of a namespace on a fabric."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kvfs import paths
from kvfs.cli.config import Config, load_config
from kvfs.errors import KvfsError, UsageError
from kvfs.fabric.store import FabricStore, fabric_store
from kvfs.fabric.url import is_url

Store = Path | FabricStore


class OpenStore(NamedTuple):
    """``path``: to open now; ``name``: what it is called, a URL when it was given as one."""

    path: Path
    name: str
    components: Mapping[str, Callable[[], Any]]  # of `.kvfs/stats`


def find_store(names: Sequence[str], config: Config, fabric_options: Mapping[str, Any]) -> Store:
    """Of a mount: none, a path, or the URLs of one namespace. ``fabric_options`` win over those of the URLs and of
    ``config``. Paths are made absolute, symlinks followed. UsageError."""
    if not names:
        return paths.default_store()
    if all(map(is_url, names)):
        return fabric_store(names, fabric_options, config.subsystems, config.fabric, str(config.path))
    if len(names) > 1:
        raise UsageError(
            f"expected one store, found {len(names)}: {', '.join(names)}",
            "a store has one namespace as yet; several URLs may be several paths to it",
        )
    if fabric_options:
        raise UsageError(
            f"{names[0]}: expected a URL together with {', '.join(fabric_options)}, found a path", "leave them out"
        )
    return paths.require_text(Path(os.path.realpath(names[0])))


@contextmanager
def opened(store: Store, mountpoint: Path | None = None) -> Iterator[OpenStore]:
    """``store`` as a path, connected if need be and disconnected in the end. Errors speak of it by its own name.

    A FabricError, UsageError; for a path, nothing.
    """
    if isinstance(store, Path):
        yield OpenStore(store, stable_name(store), {})
        return
    from kvfs.fabric.attach import attached

    with attached(store, mountpoint) as found:
        name = str(store)
        with _renamed(found.path, name):
            yield OpenStore(found.path, name, {"fabric": found.statistics})


def disconnect_left() -> list[str]:
    """What mounts and commands have connected and not disconnected, as they were killed, is; a line for each."""
    from kvfs.fabric.connections import Ledger

    return Ledger().sweep() if os.geteuid() == 0 else []


def stable_name(path: Path) -> str:
    """Of an NVMe namespace, its by-id name, which does not change when it is found as another ``/dev/nvmeXnY``."""
    from kvfs.fabric.nvme import list_namespaces

    if path.parent == Path("/dev") and path.name.startswith("nvme"):
        for namespace in list_namespaces():
            if namespace.path == path and namespace.by_id is not None:
                return str(namespace.by_id)
    return str(path)


@contextmanager
def opened_as_named(name: str, config: Path | None) -> Iterator[OpenStore]:
    """STORE of a command; ``config``: the file whose transport options are taken. As :func:`opened`; paths as given."""
    if is_url(name):
        with opened(find_store([name], load_config(config), {})) as found:
            yield found
    else:
        yield OpenStore(paths.require_text(Path(name)), name, {})


@contextmanager
def _renamed(path: Path, name: str) -> Iterator[None]:
    """What errors say of ``path`` they say of ``name``: the device is called otherwise the next time."""
    try:
        yield
    except KvfsError as error:
        pattern = re.compile(rf"{re.escape(str(path))}(?![\w/])")
        message, hint = (pattern.sub(lambda _: name, text) for text in (error.message, error.hint))
        if (message, hint) == (error.message, error.hint):
            raise
        raise type(error)(message, hint) from error
