"""``kvfsctl takeover``: make a store this host's that another host has, and fence that one."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console

from kvfs.cli.stores import opened_as_named
from kvfs.store import ownership, volume
from kvfs.store.hosts import this_host
from kvfs.store.ownership import Takeover


def take_over(store: str, force: str | None, config: Path | None) -> Takeover:
    """Says what it waits for, where somebody looks. Raises what ``ownership.take_over``, ``volume.info`` and
    ``opened_as_named`` raise."""
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    with opened_as_named(store, config) as found, console.status(f"taking {store} over") as status:
        volume.info(found.path)  # says what is wrong with a store that is none
        done = ownership.take_over(found.path, this_host(), force=force, tell=lambda text: status.update(text))
        return msgspec.structs.replace(done, path=store)


def print_takeover(found: Takeover) -> None:
    if found.fenced_by == "nothing":
        print(f"{found.path}: nothing to take over: it is free, or this host's already; mount it")
        return
    how = {
        "reservation": "its target refuses the old owner's writes",
        "record": "the old owner has said that it writes no more"
        if found.yielded
        else "the old owner gave no sign of life, and stops by itself should it come back",
    }[found.fenced_by]
    print(f"{found.path}: taken over from {found.previous}; {how}; mount it")
