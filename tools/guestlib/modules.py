"""Which kernel modules to load, and in which order: each after what it depends on.

No depmod has run over the modules of a package that was only unpacked, so what modprobe would know is read from the
modules themselves: ``depends=`` and ``softdep=pre:`` in their .modinfo.
"""

import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guestlib.errors import GuestUnavailable

_INFO = re.compile(rb"(?:^|\0)(depends|softdep)=([^\0]*)")
_SUFFIX = re.compile(r"\.ko(\.\w+)?$")


@dataclass(frozen=True)
class Module:
    """``name``: with underscores, as /proc/modules has it. ``data``: the ELF file, uncompressed."""

    name: str
    data: bytes


class ModuleTree:
    """The modules of one kernel, below ``root`` (its lib/modules/RELEASE)."""

    def __init__(self, root: Path) -> None:
        self._files = {_plain(_SUFFIX.sub("", path.name)): path for path in (root / "kernel").rglob("*.ko*")}
        if not self._files:
            raise GuestUnavailable(f"{root}: expected kernel modules, found none", "remove it, to have it fetched anew")

    def in_load_order(self, wanted: Iterable[str]) -> list[Module]:
        """``wanted`` and what they need, what is needed first. A name without a module is built in, or not in this
        kernel.
        """
        done: dict[str, Module | None] = {}
        for name in wanted:
            self._add(_plain(name), done)
        # a dict keeps the order of insertion, but a place is taken before what it depends on is known: see _add
        return [module for module in done.values() if module is not None]

    def _add(self, name: str, done: dict[str, Module | None]) -> None:
        if name in done:
            return
        done[name] = None  # now, so that a circle ends
        path = self._files.get(name)
        if path is None:
            return
        data = _read(path)
        for needed in needs(data):
            self._add(_plain(needed), done)
        del done[name]
        done[name] = Module(name, data)


def needs(data: bytes) -> list[str]:
    """Names of modules that module ``data`` has to find loaded, in the order in which it says so."""
    found: list[str] = []
    for key, value in _INFO.findall(data):
        text = value.decode()
        if key == b"depends":
            found += [name for name in text.split(",") if name]
        elif text.startswith("pre:"):
            found += text.removeprefix("pre:").partition("post:")[0].split()
    return found


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".ko":
        return data
    if path.suffix == ".xz":
        return lzma.decompress(data)
    raise GuestUnavailable(
        f"{path}: expected a module as .ko or .ko.xz, found {path.suffix}", "choose another --kernel"
    )
