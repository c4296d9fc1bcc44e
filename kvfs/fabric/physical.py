"""The space that is really there under a store, from wherever it can be learnt.

A store's second ledger (``native/store/physical.hpp``) is told what a source here has read. A source that knows
nothing, or nothing that limits the store, reads ``None``: then what the store was promised is what there is, ratio 1.0.

========================  ===========================================================================
``physical_file``         a store file: the space of the file system under its holes
``physical_nvme``         thin-provisioned NVMe namespaces (NSFEAT.THINP, NCAP, NUSE), NVM sets
``physical_scaleflux``    drives of ScaleFlux, which compress: admin command D3h, log pages C2h, CAh
``physical_agent``        what an agent on an NVMe-oF target publishes, with a time limit
========================  ===========================================================================
"""

import stat
from pathlib import Path
from typing import Protocol

import msgspec


class Reading(msgspec.Struct, frozen=True):
    """Bytes. ``rewrites_in_place``: what was written once keeps its space, so writing it again takes none."""

    total: int
    free: int
    rewrites_in_place: bool


class Source(Protocol):
    name: str  # for status: what it is, and of what

    def read(self) -> Reading | None:
        """As of now; may block. ``None``: nothing limits the store, or nothing is known. Raises OSError, ValueError."""


def choose_source(store: Path, published: Path | None = None) -> Source | None:
    """The best source for a store on this host. ``published``: an agent's file, which is then the only source.

    ``None`` when the device says nothing of the kind. Raises OSError when the store cannot be looked at.
    """
    from kvfs.fabric.physical_agent import PublishedSource
    from kvfs.fabric.physical_file import FileSource
    from kvfs.fabric.physical_nvme import ThinSource
    from kvfs.fabric.physical_scaleflux import ScaleFluxSource

    if published is not None:
        return PublishedSource(published)
    status = store.stat()
    if stat.S_ISREG(status.st_mode):
        return FileSource(store)
    return ScaleFluxSource.probe(store) or ThinSource.probe(store)
