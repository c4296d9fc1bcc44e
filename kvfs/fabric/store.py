"""A store that is a namespace on a fabric: the paths to it, and how each is to be connected."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvfs.errors import UsageError
from kvfs.fabric.nvme import Address, ConnectOptions
from kvfs.fabric.settings import STORE_DEFAULTS, choose, fabric_option
from kvfs.fabric.url import StoreUrl, parse_url, store_name


class FabricPath(msgspec.Struct, frozen=True):
    """``origins``: by option, where it comes from."""

    url: StoreUrl
    address: Address
    options: ConnectOptions
    origins: dict[str, str] = {}


class FabricStore(msgspec.Struct, frozen=True):
    """At least one path; all lead to the same namespace. ``nsid`` None: the only one of the subsystem."""

    paths: tuple[FabricPath, ...]
    nqn: str
    nsid: int | None

    def __str__(self) -> str:
        """What it is called in messages and in the mount table: its first URL."""
        return self.paths[0].url.text


def fabric_store(
    texts: Sequence[str],
    over: Mapping[str, Any],
    subsystems: Mapping[str, Mapping[str, Any]],
    everywhere: Mapping[str, Any],
    config: str,
) -> FabricStore:
    """From URLs. ``over``: options that win over theirs; ``subsystems`` (by NQN) and ``everywhere``: options that
    theirs win over, from the file named ``config``. UsageError, also when they do not lead to one namespace."""
    urls = [parse_url(text) for text in texts]
    for url in urls[1:]:
        if (url.nqn, url.nsid) != (urls[0].nqn, urls[0].nsid):
            raise UsageError(
                f"expected paths to one namespace, as a store has one as yet; found {_namespace(urls[0])} and "
                f"{_namespace(url)}",
                "name one, or several addresses of the same NQN and nsid",
            )
    paths: list[FabricPath] = []
    for url in urls:
        where = store_name(url.text)
        query = {name: fabric_option(name, value, where, Path.cwd()) for name, value in url.query}
        chosen = choose(
            {
                "-o": over,
                "URL": query,
                f'{config} [fabric.subsystem."{url.nqn}"]': subsystems.get(url.nqn, {}),
                f"{config} [fabric]": everywhere,
                "default": STORE_DEFAULTS,
            }
        )
        address = Address(
            url.transport,
            url.host,
            str(url.port),
            host_traddr=chosen.host_traddr,
            host_iface=chosen.host_iface,
        )
        if any(path.address == address for path in paths):
            raise UsageError(f"{where}: expected different paths, found this one twice", "name each address once")
        paths.append(FabricPath(url, address, chosen.options, chosen.origins))
    return FabricStore(tuple(paths), urls[0].nqn, urls[0].nsid)


def _namespace(url: StoreUrl) -> str:
    return f"{url.nqn} {'(its only namespace)' if url.nsid is None else f'nsid {url.nsid}'}"
